use std::os::unix::fs::FileExt as _;

use consensus::{Error, open};

use crate::harness::{Cluster, PATIENCE, has_queue, leads, node, propose, propose_many};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_that_was_away_catches_up_from_the_log() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    cluster.stop(2).await;
    propose_many(&handles[0], 300, 16).await;
    let committed = propose(&handles[0], "missed").await.unwrap();
    let back = cluster.start(2).await;
    back.wait_applied(committed.index, PATIENCE).await.unwrap();
    assert!(has_queue(&back, "missed"));
    assert_eq!(back.state().state_hash(), handles[0].state().state_hash());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_replicas_stopped_and_started_lose_nothing() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    propose_many(&handles[0], 500, 32).await;
    propose(&handles[0], "last").await.unwrap();
    drop(handles);
    for number in 0..3 {
        cluster.stop(number).await;
    }
    for number in 0..3 {
        let handle = cluster.start(number).await;
        if number > 0 {
            handle.read_index(PATIENCE).await.unwrap();
            assert!(has_queue(&handle, "last"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_snapshot_is_refused_with_file_and_remedy() {
    let cluster = Cluster::new();
    let handle = cluster.start(0).await;
    handle.initialize().await.unwrap();
    leads(&handle).await;
    propose_many(&handle, 100, 10).await;
    handle.trigger_snapshot().await.unwrap();
    let snapshots = cluster.directory(&node(0)).join("snapshots");
    let file = tokio::time::timeout(PATIENCE, async {
        while handle.metrics().snapshot_index.0 == 0 {
            tokio::task::yield_now().await;
        }
        std::fs::read_dir(&snapshots)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path()
    })
    .await
    .unwrap();
    cluster.stop(0).await;
    let opened = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&file)
        .unwrap();
    let middle = opened.metadata().unwrap().len() / 2;
    let mut byte = [0];
    opened.read_exact_at(&mut byte, middle).unwrap();
    opened.write_all_at(&[byte[0] ^ 4], middle).unwrap();
    let error = open(cluster.config(&node(0)), cluster.line(&node(0)))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains(".snap") && text.contains("rejoin"), "{text}");
    // The directory is free again: nothing of the failed start lingers.
    opened.write_all_at(&byte, middle).unwrap();
    cluster.start(0).await;
    cluster.stop(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_cut_off_under_its_mark_is_refused() {
    let cluster = Cluster::new();
    let handle = cluster.start(0).await;
    handle.initialize().await.unwrap();
    leads(&handle).await;
    for i in 0..20 {
        propose(&handle, &format!("queue-{i}")).await.unwrap();
    }
    // An old copy of the log under a newer mark: a disk or a person turned time back.
    let directory = cluster.directory(&node(0));
    cluster.stop(0).await;
    let old = std::fs::read(directory.join("log/db")).unwrap();
    let handle = cluster.start(0).await;
    leads(&handle).await;
    propose_many(&handle, 50, 1).await;
    cluster.stop(0).await;
    std::fs::write(directory.join("log/db"), old).unwrap();
    let error = open(cluster.config(&node(0)), cluster.line(&node(0)))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(
        error.to_string().contains("acknowledged") || error.to_string().contains("vote"),
        "{error}"
    );
}
