//! Experiments on a machine that is cut off: untouched by a cut shorter than their lease, ended by their own machine
//! before anybody starts them again after a longer one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{Node, PATIENCE, wait_until};
use crate::lab::{NetLab, leader_seen_by, split_leader, stay};
use crate::load::{Plan, under_load_of};
use crate::traces::{self, Life};

/// Submits an experiment that writes its trace; gives the directory of the traces.
pub(crate) fn trace(
    lab: &NetLab,
    node: &Node,
    name: &str,
    beats: u32,
    options: &[&str],
) -> PathBuf {
    let traces = traces::directory(lab.shared());
    let script = traces::script(&traces, name, beats);
    let mut arguments = vec!["--name", name];
    arguments.extend_from_slice(options);
    arguments.extend_from_slice(&["--", "sh", "-c", &script]);
    node.submit(&arguments);
    traces
}

/// Waits until the lives of an experiment are right.
pub(crate) fn wait_lives(
    traces: &Path,
    name: &str,
    what: &str,
    right: impl Fn(&[Life]) -> bool,
) -> Vec<Life> {
    wait_until(PATIENCE, what, || {
        let lives = traces::lives(traces, name);
        right(&lives).then_some(lives)
    })
}

#[test]
fn a_leader_cut_off_for_less_than_the_lease_keeps_its_experiment_untouched() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let (leader, others) = split_leader(&nodes);
    let constraint = format!("machine={}", leader.name);
    let options = ["--constraint", &constraint, "--lease", "20s"];
    let mut start = 0;
    let traces = traces::directory(lab.shared());
    under_load_of(&lab, &nodes, Plan::small(51), || {
        trace(&lab, leader, "short", 150, &options);
        let before = wait_lives(&traces, "short", "it runs", |lives| lives.len() == 1);
        start = before[0].start;
        lab.lan.isolate(leader);
        wait_until(PATIENCE, "the others elect", || {
            leader_seen_by(others[0], &others)
        });
        stay(Duration::from_secs(5));
        lab.lan.heal();
    });
    let detail = others[0].wait_end("short");
    assert_eq!(
        (detail.summary.state.as_str(), detail.attempts.len()),
        ("finished", 1),
        "{detail:?}"
    );
    let lives = traces::lives(&traces, "short");
    assert_eq!(lives.len(), 1, "{lives:?}");
    assert!(lives[0].whole && lives[0].start == start, "{lives:?}");
}

#[test]
fn a_leader_cut_off_for_longer_ends_its_experiment_before_another_starts_it() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let (leader, others) = split_leader(&nodes);
    let full = others
        .iter()
        .map(|node| fill(leader, node))
        .collect::<Vec<_>>();
    // What writes the trace has left its session and its parents: nothing but its cgroup knows where it belongs.
    let traces = traces::directory(lab.shared());
    let daemon = lab.shared().join("daemon");
    fs::write(&daemon, traces::script(&traces, "long", 3_000)).expect("it is written");
    let script = format!("(setsid sh {} &); exec sleep 1000", daemon.display());
    let options = ["--name", "long", "--cpus", "2", "--lease", "5s"];
    leader.submit(&[&options[..], &["--", "sh", "-c", &script]].concat());
    let first = wait_lives(&traces, "long", "it runs", |lives| lives.len() == 1);
    assert_eq!(first[0].node, leader.name);
    for id in &full {
        leader.muster(&["stop", id]).success();
        leader.wait_end(id);
    }

    let mut ended = 0;
    under_load_of(&lab, &nodes, Plan::small(52), || {
        lab.lan.isolate(leader);
        let lives = wait_lives(&traces, "long", "another starts it", |lives| {
            lives.len() > 1
        });
        // Still cut off: its own holder has ended the first, nobody could have told it to.
        assert_eq!(traces::violations("long", &lives), Vec::<String>::new());
        assert_ne!(lives[1].node, leader.name);
        wait_lives(&traces, "long", "the second lives", |lives| {
            lives
                .iter()
                .any(|life| life.attempt > 1 && life.last > life.start + 100)
        });
        ended = traces::lives(&traces, "long")[0].last;
        lab.lan.heal();
        wait_until(PATIENCE, "the old leader knows", || {
            (leader.muster(&["show", "long"]).code == 0).then_some(())
        });
        others[0].muster(&["stop", "long"]).success();
    });
    let detail = others[0].wait_end("long");
    // On an overloaded machine so short a lease may be lost once more.
    let lives = traces::lives(&traces, "long");
    assert_eq!(traces::violations("long", &lives), Vec::<String>::new());
    assert_eq!(lives[0].last, ended, "nothing of the first came back");
    let cause = detail.attempts[0].cause.as_ref().expect("it is over");
    assert!(
        ["node-lost", "lease-expired"].contains(&&*cause.kind),
        "{cause:?}"
    );
}

/// Takes all cores of a machine; gives the experiment that does.
pub(crate) fn fill(leader: &Node, node: &Node) -> String {
    let constraint = format!("machine={}", node.name);
    let id = leader.submit(&[
        "--constraint",
        &constraint,
        "--cpus",
        "4",
        "--lease",
        "60s",
        "--",
        "sleep",
        "1000",
    ]);
    leader.wait_state(&id, &["running"]);
    id
}

#[test]
fn a_result_that_comes_after_its_lease_is_kept_as_late_and_does_not_count() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let (leader, others) = split_leader(&nodes);
    let (worker, other) = (others[0], others[1]);
    let (holds, filled) = (fill(leader, leader), fill(leader, other));
    // It comes to its end while its machine is cut off and its lease runs.
    let traces = trace(&lab, leader, "late", 20, &["--cpus", "4", "--lease", "8s"]);
    wait_lives(&traces, "late", "it runs", |lives| lives.len() == 1);
    lab.lan.isolate(worker);
    let first = wait_lives(&traces, "late", "it ends", |lives| lives[0].whole);
    assert_eq!(first[0].node, worker.name);
    leader.muster(&["stop", &holds]).success();
    leader.muster(&["stop", &filled]).success();
    wait_lives(&traces, "late", "it runs again", |lives| lives.len() > 1);
    lab.lan.heal();
    let late = wait_until(PATIENCE, "the late result arrives", || {
        let detail = leader.show("late");
        detail.attempts[0].late.clone()
    });
    assert_eq!(late.kind, "finished", "{late:?}");
    let detail = other.wait_end("late");
    assert_eq!(detail.summary.state, "finished", "{detail:?}");
    assert!(detail.attempts.len() > 1, "{detail:?}");
    let cause = detail.attempts[0].cause.as_ref().expect("it is over");
    assert_eq!(cause.kind, "node-lost", "{cause:?}");
    assert_eq!(
        traces::violations("late", &traces::lives(&traces, "late")),
        Vec::<String>::new()
    );
}
