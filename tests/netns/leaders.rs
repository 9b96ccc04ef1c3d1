//! Leaders and majorities that die, hang and return, under load.

use std::time::Duration;

use crate::clients::{Answer, Call};
use crate::harness::{Node, PATIENCE, wait_until};
use crate::lab::{NetLab, leader_seen_by, split_leader, stay};
use crate::leases::{trace, wait_lives};
use crate::load::{Plan, under_load, under_load_of};
use crate::traces;

/// Between two deaths of a leader.
const LIFE: Duration = Duration::from_secs(3);
/// How long a hanging leader hangs.
const HANG: Duration = Duration::from_secs(10);
/// From the cut to the moment at which everybody has noticed.
const LOSS_SEEN: Duration = Duration::from_secs(3);
/// How long the majority is away; `MUSTER_NETNS_LONG=1` makes it a minute.
const ABSENCE: Duration = Duration::from_secs(12);

#[test]
fn a_leader_killed_again_and_again_costs_nothing_acknowledged() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    under_load(&lab, &nodes, 11, || {
        for _ in 0..5 {
            let (leader, others) = split_leader(&nodes);
            leader.kill();
            wait_until(PATIENCE, "the others elect", || {
                leader_seen_by(others[0], &others)
            });
            stay(LIFE);
            leader.up(&[]);
        }
    });
}

#[test]
fn a_leader_that_hangs_and_wakes_up_answers_nothing_from_the_past() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    // Its clients go on asking while it hangs: what they asked waits in its socket when it wakes up and still takes
    // itself for the leader.
    under_load(&lab, &nodes, 12, || {
        let (leader, others) = split_leader(&nodes);
        leader.pause();
        wait_until(PATIENCE, "the others elect", || {
            leader_seen_by(others[0], &others)
        });
        stay(HANG);
        leader.resume();
        stay(LIFE);
    });
}

#[test]
fn a_rolling_restart_of_all_nodes_costs_no_work() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    // Back within their leases: what runs does not notice.
    let plan = Plan {
        seed: 13,
        lease_ms: 120_000,
        ..Plan::default()
    };
    let tally = under_load_of(&lab, &nodes, plan, || {
        for node in &nodes {
            assert!(node.terminate().success());
            node.up(&[]);
            wait_until(PATIENCE, "it is back", || {
                (node.muster(&["ls"]).code == 0).then_some(())
            });
            stay(LIFE);
        }
    });
    assert_eq!(tally.again, 0, "{tally}");
    assert!(tally.attempts > 0, "{tally}");
}

/// Asks for the list as it is known here: its age in milliseconds.
fn stale_age(node: &Node) -> u64 {
    let call = Call::get("/api/v1/experiments?all=true&consistency=stale");
    match call.send(&node.socket) {
        Answer::Good(good) => good.age_ms,
        answer => panic!("{answer:?}"),
    }
}

/// Nobody decides anything, and says why and what to do.
fn assert_undecided(nodes: &[Node]) {
    for node in nodes {
        let read = node.muster(&["ls"]).failure(1);
        for words in ["1 of 3 voters", "2 are needed", "--stale"] {
            assert!(read.contains(words), "{words:?} is missing in {read}");
        }
        let body = serde_json::json!({"name": "never"});
        let written = Call::post("/api/v1/queues", body).send(&node.socket);
        let refused = matches!(&written, Answer::Unavailable(code, _) if code == "no-quorum");
        assert!(refused, "{written:?}");
    }
}

#[test]
fn without_a_majority_nothing_is_decided_and_all_heals_by_itself() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let absence = match std::env::var_os("MUSTER_NETNS_LONG") {
        Some(_) => Duration::from_secs(60),
        None => ABSENCE,
    };
    let (leader, others) = split_leader(&nodes);
    let constraint = format!("machine={}", leader.name);
    let options = |lease| ["--constraint", &constraint, "--lease", lease];
    let traces = trace(&lab, leader, "steady", 10_000, &options("10m"));
    trace(&lab, leader, "brief", 10_000, &options("3s"));
    for name in ["steady", "brief"] {
        wait_lives(&traces, name, "it runs", |lives| !lives.is_empty());
    }
    under_load_of(&lab, &nodes, Plan::small(14), || {
        for node in &others {
            lab.lan.isolate(node);
        }
        stay(LOSS_SEEN);
        let age = stale_age(leader);
        assert_undecided(&nodes);
        stay(absence);
        let older = stale_age(leader) - age;
        assert!(u128::from(older) >= absence.as_millis(), "{older}");
        // The brief one has outlived its lease by far and is ended, with nobody to say so; the other was not touched.
        let brief = traces::lives(&traces, "brief");
        stay(Duration::from_secs(1));
        assert_eq!(traces::lives(&traces, "brief"), brief, "it has ended");
        let steady = traces::lives(&traces, "steady");
        lab.lan.heal();
        for node in &nodes {
            wait_until(PATIENCE, "it answers again", || {
                (node.muster(&["ls"]).code == 0).then_some(())
            });
        }
        wait_lives(&traces, "brief", "it starts again", |lives| {
            lives.len() > brief.len()
        });
        wait_lives(&traces, "steady", "it goes on", |lives| {
            lives.len() == 1 && lives[0].last > steady[0].last
        });
    });
    for name in ["steady", "brief"] {
        let lives = traces::lives(&traces, name);
        assert_eq!(traces::violations(name, &lives), Vec::<String>::new());
        leader.muster(&["stop", name]).success();
        leader.wait_end(name);
    }
}
