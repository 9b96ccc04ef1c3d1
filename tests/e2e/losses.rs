//! What goes on when processes and machines die.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant, SystemTime};

use service::view::{ClusterView, ExperimentDetail, NodesView};

use crate::harness::{Lab, Node, PATIENCE, cluster_of, entries, read_lossy, wait_until};

/// From the leader's death to the next submission that a majority has: a second for the election, the rest for
/// a loaded machine.
const FAILOVER: Duration = Duration::from_secs(3);
/// From a machine's death to the placement of its experiment elsewhere: a lease of 5 s, an election, and a loaded machine.
const REPLACEMENT: Duration = Duration::from_secs(8);
/// An experiment that no node here could ever run.
const FAR: [&str; 4] = ["--cpus", "1000", "--", "true"];

/// Prints its process id, then numbers until a file is there.
fn counting(stop: &Path) -> String {
    format!(
        "echo pid $$; i=0; while [ ! -e {} ]; do i=$((i+1)); echo $i; sleep 0.05; done; echo end",
        stop.display()
    )
}

/// Reads the output of [`counting`]: the process id and how far it came. Fails on a lost or repeated line.
fn counted(output: &str) -> (i32, u64) {
    let mut lines = output.lines();
    let pid = lines.next().and_then(|line| line.strip_prefix("pid "));
    let pid = pid.expect("the first line").parse().expect("a process id");
    let mut last = 0;
    for line in lines {
        if line == "end" {
            break;
        }
        last += 1;
        assert_eq!(line, last.to_string(), "{output}");
    }
    (pid, last)
}

/// Splits off the node that leads.
fn leader_and_others(nodes: &[Node; 3]) -> (&Node, [&Node; 2]) {
    let leader = wait_until(PATIENCE, "somebody leads", || {
        let leader = nodes[0].cluster().leader?.name;
        nodes.iter().find(|node| node.name == leader)
    });
    let others: Vec<_> = nodes
        .iter()
        .filter(|node| node.name != leader.name)
        .collect();
    (leader, [others[0], others[1]])
}

fn wait_lines(node: &Node, experiment: &str, more_than: u64) -> u64 {
    wait_until(PATIENCE, "the experiment goes on", || {
        let output = node.muster(&["logs", experiment]);
        // The node that has the output may just be gone.
        if output.code != 0 || output.out.is_empty() {
            return None;
        }
        let (_, lines) = counted(&output.out);
        (lines > more_than).then_some(lines)
    })
}

fn process_exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

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
        let view: ClusterView = node.cluster();
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

/// Kills the machine on which an experiment runs and follows it to the next one.
fn lose_machine(lab: &Lab, nodes: &[Node; 3], job: &str) -> ExperimentDetail {
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
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(placed.attempts[1].placed_at);
    let took = at.duration_since(killed).unwrap();
    assert!(took < REPLACEMENT, "it was placed again after {took:?}");
    assert_ne!(placed.attempts[1].nodes[0].name, lost.name);

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

fn numbered(stop: &Path) -> String {
    format!(
        "i=0; while [ ! -e {} ]; do i=$((i+1)); echo attempt $MUSTER_ATTEMPT line $i; sleep 0.1; done; echo end",
        stop.display()
    )
}

#[test]
fn an_experiment_whose_machine_is_lost_runs_again_elsewhere_and_its_output_is_kept() {
    let lab = Lab::new();
    let machines = ["a", "b", "c"].map(|name| lab.machine(name));
    for follower in &machines[1..] {
        follower.settings("pool=followers", "64MiB");
    }
    let nodes = cluster_of(machines);
    let script = numbered(&lab.path().join("stop"));
    let job = nodes[0].submit(&["--constraint", "pool=followers", "--", "sh", "-c", &script]);
    lose_machine(&lab, &nodes, &job);
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
    let detail = lose_machine(&lab, &nodes, &job);
    assert_eq!(detail.attempts[0].nodes[0].name, "a");
}

#[test]
fn a_killed_node_process_finds_its_experiment_again_and_no_line_is_lost() {
    let lab = Lab::new();
    let [a, b, c] = lab.three();
    let stop = lab.path().join("stop");
    let script = counting(&stop);
    let follower = c
        .client(&["run", "-f", "--no-source", "--name", "counting"])
        .args(["--constraint", "machine=b", "--lease", "60s"])
        .args(["--", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(PATIENCE, "it is submitted", || {
        (!a.list().is_empty()).then_some(())
    });
    a.wait_state("counting", &["running"]);
    let before = wait_lines(&a, "counting", 10);
    let (pid, _) = counted(&a.logs("counting"));
    assert!(process_exists(pid));

    b.kill();
    assert!(process_exists(pid), "the experiment does not notice");
    b.up(&[]);
    let after = wait_lines(&a, "counting", before + 40);
    assert!(process_exists(pid));
    fs::write(&stop, "").unwrap();
    let detail = a.wait_end("counting");
    assert_eq!(
        (detail.summary.state.as_str(), detail.attempts.len()),
        ("finished", 1),
        "{detail:?}"
    );
    let logs = a.logs("counting");
    let (same, all) = counted(&logs);
    assert!(
        same == pid && all >= after && logs.ends_with("end\n"),
        "{logs}"
    );
    assert_eq!(b.logs("counting"), logs);
    let followed = follower.wait_with_output().unwrap();
    assert_eq!(followed.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&followed.stdout),
        logs,
        "who followed has seen the same"
    );
}

/// Addresses that stay over a restart, each test its own: loopback is a network of 16 million.
fn fixed_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let (high, low) = (10 + pid / 250 % 200, 1 + pid % 250);
    format!(
        "127.{high}.{low}.{}:7718",
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

#[test]
fn all_three_die_and_come_back_with_the_queue_as_it_was() {
    let lab = Lab::new();
    let nodes = cluster_of(["a", "b", "c"].map(|name| {
        let mut machine = lab.machine(name);
        machine.listen = fixed_address();
        machine
    }));
    let done = nodes[0].submit(&["--name", "done", "--", "echo", "kept"]);
    nodes[0].wait_end(&done);
    for node in &nodes {
        for _ in 0..5 {
            node.submit(&FAR);
        }
    }
    let before = nodes[0].list();
    assert_eq!(before.len(), 16);
    for node in &nodes {
        node.kill();
    }
    for node in &nodes {
        node.spawn(&[]);
    }
    for node in &nodes {
        node.wait_up();
    }
    for node in &nodes {
        let after = wait_until(PATIENCE, "the cluster answers again", || {
            let output = node.muster(&["--json", "ls", "--all"]);
            let list: Option<service::view::ExperimentList> =
                serde_json::from_str(&output.out).ok(); // nobody leads yet
            Some(list?.experiments)
        });
        assert_eq!(after, before);
        assert_eq!(node.logs(&done), "kept\n");
    }
    let new = nodes[2].submit(&["--", "echo", "new"]);
    assert_eq!(nodes[1].wait_end(&new).summary.state, "finished");
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
    let stale: service::view::ExperimentList = leader.ask(&["--stale", "ls"]);
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

#[test]
fn a_node_that_is_told_to_end_does_so_in_order_and_leaves_its_experiment_running() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [other, _]) = leader_and_others(&nodes);
    let stop = lab.path().join("stop");
    let constraint = format!("machine={}", leader.name);
    let job = other.submit(&[
        "--constraint",
        &constraint,
        "--lease",
        "60s",
        "--",
        "sh",
        "-c",
        &counting(&stop),
    ]);
    let before = wait_lines(other, &job, 5);
    let asked = Instant::now();
    let status = leader.terminate();
    assert!(status.success(), "{status}");
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    assert!(!leader.socket.exists(), "its socket is gone with it");
    let id = other.submit(&FAR);
    leader.up(&[]);
    assert!(leader.list().iter().any(|one| one.id == id));
    wait_lines(other, &job, before + 20);
    fs::write(&stop, "").unwrap();
    assert_eq!(other.wait_end(&job).attempts.len(), 1);
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
fn a_paused_node_loses_its_experiment_before_another_starts_it() {
    let lab = Lab::new();
    let machines = ["a", "b", "c"].map(|name| lab.machine(name));
    for follower in &machines[1..] {
        follower.settings("pool=followers", "64MiB");
    }
    let nodes = cluster_of(machines);
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
