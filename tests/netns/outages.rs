//! Losses of whole machines, of all at once, and of a voter for long, under load.

use std::time::Duration;

use crate::harness::{Node, PATIENCE, wait_until};
use crate::lab::{NetLab, leader_seen_by, seen_by, split_leader, stay, wait_whole};
use crate::load::under_load;

/// How long the cluster works between two outages.
const LIFE: Duration = Duration::from_secs(3);
/// By then a voter that is away was replaced: its set time, and a loaded machine.
const REPLACEMENT: Duration = Duration::from_secs(120);

/// SIGKILL for all nodes and all that they run, at the same moment.
pub(crate) fn kill_all(nodes: &[Node]) {
    std::thread::scope(|scope| {
        for node in nodes {
            scope.spawn(|| node.kill_machine());
        }
    });
}

/// Starts all at the same moment.
pub(crate) fn start_all(nodes: &[Node]) {
    for node in nodes {
        node.spawn(&[]);
    }
    for node in nodes {
        node.wait_up();
    }
}

#[test]
fn all_machines_die_at_once_and_nothing_acknowledged_is_lost() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    under_load(&lab, &nodes, 21, || {
        for _ in 0..3 {
            kill_all(&nodes);
            start_all(&nodes);
            split_leader(&nodes);
            stay(LIFE);
        }
    });
}

#[test]
fn a_voter_that_is_away_for_long_is_replaced_and_nothing_is_lost() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c", "d"]);
    under_load(&lab, &nodes, 22, || {
        let (leader, others) = split_leader(&nodes);
        let voters = |node: &Node| -> Vec<String> {
            let voters = seen_by(node).voters;
            voters.into_iter().map(|voter| voter.name).collect()
        };
        let before = voters(leader);
        assert_eq!(before.len(), 3, "{before:?}");
        // The leader itself: the others elect one of them, who replaces it.
        lab.lan.isolate(leader);
        wait_until(PATIENCE, "the others elect", || {
            leader_seen_by(others[0], &others)
        });
        let after = wait_until(REPLACEMENT, "it is replaced", || {
            let now = voters(others[0]);
            (!now.contains(&leader.name)).then_some(now)
        });
        assert_eq!(after.len(), 3, "{after:?}");
        stay(LIFE);
        lab.lan.heal();
        stay(LIFE);
    });
    wait_whole(&nodes);
}
