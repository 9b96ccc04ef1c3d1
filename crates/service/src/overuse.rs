//! Over-use of GPU memory in words: of whoever takes more than was given, and of whom that puts at risk.

use state_machine::{Attempt, ClusterState, RankRecord, VramOveruse};
use types::{AttemptToken, GpuIndex, NodeId, Timestamp};

use crate::experiment_views::node_ref;
use crate::handle::now;

/// What a person should know of an attempt: what it takes, and what its neighbours take.
pub(crate) fn of_attempt(state: &ClusterState, attempt: &Attempt) -> Vec<String> {
    let now = now();
    let own = attempt.overuses();
    let mut warnings: Vec<_> = own
        .map(|(rank, overuse)| own_words(state, attempt, (rank, overuse), now))
        .collect();
    if attempt.end.is_some() {
        return warnings;
    }
    for rank in &attempt.ranks {
        let placement = &rank.placement;
        for share in &placement.resources.gpus {
            for (token, overuse) in on_gpu(state, &placement.node, share.index) {
                if token != attempt.token {
                    let figures = figures(state, &placement.node, &overuse, now);
                    warnings.push(format!(
                        "its neighbour {token} holds {figures}: this one may run out of GPU memory"
                    ));
                }
            }
        }
    }
    warnings
}

/// Who takes too much of a GPU now, in words.
pub(crate) fn of_gpu(state: &ClusterState, node: &NodeId, gpu: GpuIndex) -> Vec<String> {
    let now = now();
    let words = |(token, overuse): (AttemptToken, VramOveruse)| {
        format!("{token} holds {}", figures(state, node, &overuse, now))
    };
    on_gpu(state, node, gpu).into_iter().map(words).collect()
}

fn own_words(
    state: &ClusterState,
    attempt: &Attempt,
    (rank, overuse): (&RankRecord, &VramOveruse),
    now: Timestamp,
) -> String {
    let node = &rank.placement.node;
    let end = attempt.end.as_ref().map(|end| end.at);
    match overuse.until.or(end) {
        Some(until) => {
            let figures = figures(state, node, overuse, until);
            let then = match overuse.until {
                Some(_) => "it keeps to that again",
                None => "it ended so",
            };
            format!("held up to {figures}; {then}")
        }
        None => {
            let figures = figures(state, node, overuse, now);
            let then = match overuse.is_stopped {
                true => "it is being ended for that",
                false => {
                    "others there may run out of GPU memory; ask for more with --vram or --gpus"
                }
            };
            format!("holds {figures}: {then}")
        }
    }
}

/// `30 GiB of GPU 0 and was given 12 GiB (on gpu1, for 3 min 20 s)`.
fn figures(state: &ClusterState, node: &NodeId, overuse: &VramOveruse, at: Timestamp) -> String {
    let name = node_ref(state, node).name;
    let time = at.since(overuse.since);
    format!("{} (on {name}, for {time})", overuse.figures())
}

/// The attempts that hold too much of a GPU now.
fn on_gpu(state: &ClusterState, node: &NodeId, gpu: GpuIndex) -> Vec<(AttemptToken, VramOveruse)> {
    let mut found = Vec::new();
    for token in &state.booking(node).attempts {
        let experiment = state.experiment(token.experiment);
        let Some(attempt) = experiment.and_then(|one| one.current_attempt()) else {
            continue;
        };
        let here = attempt.overuses().filter(|(rank, overuse)| {
            rank.placement.node == *node && overuse.gpu == gpu && overuse.until.is_none()
        });
        found.extend(here.map(|(_, overuse)| (*token, overuse.clone())));
    }
    found
}
