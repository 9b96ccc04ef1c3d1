use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::ReadError;

use crate::harness::{Cluster, PATIENCE, has_queue, node, propose};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_on_any_replica_shows_what_was_acknowledged_before() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    for i in 0..30 {
        let name = format!("queue-{i}");
        let committed = propose(&handles[0], &name).await.unwrap();
        for handle in &handles {
            assert!(handle.read_index(PATIENCE).await.unwrap() >= committed.index);
            assert!(has_queue(handle, &name));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_waiting_reads_share_a_round() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    let before = cluster.board.calls.load(Ordering::Relaxed);
    let reads = (0..200).map(|_| handles[0].read_index(PATIENCE));
    for read in futures::future::join_all(reads).await {
        read.unwrap();
    }
    let calls = cluster.board.calls.load(Ordering::Relaxed) - before;
    assert!(calls < 100, "200 reads took {calls} calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_without_a_majority_fails_in_time_and_says_why() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    cluster.board.cut(&node(1));
    cluster.board.cut(&node(2));
    for handle in &handles[..2] {
        let error = handle.read_index(Duration::from_secs(2)).await.unwrap_err();
        assert!(matches!(error, ReadError::Unavailable { .. }), "{error}");
    }
}
