//! Leaders and majorities that die, hang and return, under load.

use std::time::Duration;

use crate::clients::{Answer, Call};
use crate::harness::{Node, PATIENCE, wait_until};
use crate::lab::{NetLab, leader_seen_by, split_leader, stay};
use crate::load::{Plan, under_load, under_load_of};
use crate::traces;

/// Between two deaths of a leader.
const LIFE: Duration = Duration::from_secs(3);
/// How long a hanging leader hangs.
const HANG: Duration = Duration::from_secs(10);
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

#[test]
fn without_a_majority_nothing_is_decided_and_all_heals_by_itself() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let absence = match std::env::var_os("MUSTER_NETNS_LONG") {
        Some(_) => Duration::from_secs(60),
        None => ABSENCE,
    };
    let (leader, others) = split_leader(&nodes);
    let traces = traces::directory(lab.shared());
    std::fs::create_dir_all(&traces).expect("a directory");
    let start = |name: &str, lease: &str| {
        let script = traces::script(&traces, name, 10_000);
        let constraint = format!("machine={}", leader.name);
        let options = [
            "--name",
            name,
            "--constraint",
            &constraint,
            "--lease",
            lease,
        ];
        leader.submit(&[&options[..], &["--", "sh", "-c", &script]].concat());
        wait_until(PATIENCE, "it runs", || {
            (!traces::lives(&traces, name).is_empty()).then_some(())
        });
    };
    start("steady", "10m");
    start("brief", "3s");
    for node in &others {
        lab.lan.isolate(node);
    }
    stay(Duration::from_secs(2));
    let lived = traces::lives(&traces, "brief");
    assert_eq!(lived.len(), 1, "{lived:?}");
    let age = stale_age(leader);
    for node in &nodes {
        let read = node.muster(&["ls"]).failure(1);
        assert!(
            read.contains("1 of 3 voters") && read.contains("--stale"),
            "{read}"
        );
        let written =
            Call::post("/api/v1/queues", serde_json::json!({"name": "never"})).send(&node.socket);
        assert!(
            matches!(&written, Answer::Unavailable(code, _) if code == "no-quorum"),
            "{written:?}"
        );
    }
    stay(absence);
    let later = stale_age(leader);
    assert!(
        later >= age + u64::try_from(absence.as_millis()).expect("it fits"),
        "{age} {later}"
    );
    // The first has outlived its lease by far and is ended, with nobody to say so; the other was not touched.
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
    wait_until(
        PATIENCE,
        "the one goes on, and the other starts again",
        || {
            let (now, again) = (
                traces::lives(&traces, "steady"),
                traces::lives(&traces, "brief"),
            );
            (now.len() == 1 && now[0].last > steady[0].last && again.len() == 2).then_some(())
        },
    );
    for name in ["steady", "brief"] {
        assert_eq!(
            traces::violations(name, &traces::lives(&traces, name)),
            Vec::<String>::new()
        );
        leader.muster(&["stop", name]).success();
        leader.wait_end(name);
    }
}
