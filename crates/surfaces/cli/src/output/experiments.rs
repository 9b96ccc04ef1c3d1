//! `muster ls`.

use rest::wire::{ExperimentList, ExperimentSummary};

use super::amounts::{ago, span};
use super::look::Look;
use super::sheet::{Sheet, cell, word};

/// Longest name that is shown whole.
const NAME_CHARACTERS: usize = 24;
/// Nodes of one experiment that are named; the rest is counted.
const MAX_NAMED_NODES: usize = 3;
/// A terminal of fewer columns does not show who and what it needs.
const WIDE_COLUMNS: u16 = 120;
/// Columns that only a wide terminal shows: user and needs.
const WIDE_ONLY: [usize; 2] = [4, 7];

/// The table of experiments.
pub(crate) fn experiments(list: &ExperimentList, look: &Look) -> String {
    if list.experiments.is_empty() {
        return "no experiments (those that ended are shown by --all)\n".to_owned();
    }
    let heads = [
        "ID",
        "NAME",
        "STATE",
        "NODE",
        "USER",
        "SUBMITTED",
        "RAN",
        "NEEDS",
        "WHY",
    ];
    let mut sheet = Sheet::new(&heads, look);
    for experiment in &list.experiments {
        sheet.short_row(vec![
            cell(&experiment.id),
            cell(shortened(&experiment.name)),
            word(&experiment.state),
            cell(nodes(experiment)),
            cell(&experiment.user),
            cell(ago(look.now_ms, experiment.submitted_at)),
            cell(ran(experiment, look)),
            cell(&experiment.resources),
            cell(&experiment.reason),
        ]);
    }
    match look.width {
        Some(width) if width < WIDE_COLUMNS => sheet.squeeze(&WIDE_ONLY),
        _ => sheet.squeeze(&[]),
    }
    let mut text = sheet.text();
    if list.more > 0 {
        text.push_str(&format!("and {} more: --limit shows them\n", list.more));
    }
    text
}

/// The node, or a few of several by name.
fn nodes(experiment: &ExperimentSummary) -> String {
    let names = experiment.nodes.iter().map(|node| node.name.as_str());
    let named: Vec<_> = names.clone().take(MAX_NAMED_NODES).collect();
    match names.len().saturating_sub(named.len()) {
        _ if named.is_empty() => "-".to_owned(),
        0 => named.join(","),
        more => format!("{} +{more}", named.join(",")),
    }
}

/// A name that leaves room for the rest.
fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_CHARACTERS {
        return name.to_owned();
    }
    let start: String = name.chars().take(NAME_CHARACTERS - 1).collect();
    format!("{start}…")
}

/// How long its last process has run.
fn ran(experiment: &ExperimentSummary, look: &Look) -> String {
    match experiment.started_at {
        None => "-".to_owned(),
        Some(started) => {
            let end = experiment.ended_at.unwrap_or(look.now_ms);
            span(end.saturating_sub(started))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rest::wire::NodeRefView;

    fn node(name: &str) -> NodeRefView {
        NodeRefView {
            id: "12D3KooW".into(),
            name: name.into(),
        }
    }

    pub(crate) fn summary(id: &str, state: &str) -> ExperimentSummary {
        let node = (state == "running").then(|| node("n2"));
        ExperimentSummary {
            id: id.into(),
            name: "digits".into(),
            state: state.into(),
            user: "ana".into(),
            group: None,
            queue: "default".into(),
            nodes: node.iter().cloned().collect(),
            node,
            submitted_at: 1_000_000,
            started_at: (state == "running").then_some(1_010_000),
            ended_at: None,
            attempts: 1,
            reason: "needs 8 cpus, 4 are free".into(),
            resources: "1 cpus, 1 GiB memory".into(),
        }
    }

    #[test]
    fn experiments_are_a_plain_table() {
        let mut hostile = summary("9z8y7x6w", "queued");
        hostile.name = "a\u{1b}[31mb".into();
        let list = ExperimentList {
            experiments: vec![summary("0a1b2c3d", "running"), hostile],
            more: 3,
        };
        let text = experiments(&list, &Look::plain_at(1_200_000));
        let expected = "\
ID        NAME     STATE    NODE  USER  SUBMITTED  RAN         NEEDS                 WHY
0a1b2c3d  digits   running  n2    ana   3 min ago  3 min 10 s  1 cpus, 1 GiB memory  needs 8 cpus, 4 are free
9z8y7x6w  a\u{fffd}[31mb  queued   -     ana   3 min ago  -           1 cpus, 1 GiB memory  needs 8 cpus, 4 are free
and 3 more: --limit shows them
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn some_nodes_of_a_gang_are_named_and_all_are_counted() {
        let mut gang = summary("0a1b2c3d", "running");
        gang.nodes = ["n2", "n1", "n4"].map(node).to_vec();
        assert_eq!(nodes(&gang), "n2,n1,n4");
        gang.nodes.extend(["n3", "n5"].map(node));
        assert_eq!(nodes(&gang), "n2,n1,n4 +2");
        assert_eq!(nodes(&summary("9z8y7x6w", "queued")), "-");
    }

    #[test]
    fn colour_is_there_only_when_wanted() {
        let list = ExperimentList {
            experiments: vec![summary("0a1b2c3d", "running")],
            more: 0,
        };
        let mut look = Look::plain_at(0);
        assert!(!experiments(&list, &look).contains('\u{1b}'));
        look.color = true;
        assert!(experiments(&list, &look).contains('\u{1b}'));
    }

    #[test]
    fn a_narrow_terminal_shows_one_line_each_and_cuts_it_short() {
        let mut long = summary("0a1b2c3d", "running");
        long.name = "for i in 1 2 3; do echo $i; done".into();
        long.reason = "needs 8 cpus, has 2 of 4 free on each of the twelve nodes".into();
        let list = ExperimentList {
            experiments: vec![long, summary("9z8y7x6w", "queued")],
            more: 0,
        };
        let look = Look {
            width: Some(90),
            ..Look::plain_at(1_200_000)
        };
        let text = experiments(&list, &look);
        let expected = "\
ID        NAME                      STATE    NODE  SUBMITTED  RAN         WHY
0a1b2c3d  for i in 1 2 3; do echo…  running  n2    3 min ago  3 min 10 s  needs 8 cpus,…
9z8y7x6w  digits                    queued   -     3 min ago  -           needs 8 cpus,…
";
        assert_eq!(text, expected, "\n{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 90));
    }
}
