//! Who leads when the leader dies, hangs, or is left alone.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use service::view::{ExperimentList, NodesView};

use crate::harness::{
    FAR, Lab, PATIENCE, counted, counting, leader_and_others, wait_lines, wait_until,
};

/// From the leader's death to the next submission that a majority has: a second for the election, the rest for
/// a loaded machine.
const FAILOVER: Duration = Duration::from_secs(3);
/// From the leader's death to the start of experiments that were submitted after it: a next leader holds each short lease for
/// 5.15 s from its election on, so that nothing that waited for one starts before.
const STARTED_BY_NEXT_LEADER: Duration = Duration::from_secs(5);
/// From the submission to the placement, both in the log: half a second for the question to the old leader, the rest for a
/// loaded machine; less than the 3.5 s after which a silent machine is suspect.
const PLACED_BY_NEXT_LEADER_MS: u64 = 2_000;

#[test]
fn the_leader_dies_and_nothing_acknowledged_is_lost_and_what_runs_goes_on() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, second]) = leader_and_others(&nodes);
    let stop = lab.path().join("stop");
    let constraint = format!("machine={}", first.name);
    let job = first.submit(&[
        "--constraint",
        &constraint,
        "--",
        "sh",
        "-c",
        &counting(&stop),
    ]);
    let before = wait_lines(second, &job, 5);

    let acknowledged = Mutex::new(BTreeSet::from([job.clone()]));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let submitting = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                acknowledged.lock().unwrap().insert(second.submit(&FAR));
            }
        });
        wait_until(PATIENCE, "some are submitted", || {
            (acknowledged.lock().unwrap().len() > 5).then_some(())
        });
        let killed = Instant::now();
        leader.kill();
        let next = first.submit(&FAR);
        let gap = killed.elapsed();
        acknowledged.lock().unwrap().insert(next);
        over.store(true, Ordering::Relaxed);
        submitting.join().unwrap();
        assert!(gap < FAILOVER, "the next submission took {gap:?}");
    });

    for node in [first, second] {
        let view = node.cluster();
        let leads = view.leader.map(|leader| leader.name);
        assert!(
            leads.is_some() && leads.as_ref() != Some(&leader.name),
            "{leads:?}"
        );
        let listed: Vec<_> = node.list().into_iter().map(|one| one.id).collect();
        let distinct: BTreeSet<_> = listed.iter().cloned().collect();
        assert_eq!(distinct, *acknowledged.lock().unwrap());
        assert_eq!(listed.len(), distinct.len(), "none was submitted twice");
    }
    wait_lines(second, &job, before + 20);
    fs::write(&stop, "").unwrap();
    let detail = second.wait_end(&job);
    assert_eq!(
        (detail.summary.state.as_str(), detail.attempts.len()),
        ("finished", 1),
        "{detail:?}"
    );
    assert!(second.logs(&job).ends_with("end\n"));
    counted(&second.logs(&job));

    leader.up(&[]);
    let back: Vec<_> = leader.list();
    assert_eq!(
        back.len(),
        acknowledged.lock().unwrap().len(),
        "the old leader is back and knows all"
    );
}

#[test]
fn a_new_leader_places_at_once_on_the_machines_that_live() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, second]) = leader_and_others(&nodes);
    let script = "echo >$0; exec sleep 1000";
    let killed = Instant::now();
    leader.kill();
    // Each takes a machine of its own: there are two left.
    let jobs = [first, second].map(|node| {
        let mark = lab.path().join(format!("started-by-{}", node.name));
        let mark_text = mark.display().to_string();
        let command = ["--cpus", "4", "--", "sh", "-c", script, &mark_text];
        (node.submit(&command), mark)
    });
    for (job, mark) in &jobs {
        wait_until(PATIENCE, "it runs", || mark.exists().then_some(()));
        let took = killed.elapsed();
        println!("{job} ran {took:?} after the leader's death");
        assert!(took < STARTED_BY_NEXT_LEADER, "it ran after {took:?}");
        let detail = first.wait_state(job, &["running"]);
        let waited = detail.attempts[0].placed_at - detail.summary.submitted_at;
        assert!(waited < PLACED_BY_NEXT_LEADER_MS, "{detail:?}");
        assert_eq!(detail.attempts.len(), 1, "{detail:?}");
        assert_ne!(detail.attempts[0].nodes[0].name, leader.name);
    }
}

#[test]
fn each_leader_in_turn_dies_and_comes_back() {
    let lab = Lab::new();
    let nodes = lab.three();
    let mut known = BTreeSet::new();
    for _ in 0..4 {
        let (leader, [first, second]) = leader_and_others(&nodes);
        known.insert(leader.submit(&FAR));
        leader.kill();
        known.insert(first.submit(&FAR));
        known.insert(second.submit(&FAR));
        leader.up(&[]);
        for node in &nodes {
            let listed: BTreeSet<_> = node.list().into_iter().map(|one| one.id).collect();
            assert_eq!(listed, known);
        }
    }
}

#[test]
fn a_paused_leader_is_replaced_and_does_not_answer_from_the_past() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, second]) = leader_and_others(&nodes);
    leader.pause();
    let asked = Instant::now();
    let id = first.submit(&FAR);
    assert!(asked.elapsed() < FAILOVER, "{:?}", asked.elapsed());
    let id_too = second.submit(&FAR);
    // The question waits in its socket when it wakes up and still takes itself for the leader.
    let question = leader
        .client(&["--json", "ls"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    leader.resume();
    let answer = question.wait_with_output().unwrap();
    let answer = String::from_utf8_lossy(&answer.stdout);
    assert!(answer.contains(&id) && answer.contains(&id_too), "{answer}");
    // What it is asked to write ends up with the new leader.
    let third = leader.submit(&FAR);
    assert!(first.list().iter().any(|one| one.id == third));
}

#[test]
fn a_lone_node_of_three_refuses_to_decide_and_says_what_to_do() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, second]) = leader_and_others(&nodes);
    let queued = leader.submit(&FAR);
    first.kill();
    second.kill();
    let refused = std::thread::scope(|scope| {
        let write = scope.spawn(|| leader.muster(&["run", "--no-source", "--", "true"]));
        let read = scope.spawn(|| leader.muster(&["ls"]));
        [write, read].map(|command| command.join().unwrap().failure(1))
    });
    for said in refused {
        assert!(
            said.contains("1 of 3 voters") && said.contains("2 are needed"),
            "{said}"
        );
        for name in [&first.name, &second.name] {
            assert!(said.contains(name), "{said}");
        }
        assert!(
            said.contains("start muster on") && said.contains("--stale"),
            "{said}"
        );
    }
    let stale: ExperimentList = leader.ask(&["--stale", "ls"]);
    assert_eq!(stale.experiments[0].id, queued);
    assert_eq!(
        leader.ask::<NodesView>(&["--stale", "nodes"]).nodes.len(),
        3
    );
    assert!(leader.cluster().problem.unwrap().contains("no majority"));

    second.up(&[]);
    let two = leader.submit(&["--", "echo", "two of three"]);
    assert_eq!(second.wait_end(&two).summary.state, "finished");
    assert_eq!(leader.cluster().problem, None);
}
