//! Node processes that end and come back: experiments and queue do not notice.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use service::view::{ExperimentList, NodeView, NodesView, TokenCreated};

use crate::harness::{
    FAR, Lab, Node, PATIENCE, cluster_of, counted, counting, leader_and_others, wait_lines,
    wait_until,
};

fn process_exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
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

/// Addresses that stay over a restart, each test its own: loopback is a network of 16 million.
pub(crate) fn fixed_address() -> String {
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
            let list: Option<ExperimentList> = serde_json::from_str(&output.out).ok(); // nobody leads yet
            Some(list?.experiments)
        });
        assert_eq!(after, before);
        assert_eq!(node.logs(&done), "kept\n");
    }
    let new = nodes[2].submit(&["--", "echo", "new"]);
    assert_eq!(nodes[1].wait_end(&new).summary.state, "finished");
}

#[test]
fn a_lost_store_is_not_taken_for_an_empty_one_and_the_machine_rejoins_under_a_new_key() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (_, [first, second]) = leader_and_others(&nodes);
    let queued = first.submit(&FAR);
    let id_of = |node: &Node| node.cluster().node.id;
    let old = id_of(first);
    first.kill();
    fs::remove_dir_all(first.data().join("raft")).unwrap();
    let said = first.up_in_vain(&[]).failure(1);
    assert!(said.contains("--rejoin"), "{said}");

    let token: TokenCreated = second.ask(&["token", "new"]);
    first.up(&["--rejoin", &token.token]);
    assert_ne!(id_of(first), old);
    wait_until(PATIENCE, "three vote again, without the old key", || {
        let nodes = second.ask::<NodesView>(&["nodes"]).nodes;
        let votes = |node: &&NodeView| ["leader", "voter"].contains(&&*node.role);
        let voters: Vec<_> = nodes.iter().filter(votes).collect();
        (voters.len() == 3 && voters.iter().all(|node| node.id != old)).then_some(())
    });
    assert_eq!(first.list()[0].id, queued);
}

/// Its peers hold the dead connections of the process before for some 10 s; the new one must be heard all the same.
#[test]
fn reports_of_a_node_that_was_killed_and_started_at_once_go_on() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (_, [first, second]) = leader_and_others(&nodes);
    first.kill();
    first.up(&[]);
    let begun = Instant::now();
    let health = wait_until(PATIENCE, "longer than until a node is suspect", || {
        let nodes = second.ask::<NodesView>(&["nodes"]).nodes;
        let node = nodes.into_iter().find(|node| node.name == first.name)?;
        (begun.elapsed() > Duration::from_secs(25)).then_some((node.health, node.report_age_ms))
    });
    assert_eq!(health.0, "live", "its last report is {:?} ms old", health.1);
}
