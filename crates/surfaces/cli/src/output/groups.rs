//! Groups of experiments: `muster ls --groups`, and the table of one.

use std::collections::BTreeSet;

use rest::wire::{GroupMemberView, GroupSummary, GroupView, StateCount};

use super::amounts::{ago, plain, span};
use super::look::Look;
use super::sheet::{Sheet, cell, word};

/// Metrics that are shown unless others are asked for: the first by name.
const METRICS: usize = 4;
/// Digits of a metric: more would hide the difference between rows.
const DIGITS: usize = 6;

/// The table of groups.
pub(crate) fn groups(groups: &Vec<GroupSummary>, look: &Look) -> String {
    if groups.is_empty() {
        return "no groups (`muster run --sweep` makes one)\n".to_owned();
    }
    let heads = ["ID", "NAME", "USER", "SUBMITTED", "EXPERIMENTS", "SWEEP"];
    let mut sheet = Sheet::new(&heads, look);
    for group in groups {
        sheet.short_row(vec![
            cell(&group.id),
            cell(&group.name),
            cell(&group.user),
            cell(ago(look.now_ms, group.submitted_at)),
            cell(counts(&group.states)),
            cell(&group.sweep),
        ]);
    }
    sheet.squeeze(&[]);
    sheet.text()
}

/// A line about a group that was asked to stop.
pub(crate) fn stopped_group(group: &GroupSummary) -> String {
    let (id, name) = (plain(&group.id), plain(&group.name));
    format!("{id}  {name}  {}", plain(&counts(&group.states)))
}

/// The table of one group: parameters, state, and the last value of each metric, or of those in `wanted`.
pub(crate) fn group_page(group: &GroupView, wanted: &[String], look: &Look) -> String {
    let summary = &group.summary;
    let mut text = format!(
        "{}  {}\n  {}\n  {}; submitted {} by {}\n\n",
        look.bold(&plain(&summary.name)),
        plain(&summary.id),
        plain(&summary.sweep),
        plain(&counts(&summary.states)),
        ago(look.now_ms, summary.submitted_at),
        plain(&summary.user)
    );
    let names: BTreeSet<&str> = group
        .experiments
        .iter()
        .flat_map(|one| &one.metrics)
        .map(|metric| metric.name.as_str())
        .collect();
    let metrics: Vec<&str> = match wanted {
        [] => names.iter().copied().take(METRICS).collect(),
        wanted => wanted.iter().map(String::as_str).collect(),
    };
    let first = group
        .experiments
        .iter()
        .max_by_key(|one| one.parameters.len());
    let parameters: Vec<&str> = first
        .into_iter()
        .flat_map(|one| one.parameters.iter().map(|(name, _)| name.as_str()))
        .collect();
    let shown: Vec<String> = [&parameters[..], &metrics[..]]
        .concat()
        .into_iter()
        .map(plain)
        .collect();
    let mut heads = vec!["#", "ID", "STATE"];
    heads.extend(shown.iter().map(String::as_str));
    heads.extend(["STEP", "NODE", "RAN", "WHY"]);
    let mut sheet = Sheet::new(&heads, look);
    for one in &group.experiments {
        sheet.short_row(row(one, &parameters, &metrics, look));
    }
    sheet.squeeze(&[]);
    text.push_str(&sheet.text());
    let hidden: Vec<&str> = names
        .into_iter()
        .filter(|name| !metrics.contains(name))
        .collect();
    if !hidden.is_empty() {
        let hidden = plain(&hidden.join(", "));
        text.push_str(&format!(
            "\nother metrics, shown by --metric NAME: {hidden}\n"
        ));
    }
    text
}

fn row(
    one: &GroupMemberView,
    parameters: &[&str],
    metrics: &[&str],
    look: &Look,
) -> Vec<comfy_table::Cell> {
    let mut cells = vec![
        cell(one.number.to_string()),
        cell(&one.id),
        word(&one.state),
    ];
    for name in parameters {
        let value = one.parameters.iter().find(|(known, _)| known == name);
        cells.push(cell(value.map_or("-", |(_, value)| value)));
    }
    let found = |name: &&str| one.metrics.iter().find(|metric| metric.name == **name);
    for name in metrics {
        cells.push(cell(
            found(name).map_or("-".to_owned(), |metric| number(metric.value)),
        ));
    }
    let steps = one.metrics.iter().map(|metric| metric.step);
    cells.push(cell(
        steps.max().map_or("-".to_owned(), |step| step.to_string()),
    ));
    cells.push(cell(one.node.as_ref().map_or("-", |node| &node.name)));
    let ran = one.started_at.map(|started| {
        let end = one.ended_at.unwrap_or(look.now_ms);
        span(end.saturating_sub(started))
    });
    cells.push(cell(ran.unwrap_or_else(|| "-".to_owned())));
    let why = match one.state.as_str() {
        "failed" | "stopped" | "archived" => &one.reason,
        _ => &one.metrics_unknown,
    };
    cells.push(cell(why));
    cells
}

/// `2 running, 14 finished`.
fn counts(states: &[StateCount]) -> String {
    let counts: Vec<String> = states
        .iter()
        .map(|state| format!("{} {}", state.count, state.state))
        .collect();
    counts.join(", ")
}

/// With few digits: `0.25`, `1.23457e-7`.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let short = format!("{value:.*e}", DIGITS - 1)
        .parse::<f64>()
        .unwrap_or(value);
    match short.abs() {
        0.0 => "0".to_owned(),
        1e-4..1e15 => short.to_string(),
        _ => format!("{short:e}"),
    }
}

#[cfg(test)]
mod tests {
    use rest::wire::{MetricView, NodeRefView};

    use super::*;

    fn metric(name: &str, step: i64, value: f64) -> MetricView {
        MetricView {
            name: name.into(),
            step,
            value,
        }
    }

    fn member(number: u64, state: &str, lr: &str, metrics: Vec<MetricView>) -> GroupMemberView {
        GroupMemberView {
            number,
            id: format!("0a1b2c3{number}"),
            state: state.into(),
            reason: "exit code 3".into(),
            node: (state != "queued").then(|| NodeRefView {
                id: "12D3KooW".into(),
                name: "n2".into(),
            }),
            parameters: vec![("lr".into(), lr.into()), ("bs".into(), "32".into())],
            started_at: (state != "queued").then_some(1_010_000),
            ended_at: (state == "failed").then_some(1_070_000),
            metrics,
            metrics_unknown: String::new(),
        }
    }

    fn group() -> GroupView {
        let state = |state: &str| StateCount {
            state: state.into(),
            count: 1,
        };
        GroupView {
            summary: GroupSummary {
                id: "g-0a1b2c3d".into(),
                name: "digits".into(),
                sweep: "lr=0.1,0.01,1 bs=32".into(),
                user: "ana".into(),
                submitted_at: 1_000_000,
                states: vec![state("queued"), state("running"), state("failed")],
            },
            experiments: vec![
                member(
                    1,
                    "running",
                    "0.1",
                    vec![
                        metric("accuracy", 20, 0.912_345_678),
                        metric("loss", 20, 1.5e-7),
                    ],
                ),
                member(2, "queued", "0.01", vec![]),
                member(3, "failed", "1", vec![metric("loss", 7, f64::NAN)]),
            ],
        }
    }

    #[test]
    fn a_group_is_a_table_of_parameters_states_and_metrics() {
        let text = group_page(&group(), &[], &Look::plain_at(1_200_000));
        let expected = "\
digits  g-0a1b2c3d
  lr=0.1,0.01,1 bs=32
  1 queued, 1 running, 1 failed; submitted 3 min ago by ana

#  ID        STATE    lr    bs  accuracy  loss    STEP  NODE  RAN         WHY
1  0a1b2c31  running  0.1   32  0.912346  1.5e-7  20    n2    3 min 10 s
2  0a1b2c32  queued   0.01  32  -         -       -     -     -
3  0a1b2c33  failed   1     32  -         NaN     7     n2    1 min 0 s   exit code 3
";
        assert_eq!(text, expected, "\n{text}");
        let text = group_page(&group(), &["loss".into()], &Look::plain_at(1_200_000));
        assert!(!text.contains("0.912346"), "{text}");
        assert!(
            text.ends_with("other metrics, shown by --metric NAME: accuracy\n"),
            "{text}"
        );
    }

    #[test]
    fn groups_are_a_list() {
        let text = groups(&vec![group().summary], &Look::plain_at(1_200_000));
        let expected = "\
ID          NAME    USER  SUBMITTED  EXPERIMENTS                    SWEEP
g-0a1b2c3d  digits  ana   3 min ago  1 queued, 1 running, 1 failed  lr=0.1,0.01,1 bs=32
";
        assert_eq!(text, expected, "\n{text}");
        assert!(groups(&Vec::new(), &Look::plain_at(0)).contains("--sweep"));
    }
}
