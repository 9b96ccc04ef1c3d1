//! From the silent death of a machine to the next placement of what ran on it: its cable is pulled, so that no connection
//! ends and only silence tells. What ran there has the short lease.

use std::fs;
use std::time::Duration;

use service::view::{ExperimentDetail, NodeView, NodesView};

use crate::clocks::wall_ms;
use crate::harness::{Node, PATIENCE, read_lossy, wait_until};
use crate::lab::{NetLab, found, say, split_leader, test_name};
use crate::leases::fill;

/// What muster promises: the lease, which the node renewed at most 5 s before, with the leader's additions of 0.15 s, then
/// the seal of the mirror, the word in the log and the placement.
const REPLACEMENT: Duration = Duration::from_secs(7);
/// The same when the leader is lost: nobody knows what it granted last, so the next one, elected within 3 s, holds the
/// lease in full from its election on, 5.15 s.
const REPLACEMENT_BY_NEXT_LEADER: Duration = Duration::from_millis(8_500);

/// Small experiments that all run on one machine, and could run on the others.
fn run_on(leader: &Node, runner: &Node, others: &[&Node], count: usize) -> Vec<ExperimentDetail> {
    let full: Vec<_> = others.iter().map(|node| fill(leader, node)).collect();
    let small = ["--cpus", "0.1", "--memory", "32MiB", "--", "sleep", "1000"];
    let jobs: Vec<_> = (0..count).map(|_| leader.submit(&small)).collect();
    for job in &jobs {
        leader.wait_state(job, &["running"]);
    }
    for id in &full {
        leader.muster(&["stop", id]).success();
        leader.wait_end(id);
    }
    let details: Vec<_> = jobs.iter().map(|job| leader.show(job)).collect();
    for detail in &details {
        let runs = (detail.summary.state.as_str(), detail.attempts.len());
        assert_eq!(runs, ("running", 1), "{detail:?}");
        assert_eq!(detail.attempts[0].nodes[0].name, runner.name);
        assert_eq!(detail.attempts[0].lease_ms, 5_000);
    }
    details
}

/// Pulls the cables and waits until everything is placed again; says and checks how long the last one took.
fn lose(lab: &NetLab, lost: &[&Node], jobs: &[ExperimentDetail], witness: &Node, limit: Duration) {
    let cut_at = wall_ms();
    for node in lost {
        lab.lan.unplug(node);
    }
    let mut times = Vec::new();
    for job in jobs {
        let id = &job.summary.id;
        let next = wait_until(PATIENCE, "it is placed again", || {
            let output = witness.muster(&["--json", "show", id]);
            let detail: ExperimentDetail = serde_json::from_str(&output.out).ok()?; // an election may be under way
            let cause = detail.attempts[0].cause.as_ref()?;
            assert_eq!(cause.kind, "node-lost", "{cause:?}");
            detail.attempts.get(1).cloned()
        });
        assert_ne!(next.nodes[0].name, lost[0].name);
        times.push(Duration::from_millis(next.placed_at - cut_at));
    }
    times.sort();
    let (first, last) = (times[0], times[times.len() - 1]);
    say(&format!(
        "{}: {} experiments placed again {first:?} to {last:?} after the cut",
        test_name(),
        jobs.len()
    ));
    assert!(last <= limit, "the last one took {last:?}");
}

#[test]
fn what_ran_on_a_machine_whose_cable_is_pulled_is_placed_again_within_seven_seconds() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let (leader, others) = split_leader(&nodes);
    let jobs = run_on(leader, others[0], &[leader, others[1]], 5);
    lose(&lab, &[others[0]], &jobs, leader, REPLACEMENT);
}

#[test]
fn what_ran_on_a_leader_whose_cable_is_pulled_is_placed_again_after_an_election_and_a_lease() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let (leader, others) = split_leader(&nodes);
    let jobs = run_on(leader, leader, &others, 5);
    lose(
        &lab,
        &[leader],
        &jobs,
        others[0],
        REPLACEMENT_BY_NEXT_LEADER,
    );
}

#[test]
fn what_is_lost_together_with_its_mirror_is_placed_again_as_fast() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = ["a", "b", "c", "d"].map(|name| lab.host(name));
    // The founder leads, and must not be a mirror: both others that keep blobs are.
    let settings = nodes[0].data().join("muster.toml");
    let text = read_lossy(&settings).replace("keeps_blobs = true", "keeps_blobs = false");
    fs::write(settings, text).unwrap();
    found(&nodes);
    let (leader, _) = split_leader(&nodes);
    assert_eq!(leader.name, "a", "the founder leads while all is well");
    // The one without a vote, so that two may be lost.
    let view: NodesView = leader.ask(&["nodes"]);
    let votes = |node: &NodeView| ["leader", "voter"].contains(&&*node.role);
    let spare = view.nodes.iter().find(|node| !votes(node)).expect("four");
    let runner = nodes.iter().find(|node| node.name == spare.name).unwrap();
    let others: Vec<_> = nodes
        .iter()
        .filter(|node| node.name != runner.name)
        .collect();
    let jobs = run_on(leader, runner, &others, 16);
    let mirrors = |node: &Node| {
        let kept = jobs.iter().filter(|job| {
            let mirror = job.attempts[0].mirror.as_ref().expect("each has a mirror");
            mirror.name == node.name
        });
        kept.count()
    };
    let mirror = others
        .iter()
        .max_by_key(|node| mirrors(node))
        .expect("three");
    assert!(mirrors(mirror) > 4 && mirror.name != leader.name);
    lose(&lab, &[runner, mirror], &jobs, leader, REPLACEMENT);
}
