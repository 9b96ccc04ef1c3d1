//! A process without a file descriptor left still writes its snapshots and archives.

use std::fs::File;
use std::process::Command as Process;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::{Cluster, PATIENCE, leads, propose, propose_many};

const CHILD: &str = "CONSENSUS_NO_DESCRIPTORS";

/// The child's part, since the limit is of a process; does nothing in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_without_descriptors_makes_snapshots() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let mut cluster = Cluster::new();
    cluster.snapshot_every_entries = 500;
    cluster.keep_log_entries = 50;
    let handle = cluster.start(0).await;
    handle.initialize().await.unwrap();
    leads(&handle).await;
    propose(&handle, "early").await.unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(64);
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    assert!(File::open("/dev/null").is_err());
    propose_many(&handle, 3_000, 64).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while handle.metrics().purged.0 < 1_500 {
        assert_eq!(*handle.failed().borrow(), None);
        assert!(tokio::time::Instant::now() < deadline, "no snapshots");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    propose(&handle, "late").await.unwrap();
    drop(taken);
    cluster.stop(0).await;
    println!("snapshots were made");
}

#[test]
fn a_process_without_descriptors_keeps_its_raft() {
    let output = Process::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "descriptors::child_without_descriptors_makes_snapshots",
            "--nocapture",
        ])
        .env(CHILD, "yes")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("snapshots were made"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
