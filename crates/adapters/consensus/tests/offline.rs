//! Stores that are read, replaced and made while no replica runs on them.

// Integration tests are always built for tests; the attribute says so to clippy, which allows more there.
#![cfg(test)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{BoxFuture, Config, Handle, NewReplica, Transport, TransportError, inspect, open};
use futures::FutureExt as _;
use state_machine::{
    ClusterState, Command, CreateQueue, FoundCluster, HISTORY_STRIDE, LogEntry, NewHistory,
    Survivors,
};
use types::{Author, ClusterId, DurationMs, Incarnation, LogIndex, NodeFacts, NodeId, Timestamp};

/// Nobody else is there.
struct Alone;

impl Transport for Alone {
    fn call(
        &self,
        _: NodeId,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let why = "alone".into();
        async { Err(TransportError::Unreachable { why }) }.boxed()
    }

    fn bulk(
        &self,
        to: NodeId,
        bytes: Bytes,
        time: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.call(to, bytes, time)
    }
}

fn node() -> NodeId {
    "founder".parse().unwrap()
}

fn facts() -> NodeFacts {
    NodeFacts {
        name: "a".to_owned(),
        version: "0.1.0".to_owned(),
        control_addresses: Vec::new(),
        bulk_addresses: Vec::new(),
        takes_work: true,
        may_vote: true,
        keeps_blobs: true,
        labels: Vec::new(),
    }
}

fn entry(command: Command) -> LogEntry {
    LogEntry {
        time: Timestamp(1),
        author: Author::node(node()),
        request: None,
        command,
    }
}

fn queue(number: usize) -> LogEntry {
    entry(Command::CreateQueue(CreateQueue {
        name: format!("q{number}").parse().unwrap(),
        priority: 0,
    }))
}

async fn start(directory: &Path, node: NodeId) -> Handle {
    let config = Config::new(directory.to_owned(), node);
    let handle = open(config, Arc::new(Alone)).await.unwrap();
    if !handle.is_initialized().await.unwrap() {
        handle.initialize().await.unwrap();
    }
    let mut leader = handle.leader();
    let led = leader.wait_for(|now| now.is_self);
    tokio::time::timeout(Duration::from_secs(60), led)
        .await
        .expect("the only voter leads")
        .unwrap();
    handle
}

/// A store with so many queues, stopped.
async fn used_store(directory: &Path, queues: usize) -> ClusterState {
    let handle = start(directory, node()).await;
    let found = Command::FoundCluster(FoundCluster {
        cluster: ClusterId([1; 32]),
        public_key: vec![1],
        founder: node(),
        facts: facts(),
        timing: "lan".to_owned(),
    });
    handle.propose(entry(found)).await.unwrap();
    for chunk in (0..queues).collect::<Vec<_>>().chunks(512) {
        let proposals = chunk.iter().map(|number| handle.propose(queue(*number)));
        for proposed in futures::future::join_all(proposals).await {
            proposed.unwrap();
        }
    }
    let state = handle.state().as_ref().clone();
    handle.shutdown().await;
    state
}

fn new_history(founder: NodeId, incarnation: u64) -> NewHistory {
    NewHistory {
        incarnation: Incarnation(incarnation),
        founder,
        facts: facts(),
        cluster: None,
        survivors: Survivors::AllBut(BTreeSet::new()),
        hold: DurationMs(0),
        now: Timestamp(2),
        reason: "a test".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_store_is_read_whole_and_replaced_by_a_new_history() {
    let directory = tempfile::tempdir().unwrap();
    let (raft, aside) = (directory.path().join("raft"), directory.path().join("old"));
    let before = used_store(&raft, 8_300).await;
    assert!(before.archives().next().is_some(), "the ledger was sealed");

    let stopped = inspect(raft.clone(), node()).await.unwrap();
    assert_eq!(stopped.last, before.applied());
    assert_eq!(stopped.state.state_hash(), before.state_hash());
    assert_eq!(stopped.voters, BTreeSet::from([node()]));
    assert!(stopped.term > 0 && stopped.committed <= stopped.last);
    let in_use = inspect(raft.clone(), node()).await.unwrap_err();
    assert!(in_use.to_string().contains("in use"), "{in_use}");

    let mut state = stopped.state.clone();
    let files = state.begin_history(&new_history(node(), 2)).unwrap();
    stopped
        .replace(node(), &state, files, &aside)
        .await
        .unwrap();
    assert!(aside.join("log/db").exists(), "the old store is kept");

    for _ in 0..2 {
        let handle = start(&raft, node()).await;
        assert_eq!(handle.state().incarnation(), Incarnation(2));
        assert!(handle.state().queue(&"q8299".parse().unwrap()).is_some());
        for (name, _) in before.archives() {
            assert!(handle.archive(name).await.unwrap().is_some(), "{name}");
        }
        handle.shutdown().await;
    }
    let handle = start(&raft, node()).await;
    let committed = handle.propose(queue(9_999)).await.unwrap();
    assert!(committed.index > LogIndex(HISTORY_STRIDE));
    handle.trigger_snapshot().await.unwrap();
    handle.shutdown().await;
    let again = inspect(raft, node()).await.unwrap();
    assert!(again.state.queue(&"q9999".parse().unwrap()).is_some());
    assert!(again.last >= committed.index);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_store_is_made_from_a_state_and_its_archives() {
    let directory = tempfile::tempdir().unwrap();
    let (raft, copy) = (directory.path().join("raft"), directory.path().join("copy"));
    let before = used_store(&raft, 8_300).await;
    let source = start(&raft, node()).await;
    let other: NodeId = "another".parse().unwrap();
    let replica = NewReplica::begin(copy.clone(), other.clone())
        .await
        .unwrap();
    let mut state = before.clone();
    let files = state.begin_history(&new_history(other.clone(), 2)).unwrap();
    let names: Vec<_> = before.archives().map(|(name, _)| name.to_owned()).collect();
    for name in &names {
        let (record, length) = source
            .archive_piece(name, 0, u64::MAX)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(record.len() as u64, length);
        let mut damaged = record.to_vec();
        damaged[100] ^= 1;
        let refused = replica
            .add_archive(&state, name.clone(), damaged.into())
            .await;
        assert!(refused.unwrap_err().to_string().contains(name.as_str()));
        replica
            .add_archive(&state, name.clone(), record)
            .await
            .unwrap();
    }
    let unknown = replica.add_archive(&state, "ledger-9".to_owned(), Bytes::new());
    assert!(unknown.await.is_err());
    replica.complete(&state, files, 7).await.unwrap();
    source.shutdown().await;

    let handle = start(&copy, other).await;
    assert_eq!(handle.state().incarnation(), Incarnation(2));
    assert!(handle.archive(&names[0]).await.unwrap().is_some());
    handle.propose(queue(1)).await.unwrap();
    handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_store_without_its_archives_is_not_completed() {
    let directory = tempfile::tempdir().unwrap();
    let state = used_store(&directory.path().join("raft"), 8_300).await;
    let replica = NewReplica::begin(directory.path().join("copy"), node())
        .await
        .unwrap();
    let refused = replica.complete(&state, Vec::new(), 1).await.unwrap_err();
    assert!(refused.to_string().contains("ledger-"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_another_version_is_refused_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let raft = directory.path().join("raft");
    used_store(&raft, 3).await;
    let handle = start(&raft, node()).await;
    handle.trigger_snapshot().await.unwrap();
    let snapshots = raft.join("snapshots");
    let snapshot = loop {
        let mut names = std::fs::read_dir(&snapshots)
            .unwrap()
            .map(|name| name.unwrap().path());
        let is_whole =
            |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "snap");
        if let Some(found) = names.find(is_whole) {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    handle.shutdown().await;
    // After the length of the header comes the codec's version byte.
    let mut bytes = std::fs::read(&snapshot).unwrap();
    bytes[4] = 9;
    std::fs::write(&snapshot, bytes).unwrap();
    let config = Config::new(raft, node());
    let said = open(config, Arc::new(Alone)).await.unwrap_err().to_string();
    assert!(
        said.contains("another muster") && said.contains("version 9"),
        "{said}"
    );
}
