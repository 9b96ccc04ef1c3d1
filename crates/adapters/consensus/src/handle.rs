//! The face of consensus for the rest of the node.

mod leadership;
mod membership;
mod propose;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{InitializeError, RaftError};
use state_machine::{ClusterState, Event, Outcome};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use types::{ExperimentId, LogIndex, NodeId};

pub use self::leadership::Leadership;
pub(crate) use self::leadership::{Watcher, watch_leadership};
pub(crate) use self::read::{Asker, ReadQueue, serve_reads};
use crate::config::Config;
use crate::error::{Error, chain};
use crate::hand_over::Fitness;
use crate::log_store::LogStore;
use crate::published::ApplyStalls;
use crate::raft_types::{Raft, Replica};
use crate::receiver::Receiver;
use crate::reserve::{DiskRoom, Reserve};
use crate::stamped::Door;
use crate::wire::{Request, Response};

/// One replica of the cluster's state; clones are the same replica.
#[derive(Clone)]
pub struct Handle {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) receiver: Receiver,
    pub(crate) reads: ReadQueue,
    pub(crate) leadership: watch::Sender<Leadership>,
    /// One change of members at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Ends the background tasks.
    pub(crate) stop: CancellationToken,
    pub(crate) reserve: Reserve,
    pub(crate) door: Door,
    /// The directory's lock; given back by a shutdown.
    pub(crate) lock: Mutex<Option<File>>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("node", &self.inner.config.node)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A committed proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its place in the log.
    pub index: LogIndex,
    /// What applying it said; a refusal is an outcome too.
    pub outcome: Outcome,
}

/// Figures of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Current term.
    pub term: u64,
    /// Index of the newest log entry here.
    pub last_log_index: LogIndex,
    /// Index up to which the state is applied here.
    pub applied: LogIndex,
    /// Index of the newest snapshot.
    pub snapshot_index: LogIndex,
    /// Index up to which the log is purged.
    pub purged: LogIndex,
    /// Bytes of the log's files.
    pub log_bytes_on_disk: u64,
    /// Group commits made durable since the start: two fdatasyncs each.
    pub group_commits: u64,
    /// Appends that shared them.
    pub appends: u64,
    /// Smoothed time of a group commit.
    pub sync_micros: u64,
    /// Bytes of the newest snapshot, without the archives that it names.
    pub snapshot_bytes: u64,
    /// Time that the newest snapshot took to write, in the background.
    pub snapshot_micros: u64,
}

impl Handle {
    /// Makes a cluster of this node alone. Only ever called on the first node (invariant 7).
    ///
    /// # Errors
    /// This node has a log already, or storage failed.
    pub async fn initialize(&self) -> Result<(), Error> {
        let members = BTreeMap::from([(
            Replica(self.inner.config.node.clone()),
            openraft::EmptyNode::new(),
        )]);
        match self.inner.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                Err(Error::AlreadyInitialized)
            }
            Err(error) => Err(self.stopped(&error)),
        }
    }

    /// Whether this node belongs to a cluster.
    ///
    /// # Errors
    /// Consensus has stopped.
    pub async fn is_initialized(&self) -> Result<bool, Error> {
        self.inner
            .raft
            .is_initialized()
            .await
            .map_err(|error| self.stopped(&error))
    }

    /// The newest applied state. Cheap; never waits for apply or a snapshot.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        self.inner.receiver.stores.published.state()
    }

    /// Index of the newest applied entry; a change wakes loops.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<LogIndex> {
        self.inner.receiver.stores.published.applied()
    }

    /// Events from now on. Who lags by more than 8,192 must re-read the state.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<(LogIndex, Event)> {
        self.inner.receiver.stores.published.subscribe()
    }

    /// Returns when `index` is applied here.
    ///
    /// # Errors
    /// Not within `deadline`.
    pub async fn wait_applied(&self, index: LogIndex, deadline: Duration) -> Result<(), Error> {
        let mut applied = self.applied();
        let waiting = applied.wait_for(|applied| *applied >= index);
        match tokio::time::timeout(deadline, waiting).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::NotApplied {
                index: index.0,
                waited: deadline,
            }),
        }
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    /// Why this node must stop, once it must: a failed fsync or checksum (invariant 3).
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.inner.receiver.stores.failure.watch()
    }

    /// Current voters.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.inner
            .raft
            .voter_ids()
            .map(|replica| replica.0)
            .collect()
    }

    /// Current learners.
    #[must_use]
    pub fn learners(&self) -> BTreeSet<NodeId> {
        self.inner
            .raft
            .learner_ids()
            .map(|replica| replica.0)
            .collect()
    }

    /// Answers a request that another replica sent through its transport. `from` is authenticated by
    /// the caller.
    pub async fn handle_call(&self, from: &NodeId, request: Bytes) -> Bytes {
        let request = match self.inner.door.receive(from, &request).await {
            Ok(request) => request,
            Err(refusal) => return refusal,
        };
        let response = match Request::decode(&request) {
            Ok(Request::ReadIndex) => self.answer_read(from).await,
            Ok(Request::Fitness) => {
                let Fitness { roomy, sync_micros } = self.inner.fitness();
                Response::Fitness { roomy, sync_micros }
            }
            Ok(request) => self.inner.receiver.answer(from, request).await,
            Err(error) => Response::Failed(error.to_string()),
        };
        self.inner.door.seal(response.encode())
    }

    /// How much room the disk of the log has; changes wake whoever must tell people.
    #[must_use]
    pub fn disk_room(&self) -> watch::Receiver<DiskRoom> {
        self.inner.reserve.watch()
    }

    /// What a person should know of the disk of the log.
    #[must_use]
    pub fn disk_problem(&self) -> Option<String> {
        let reserve = &self.inner.reserve;
        reserve.room().problem(reserve.directory())
    }

    /// The archive file that holds an experiment which has left the hot state.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub async fn archived_experiment(
        &self,
        experiment: ExperimentId,
    ) -> Result<Option<Bytes>, Error> {
        self.inner
            .receiver
            .stores
            .archives
            .read_experiment(experiment)
            .await
            .inspect_err(|error| self.report_damage(error))
    }

    /// An archive file by its name in the state.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub async fn archive(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let read = self.inner.receiver.stores.archives.read(name).await;
        read.inspect_err(|error| self.report_damage(error))
    }

    /// Damage that a read meets stops the node like damage that a start meets.
    fn report_damage(&self, error: &Error) {
        if matches!(error, Error::Damaged { .. }) {
            self.inner.receiver.stores.failure.report(chain(error));
        }
    }

    /// A piece of an archive in its stored form, and the length of the whole; none if there is no such archive.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn archive_piece(
        &self,
        name: &str,
        offset: u64,
        length: u64,
    ) -> Result<Option<(Bytes, u64)>, Error> {
        let archives = &self.inner.receiver.stores.archives;
        archives.piece(name, offset, length).await
    }

    /// Figures of this replica.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: &Option<crate::raft_types::RaftLogId>| {
            LogIndex(id.as_ref().map_or(0, |id| id.index))
        };
        let counters = self.inner.log.counters();
        let stores = &self.inner.receiver.stores;
        Metrics {
            term: metrics.current_term,
            last_log_index: LogIndex(metrics.last_log_index.unwrap_or(0)),
            applied: index(&metrics.last_applied),
            snapshot_index: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            // Closed or failing: the failure is reported elsewhere.
            log_bytes_on_disk: self.inner.log.size_on_disk().unwrap_or(0),
            group_commits: counters.commits.load(Ordering::Relaxed),
            appends: counters.appends.load(Ordering::Relaxed),
            sync_micros: counters.sync_micros(),
            snapshot_bytes: stores
                .snapshots
                .current()
                .map_or(0, |snapshot| snapshot.snapshot.length()),
            snapshot_micros: stores.published.snapshot_micros(),
        }
    }

    /// For how long, since this was last asked, applying a chunk of entries or starting a snapshot held up what came
    /// after it.
    #[must_use]
    pub fn take_apply_stalls(&self) -> ApplyStalls {
        self.inner.receiver.stores.published.take_apply_stalls()
    }

    /// Starts a snapshot now.
    ///
    /// # Errors
    /// Consensus has stopped.
    pub async fn trigger_snapshot(&self) -> Result<(), Error> {
        self.inner
            .raft
            .trigger()
            .snapshot()
            .await
            .map_err(|error| self.stopped(&error))
    }

    /// Stops this replica and closes its directory. Other clones of the handle get errors from then on.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(error = chain(&error), "a raft task ended by a panic");
        }
        self.inner.log.close().await;
        drop(
            self.inner
                .lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    /// Why consensus has stopped, best known reason first.
    pub(crate) fn why_stopped(&self, error: &(dyn std::error::Error + 'static)) -> String {
        self.inner
            .receiver
            .stores
            .failure
            .why()
            .unwrap_or_else(|| chain(error))
    }

    fn stopped(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        Error::Stopped {
            why: self.why_stopped(error),
        }
    }
}
