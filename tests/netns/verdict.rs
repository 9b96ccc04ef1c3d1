//! After the faults: everything comes to its end, and then everything that was done and seen must be right.

use std::time::Duration;

use service::view::{ExperimentDetail, ExperimentSummary};

use crate::harness::{Node, wait_until};
use crate::history::{self, Story, Tally};
use crate::lab::{NetLab, say, test_name};

/// By then everything has come to its end: leases, elections, and a loaded machine.
const SETTLING: Duration = Duration::from_secs(120);

/// Waits until nothing runs any more, checks, and counts.
///
/// # Panics
/// Something is wrong, or does not end.
pub(crate) fn pass(
    lab: &NetLab,
    nodes: &[Node],
    stories: &[Story],
    surprises: Vec<String>,
) -> Tally {
    wait_until(SETTLING, "everything that runs has come to its end", || {
        let list = history::everything(&nodes[0])?;
        let jobs = list.iter().filter(|one| one.name.starts_with("job"));
        let left: Vec<_> = jobs.filter(|one| !history::is_over(&one.state)).collect();
        left.is_empty().then_some(())
    });
    let list_of = |node| wait_until(SETTLING, "every node answers", || history::everything(node));
    let lists: Vec<_> = nodes.iter().map(|node| (node, list_of(node))).collect();
    let mut wrong = surprises;
    wrong.extend(history::violations(stories, &lists, lab.shared()));
    for (at, story) in stories.iter().enumerate() {
        let listed = lists[0].1.iter().find(|one| one.name == story.name);
        if let (Some(listed), Some(beats)) = (listed, story.beats) {
            wrong.extend(wrong_output(&nodes[at % nodes.len()], listed, beats));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} violations:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let tally = history::tally(stories, lab.shared());
    say(&format!("{}: {tally}, 0 violations", test_name()));
    tally
}

/// What a node shows of an experiment that finished: all lines of its last attempt, once each and in order.
fn wrong_output(node: &Node, listed: &ExperimentSummary, beats: u32) -> Option<String> {
    if listed.state != "finished" {
        // Only a person's stop may end it otherwise: machines may be lost as often as they like.
        return (listed.state == "failed").then(|| {
            let detail: ExperimentDetail = node.show(&listed.id);
            format!("{} has failed: {detail:?}", listed.name)
        });
    }
    let expected: String = (1..=beats).map(|line| format!("{line}\n")).collect();
    let last = listed.attempts.to_string();
    let shown = node.muster(&["logs", &listed.id, "--attempt", &last]);
    (shown.out != expected).then(|| {
        let name = &listed.name;
        let detail = node.muster(&["show", &listed.id, "--json"]).out;
        format!(
            "{name} printed 1 to {beats}, and {} shows of attempt {last} {shown:?}; {detail}",
            node.name
        )
    })
}
