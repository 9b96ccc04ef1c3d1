use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use state_machine::ARCHIVE_ENTRIES;

use crate::harness::{Cluster, PATIENCE, has_queue, leads, node, nodes, propose, propose_many};

fn files(directory: &Path, ending: &str) -> Vec<String> {
    let names = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_is_purged_behind_snapshots_and_a_restart_starts_from_one() {
    let mut cluster = Cluster::new();
    cluster.snapshot_every_entries = 1_000;
    cluster.keep_log_entries = 100;
    let handle = cluster.start(0).await;
    handle.initialize().await.unwrap();
    leads(&handle).await;
    propose(&handle, "early").await.unwrap();
    propose_many(&handle, 5_500, 64).await;
    until("the log must be purged", || {
        handle.metrics().purged.0 > 3_000
    })
    .await;
    let hash = handle.state().state_hash();
    let directory = cluster.directory(&node(0));
    cluster.stop(0).await;
    assert!((1..=2).contains(&files(&directory.join("snapshots"), ".snap").len()));
    assert!(files(&directory.join("snapshots"), ".tmp").is_empty());

    let handle = cluster.start(0).await;
    assert!(has_queue(&handle, "early"));
    let state = handle.state();
    assert!(state.applied().0 > 5_000);
    leads(&handle).await;
    propose(&handle, "late").await.unwrap();
    // The ledger and everything else is as before, only longer.
    assert_ne!(handle.state().state_hash(), hash);
    cluster.stop(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learner_added_after_a_purge_gets_snapshot_and_archives() {
    let mut cluster = Cluster::new();
    cluster.snapshot_every_entries = 2_000;
    cluster.keep_log_entries = 10;
    let first = cluster.start(0).await;
    first.initialize().await.unwrap();
    leads(&first).await;
    propose(&first, "early").await.unwrap();
    propose_many(&first, 2 * ARCHIVE_ENTRIES + 700, 64).await;
    let names: Vec<_> = first
        .state()
        .archives()
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(names.len(), 1, "one ledger file must be sealed");
    // The snapshot must be newer than the archive, or the learner would make the file itself.
    first.trigger_snapshot().await.unwrap();
    until("the log must be purged", || {
        first.metrics().purged.0 > 2 * ARCHIVE_ENTRIES as u64
    })
    .await;

    let second = cluster.start(1).await;
    first.add_learner(node(1)).await.unwrap();
    let index = first.read_index(PATIENCE).await.unwrap();
    second.wait_applied(index, PATIENCE).await.unwrap();
    assert!(cluster.board.bulk_bytes.load(Ordering::Relaxed) > 100_000);
    assert_eq!(second.state().state_hash(), first.state().state_hash());
    assert!(has_queue(&second, "early"));
    let archive = second
        .archive(&names[0])
        .await
        .unwrap()
        .expect("fetched with the snapshot");
    assert_eq!(Some(archive), first.archive(&names[0]).await.unwrap());
    assert_eq!(second.archive("../lock").await.unwrap(), None);

    first.set_voters(nodes(0..2), false).await.unwrap();
    propose(&first, "late").await.unwrap();
    cluster.stop(1).await;
    let second = cluster.start(1).await;
    second.read_index(PATIENCE).await.unwrap();
    assert!(has_queue(&second, "late"));
    cluster.stop(1).await;

    // An archive that is gone is noticed at the next start.
    let path = cluster
        .directory(&node(1))
        .join("archives")
        .join(format!("{}.archive", names[0]));
    std::fs::remove_file(path).unwrap();
    let error = consensus::open(cluster.config(&node(1)), cluster.line(&node(1)))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(&names[0]) && error.to_string().contains("rejoin"),
        "{error}"
    );
}
