//! Machines that are lost or hang while they run an experiment: it runs again elsewhere, never twice at a time.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use service::view::ExperimentDetail;

use crate::harness::{
    Lab, Node, PATIENCE, cluster_of, entries, leader_and_others, read_lossy, wait_until,
};

/// From a machine's death to the placement of its experiment elsewhere: what muster promises for the short lease.
const REPLACEMENT: Duration = Duration::from_secs(7);
/// The same when the machine led: the next leader holds the lease in full from its election on, which takes a second, or
/// two on a loaded machine.
const REPLACEMENT_BY_NEXT_LEADER: Duration = Duration::from_secs(8);

/// Kills the machine on which an experiment runs and follows it to the next one.
fn lose_machine(lab: &Lab, nodes: &[Node; 3], job: &str, limit: Duration) -> ExperimentDetail {
    let detail = nodes[0].wait_state(job, &["running"]);
    let attempt = &detail.attempts[0];
    let find = |name: &str| nodes.iter().find(|node| node.name == name).unwrap();
    let lost = find(&attempt.nodes[0].name);
    let mirror = find(&attempt.mirror.as_ref().unwrap().name);
    assert_ne!(lost.name, mirror.name);
    wait_until(PATIENCE, "the mirror has the first lines", || {
        let kept = entries(&mirror.data().join("mirror"));
        let kept = kept.iter().flat_map(|attempt| entries(attempt));
        kept.map(|file| read_lossy(&file))
            .any(|records| records.contains("attempt 1 line 3"))
            .then_some(())
    });
    let witness = nodes.iter().find(|node| node.name != lost.name).unwrap();
    let follower = witness
        .client(&["logs", "-f", job])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let killed = SystemTime::now();
    lost.kill_machine();
    let placed = wait_until(PATIENCE, "it runs as attempt 2", || {
        let output = witness.muster(&["--json", "show", job]);
        let detail: ExperimentDetail = serde_json::from_str(&output.out).ok()?; // an election may be under way
        detail.attempts.get(1)?.started_at?;
        Some(detail)
    });
    let took = since(killed, placed.attempts[1].placed_at);
    assert!(took <= limit, "it was placed again after {took:?}");
    assert_ne!(placed.attempts[1].nodes[0].name, lost.name);
    wait_until(PATIENCE, "attempt 2 has said something", || {
        let output = witness.muster(&["logs", job, "--attempt", "2"]);
        output.out.contains("line 1\n").then_some(())
    });

    fs::write(lab.path().join("stop"), "").unwrap();
    let detail = witness.wait_end(job);
    assert_eq!(
        (detail.summary.state.as_str(), detail.attempts.len()),
        ("finished", 2),
        "{detail:?}"
    );
    let cause = detail.attempts[0].cause.as_ref().unwrap();
    assert_eq!(cause.kind, "node-lost", "{cause:?}");
    let mut outputs = [String::new(), String::new()];
    for node in nodes.iter().filter(|node| node.name != lost.name) {
        outputs[0] = node.muster(&["logs", job, "--attempt", "1"]).success();
        let saved: Vec<_> = outputs[0].lines().collect();
        assert!(saved.len() >= 3, "{saved:?}");
        for (number, line) in (1..).zip(&saved) {
            assert_eq!(*line, format!("attempt 1 line {number}"));
        }
        outputs[1] = node.muster(&["logs", job, "--attempt", "2"]).success();
        let second = &outputs[1];
        assert!(second.starts_with("attempt 2 line 1\n"), "{second}");
        assert!(second.ends_with("end\n"), "{second}");
    }
    let followed = follower.wait_with_output().unwrap();
    assert!(followed.status.success());
    let followed = String::from_utf8_lossy(&followed.stdout).into_owned();
    // It may have seen more of the first than was saved, never less, and the second whole.
    let (first, second) = followed.split_at(followed.len() - outputs[1].len());
    assert_eq!(second, outputs[1]);
    assert!(first.starts_with(&outputs[0]), "{first} of {}", outputs[0]);
    for (number, line) in (1..).zip(first.lines()) {
        assert_eq!(line, format!("attempt 1 line {number}"));
    }
    // The machine comes back, and leaves what is over alone.
    lost.up(&[]);
    assert_eq!(lost.show(job).attempts.len(), 2);
    detail
}

/// Three machines, of which the two that do not found the cluster have the label `pool=followers`.
fn cluster_with_followers(lab: &Lab) -> [Node; 3] {
    let machines = ["a", "b", "c"].map(|name| lab.machine(name));
    for follower in &machines[1..] {
        follower.settings("pool=followers", "64MiB");
    }
    cluster_of(machines)
}

/// From `start` to a time that the cluster tells; all machines here share a wall clock.
fn since(start: SystemTime, told_ms: u64) -> Duration {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(told_ms);
    at.duration_since(start).expect("it came later")
}

fn numbered(stop: &Path) -> String {
    format!(
        "i=0; while [ ! -e {} ]; do i=$((i+1)); echo attempt $MUSTER_ATTEMPT line $i; sleep 0.1; done; echo end",
        stop.display()
    )
}

#[test]
fn an_experiment_whose_machine_is_lost_runs_again_elsewhere_and_its_output_is_kept() {
    let lab = Lab::new();
    let nodes = cluster_with_followers(&lab);
    let script = numbered(&lab.path().join("stop"));
    let job = nodes[0].submit(&["--constraint", "pool=followers", "--", "sh", "-c", &script]);
    lose_machine(&lab, &nodes, &job, REPLACEMENT);
}

#[test]
fn twenty_experiments_of_a_lost_machine_are_all_placed_again_within_seven_seconds() {
    let lab = Lab::new();
    let nodes = cluster_with_followers(&lab);
    let (leader, [lost, _]) = leader_and_others(&nodes);
    assert_eq!(leader.name, "a", "the founder leads while all is well");
    // The other follower is full until all of them run.
    let full = leader.submit(&[
        "--constraint",
        "machine=c",
        "--cpus",
        "4",
        "--",
        "sleep",
        "1000",
    ]);
    leader.wait_state(&full, &["running"]);
    let options = [
        "--constraint",
        "pool=followers",
        "--cpus",
        "0.1",
        "--memory",
        "32MiB",
    ];
    let small = [&options[..], &["--", "sleep", "1000"]].concat();
    let jobs: Vec<_> = (0..20).map(|_| leader.submit(&small)).collect();
    for job in &jobs {
        let detail = leader.wait_state(job, &["running"]);
        assert_eq!(detail.attempts[0].nodes[0].name, lost.name, "{detail:?}");
    }
    leader.muster(&["stop", &full]).success();
    leader.wait_end(&full);

    let killed = SystemTime::now();
    lost.kill_machine();
    let mut took: Vec<_> = jobs
        .iter()
        .map(|job| {
            let next = wait_until(PATIENCE, "it runs as attempt 2", || {
                let next = leader.show(job).attempts.get(1).cloned()?;
                next.started_at.map(|_| next)
            });
            assert_eq!(next.nodes[0].name, "c", "{next:?}");
            since(killed, next.placed_at)
        })
        .collect();
    took.sort();
    let (first, last) = (took[0], took[took.len() - 1]);
    println!(
        "{} experiments were placed again {first:?} to {last:?} after their machine's death",
        took.len()
    );
    assert!(last <= REPLACEMENT, "the last one took {last:?}");
}

#[test]
fn an_experiment_is_placed_again_also_when_the_lost_machine_led() {
    let lab = Lab::new();
    let machines = ["a", "b", "c"].map(|name| lab.machine(name));
    for machine in &machines[..2] {
        machine.settings("pool=both", "64MiB");
    }
    let nodes = cluster_of(machines);
    let (leader, _) = leader_and_others(&nodes);
    assert_eq!(
        leader.name, "a",
        "the founder leads while nothing goes wrong"
    );
    // The follower is full until the experiment runs on the leader.
    let full = leader.submit(&[
        "--constraint",
        "machine=b",
        "--cpus",
        "4",
        "--",
        "sleep",
        "1000",
    ]);
    leader.wait_state(&full, &["running"]);
    let script = numbered(&lab.path().join("stop"));
    let job = leader.submit(&["--constraint", "pool=both", "--", "sh", "-c", &script]);
    leader.wait_state(&job, &["running"]);
    leader.muster(&["stop", &full]).success();
    leader.wait_end(&full);
    let detail = lose_machine(&lab, &nodes, &job, REPLACEMENT_BY_NEXT_LEADER);
    assert_eq!(detail.attempts[0].nodes[0].name, "a");
}

#[test]
fn a_paused_node_loses_its_experiment_before_another_starts_it() {
    let lab = Lab::new();
    let nodes = cluster_with_followers(&lab);
    let (stop, trace) = (lab.path().join("stop"), lab.path().join("trace"));
    let script = format!(
        "while [ ! -e {} ]; do echo $MUSTER_ATTEMPT $(date +%s%N) >> {}; sleep 0.02; done",
        stop.display(),
        trace.display()
    );
    let job = nodes[0].submit(&["--constraint", "pool=followers", "--", "sh", "-c", &script]);
    let detail = nodes[0].wait_state(&job, &["running"]);
    let owner = &detail.attempts[0].nodes[0].name;
    let owner = nodes.iter().find(|node| node.name == *owner).unwrap();
    owner.pause();
    let times = || {
        let mut times = [Vec::new(), Vec::new()];
        for line in read_lossy(&trace).lines() {
            let (attempt, at) = line.split_once(' ').unwrap();
            let attempt: usize = attempt.parse().unwrap();
            times[attempt - 1].push(at.parse::<u128>().unwrap());
        }
        times
    };
    wait_until(PATIENCE, "another node runs it", || {
        (times()[1].len() > 10).then_some(())
    });
    owner.resume();
    wait_until(PATIENCE, "the node is awake again", || {
        let output = owner.muster(&["ls"]);
        (output.code == 0).then_some(())
    });
    fs::write(&stop, "").unwrap();
    let detail = nodes[0].wait_end(&job);
    assert_eq!(
        (detail.summary.state.as_str(), detail.attempts.len()),
        ("finished", 2),
        "{detail:?}"
    );
    let [first, second] = times();
    let (end, start) = (first.last().unwrap(), second.first().unwrap());
    assert!(
        end < start,
        "the first ran {} ms beside the second",
        (end - start) / 1_000_000
    );
}
