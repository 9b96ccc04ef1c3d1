//! Machines that are slow are not dead: four times more work than there are processors, and nodes that come last.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, setpriority_process};
use service::view::{ExperimentDetail, NodesView};

use crate::harness::{Lab, Node, PATIENCE, entries, leader_and_others, wait_until};

/// How nice the nodes are: a tenth of the weight of what else wants the processors.
const NICE: i32 = 10;
/// Busy processes for each processor.
const OVERLOAD: usize = 4;

/// Busy loops; ended when dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn start() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let hog = |_| {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]);
            command.stdin(Stdio::null()).spawn().unwrap()
        };
        Self((0..processors * OVERLOAD).map(hog).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            hog.kill().unwrap();
            hog.wait().unwrap();
        }
    }
}

/// All threads of a node, since each has a niceness of its own.
fn be_nice(node: &Node) {
    let tasks = entries(format!("/proc/{}/task", node.process_id()).as_ref());
    let threads = tasks
        .iter()
        .filter_map(|task| task.file_name()?.to_str()?.parse().ok()) // all are numbers
        .filter_map(Pid::from_raw);
    for thread in threads {
        match setpriority_process(Some(thread), NICE) {
            Ok(()) | Err(_) => {} // One that has ended meanwhile is in nobody's way.
        }
    }
}

fn suspicions(node: &Node) -> Vec<String> {
    let log = node.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("member is suspect"));
    lines.map(str::to_owned).collect()
}

fn nobody_is_suspected(time: Duration) {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, second]) = leader_and_others(&nodes);
    let stop = lab.path().join("stop");
    let script = format!("while [ ! -e {} ]; do sleep 0.2; done", stop.display());
    let constraint = format!("machine={}", first.name);
    let job = leader.submit(&[
        "--constraint",
        &constraint,
        "--lease",
        "1m",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    leader.wait_state(&job, &["running"]);
    let before: Vec<_> = nodes.iter().map(|node| suspicions(node).len()).collect();
    for node in &nodes {
        be_nice(node);
    }
    let busy = Busy::start();
    let until = Instant::now() + time;
    let mut looks = 0;
    while Instant::now() < until {
        // A person looks meanwhile; that it takes long is no failure.
        let output = second.muster(&["--json", "nodes"]);
        looks += 1;
        if let Ok(view) = serde_json::from_str::<NodesView>(&output.out) {
            let suspects: Vec<_> = view
                .nodes
                .iter()
                .filter(|node| node.health == "suspect")
                .map(|node| (&node.name, &node.suspicion))
                .collect();
            assert!(suspects.is_empty(), "after {looks} looks: {suspects:?}");
        }
    }
    drop(busy);
    for (node, before) in nodes.iter().zip(before) {
        node.assert_alive();
        let suspicions = suspicions(node);
        assert_eq!(suspicions.len(), before, "{}: {suspicions:?}", node.name);
    }
    fs::write(&stop, "").unwrap();
    let detail: ExperimentDetail = wait_until(PATIENCE, "the experiment ends", || {
        let output = second.muster(&["--json", "show", &job]);
        let detail: ExperimentDetail = serde_json::from_str(&output.out).ok()?; // an election may be under way
        detail.summary.ended_at.is_some().then_some(detail)
    });
    assert_eq!(
        (detail.summary.state.as_str(), detail.attempts.len()),
        ("finished", 1),
        "{detail:?}"
    );
    // And who does die is found, when there is time again.
    first.kill();
    wait_until(PATIENCE, "the dead one is suspect", || {
        let output = second.muster(&["--json", "nodes"]);
        let view: NodesView = serde_json::from_str(&output.out).ok()?;
        let found = view.nodes.iter().find(|node| node.name == first.name)?;
        (found.health == "suspect").then_some(())
    });
}

#[test]
fn nobody_is_suspected_under_four_times_the_load() {
    nobody_is_suspected(Duration::from_secs(20));
}

/// `cargo test --test e2e -- --ignored nobody_is_suspected_for_ten_minutes`
#[test]
#[ignore = "ten minutes of all processors"]
fn nobody_is_suspected_for_ten_minutes() {
    nobody_is_suspected(Duration::from_secs(600));
}
