//! Replicas in one process over a transport of function calls.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use consensus::{
    BoxFuture, Committed, Config, Handle, ProposeError, Transport, TransportError, open,
};
use futures::FutureExt as _;
use state_machine::{Command, CreateQueue, LogEntry, Outcome};
use tempfile::TempDir;
use types::{Author, NodeId, Timestamp};

/// Time for anything in a test that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Connects replicas by name; who is not in `handles` or is in `cut` is not reached.
#[derive(Default)]
pub(crate) struct Switchboard {
    handles: Mutex<BTreeMap<NodeId, Handle>>,
    cut: Mutex<BTreeSet<NodeId>>,
    pub(crate) bulk_bytes: AtomicU64,
    pub(crate) calls: AtomicU64,
}

/// One replica's end of the switchboard.
struct Line {
    from: NodeId,
    board: Arc<Switchboard>,
}

impl Switchboard {
    pub(crate) fn cut(&self, node: &NodeId) {
        self.cut.lock().unwrap().insert(node.clone());
    }

    pub(crate) fn mend(&self, node: &NodeId) {
        self.cut.lock().unwrap().remove(node);
    }
}

impl Line {
    fn send(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (from, board) = (self.from.clone(), Arc::clone(&self.board));
        async move {
            let unreachable = || TransportError::Unreachable {
                why: "it is down".into(),
            };
            let cut = |node: &NodeId| board.cut.lock().unwrap().contains(node);
            if cut(&from) || cut(&to) {
                return Err(unreachable());
            }
            let handle = board
                .handles
                .lock()
                .unwrap()
                .get(&to)
                .cloned()
                .ok_or_else(unreachable)?;
            let answer = tokio::time::timeout(deadline, handle.handle_call(&from, request)).await;
            drop(handle);
            if cut(&from) || cut(&to) {
                return Err(TransportError::Failed {
                    why: "the connection broke".into(),
                });
            }
            answer.map_err(|_elapsed| TransportError::TimedOut)
        }
        .boxed()
    }
}

impl Transport for Line {
    fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.board.calls.fetch_add(1, Ordering::Relaxed);
        self.send(to, request, deadline)
    }

    fn bulk(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.board
            .bulk_bytes
            .fetch_add(request.len() as u64, Ordering::Relaxed);
        assert!(
            request.len() <= 8 << 20,
            "a bulk message of {} bytes",
            request.len()
        );
        self.send(to, request, deadline)
    }
}

/// Replicas a, b, c and so on, each with a directory.
pub(crate) struct Cluster {
    pub(crate) board: Arc<Switchboard>,
    root: PathBuf,
    /// None: the caller's directory, which stays.
    _own: Option<TempDir>,
    pub(crate) snapshot_every_entries: u64,
    pub(crate) keep_log_entries: u64,
    pub(crate) compare_every_entries: u64,
}

pub(crate) fn node(number: usize) -> NodeId {
    "abcdefgh"[number..=number].parse().unwrap()
}

pub(crate) fn nodes(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<NodeId> {
    numbers.into_iter().map(node).collect()
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let own = tempfile::tempdir().unwrap();
        let root = own.path().to_owned();
        Self {
            _own: Some(own),
            ..Self::at(&root)
        }
    }

    /// In a directory that another process may have used before.
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            board: Arc::default(),
            root: root.to_owned(),
            _own: None,
            snapshot_every_entries: 20_000,
            keep_log_entries: 2_000,
            compare_every_entries: 10_000,
        }
    }

    pub(crate) fn directory(&self, node: &NodeId) -> PathBuf {
        self.root.join(node.as_str())
    }

    pub(crate) fn config(&self, node: &NodeId) -> Config {
        Config {
            snapshot_every_entries: self.snapshot_every_entries,
            keep_log_entries: self.keep_log_entries,
            compare_every_entries: self.compare_every_entries,
            reserve_bytes: 1 << 20,
            ..Config::new(self.directory(node), node.clone())
        }
    }

    pub(crate) fn line(&self, node: &NodeId) -> Arc<dyn Transport> {
        Arc::new(Line {
            from: node.clone(),
            board: Arc::clone(&self.board),
        })
    }

    pub(crate) async fn start(&self, number: usize) -> Handle {
        let node = node(number);
        let handle = open(self.config(&node), self.line(&node)).await.unwrap();
        self.board
            .handles
            .lock()
            .unwrap()
            .insert(node, handle.clone());
        handle
    }

    /// Takes the replica away from the others, then stops it.
    pub(crate) async fn stop(&self, number: usize) {
        let handle = self
            .board
            .handles
            .lock()
            .unwrap()
            .remove(&node(number))
            .unwrap();
        handle.shutdown().await;
    }

    /// Replicas 0 to `count`, all voters, led by 0.
    pub(crate) async fn of(&self, count: usize) -> Vec<Handle> {
        let mut handles = vec![self.start(0).await];
        handles[0].initialize().await.unwrap();
        leads(&handles[0]).await;
        for number in 1..count {
            handles.push(self.start(number).await);
            handles[0].add_learner(node(number)).await.unwrap();
        }
        handles[0].set_voters(nodes(0..count), true).await.unwrap();
        handles
    }
}

/// Waits until `handle` leads.
pub(crate) async fn leads(handle: &Handle) {
    let mut leader = handle.leader();
    tokio::time::timeout(PATIENCE, leader.wait_for(|now| now.is_self))
        .await
        .expect("it must lead")
        .unwrap();
}

/// Waits until one of `handles` leads and returns which.
pub(crate) async fn any_leads(handles: &[&Handle]) -> usize {
    let waiting = handles.iter().map(|handle| leads(handle).boxed());
    let (_, which, _) = futures::future::select_all(waiting).await;
    which
}

pub(crate) fn command(command: Command) -> LogEntry {
    LogEntry {
        time: Timestamp(1),
        author: Author::node(node(0)),
        request: None,
        command,
    }
}

pub(crate) fn entry(name: &str) -> LogEntry {
    command(Command::CreateQueue(CreateQueue {
        name: name.parse().unwrap(),
        priority: 1,
    }))
}

pub(crate) async fn propose(handle: &Handle, name: &str) -> Result<Committed, ProposeError> {
    let committed = handle.propose(entry(name)).await?;
    assert_eq!(committed.outcome, Outcome::Done);
    Ok(committed)
}

pub(crate) fn has_queue(handle: &Handle, name: &str) -> bool {
    handle.state().queue(&name.parse().unwrap()).is_some()
}

/// Proposes `count` entries with `width` at a time.
pub(crate) async fn propose_many(handle: &Handle, count: usize, width: usize) {
    use futures::StreamExt as _;
    let proposals = (0..count).map(|i| {
        let name = format!("many-{}", i % 50);
        async move { propose(handle, &name).await.unwrap() }
    });
    futures::stream::iter(proposals)
        .buffer_unordered(width)
        .for_each(|_| async {})
        .await;
}

pub(crate) fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
