//! Stores without a running replica: what a stopped one holds, and a new one made from a state, for restore and for
//! recovery from a lost majority.
//!
//! A new store is made in a directory of its own; the caller puts it in place when it is whole. The one that is looked
//! at is not changed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::RaftLogReader as _;
use openraft::storage::RaftLogStorage as _;
use state_machine::{ArchiveFile, ClusterState, LogEntry};
use types::{LogIndex, NodeId, codec};

use crate::archives::{Archives, blocking};
use crate::directory::{Layout, sync_directory};
use crate::error::Error;
use crate::failure::Failure;
use crate::generation;
use crate::log_store::{LogStore, MAX_ENTRY_BYTES, open_log};
use crate::machine::{Snapshots, read_state};
use crate::raft_types::{
    RaftEntry, RaftLogId, RaftMembership, RaftSnapshotMeta, RaftVote, Replica,
};
use crate::reserve::Reserve;

/// Entries read from the log at a time.
const READ_ENTRIES: u64 = 1_000;
/// Terms that one history may use before the next one's begin: elections happen at most some times a second.
const TERM_STRIDE: u64 = 1_000_000_000;
/// Files by which others know which opening of this node's store speaks; a new store goes on from them.
const CARRIED: [&str; 2] = ["generation", "seen"];

/// What a stopped replica holds: its whole log applied, also what it never heard to be committed. An acknowledged write
/// may be among that, since its own acknowledgement may have made the majority.
#[derive(Debug)]
pub struct StoppedReplica {
    /// State after the last entry.
    pub state: ClusterState,
    /// Last entry.
    pub last: LogIndex,
    /// Last entry that it knew to be committed.
    pub committed: LogIndex,
    /// Highest term that it has seen.
    pub term: u64,
    /// Voters by the newest entry about them.
    pub voters: BTreeSet<NodeId>,
    /// Learners likewise.
    pub learners: BTreeSet<NodeId>,
    /// Archives that the log makes and that were not stored yet.
    sealed: Vec<ArchiveFile>,
    layout: Layout,
    // Held until the end: nobody else opens the store meanwhile.
    _lock: File,
}

/// Reads and checks the store of `node` in `directory`.
///
/// # Errors
/// It is in use, not there, damaged, or another node's.
pub async fn inspect(directory: PathBuf, node: NodeId) -> Result<StoppedReplica, Error> {
    let layout = Layout { root: directory };
    let opening = layout.clone();
    let (lock, log, snapshots) = blocking("open the data directory", move || {
        let file = opening.log().join("db");
        if !file.exists() {
            let (key, what) = ("the file".into(), "it is missing".into());
            return Err(Error::Damaged { file, key, what });
        }
        let lock = opening.lock()?;
        let reserve = Reserve::open(&opening.root, 0);
        let log = open_log(&opening, &node, Failure::new(), reserve)?;
        Ok((lock, log, Snapshots::open(&opening)?))
    })
    .await?;
    let read = read_whole(&log, &snapshots).await;
    log.close().await;
    let read = read?;
    Ok(StoppedReplica {
        last: read.state.applied(),
        committed: read.committed,
        term: read.term,
        voters: ids(read.membership.voter_ids()),
        learners: ids(read.membership.membership().learner_ids()),
        state: read.state,
        sealed: read.sealed,
        layout,
        _lock: lock,
    })
}

fn ids(replicas: impl Iterator<Item = Replica>) -> BTreeSet<NodeId> {
    replicas.map(|replica| replica.0).collect()
}

struct Read {
    state: ClusterState,
    membership: RaftMembership,
    sealed: Vec<ArchiveFile>,
    committed: LogIndex,
    term: u64,
}

async fn read_whole(log: &LogStore, snapshots: &Snapshots) -> Result<Read, Error> {
    let mut log = log.clone();
    let unreadable = |source| Error::File {
        step: "read the log of",
        path: "this replica".into(),
        source,
    };
    let vote = log.read_vote().await.map_err(unreadable)?;
    let log_state = log.get_log_state().await.map_err(unreadable)?;
    let committed = log.read_committed().await.map_err(unreadable)?;
    let mut read = Read {
        state: ClusterState::default(),
        membership: RaftMembership::default(),
        sealed: Vec::new(),
        committed: LogIndex(committed.map_or(0, |id| id.index)),
        term: vote.map_or(0, |vote| vote.leader_id.term),
    };
    let mut next = 0;
    if let Some(snapshot) = snapshots.current() {
        let file = snapshot.snapshot;
        read.state = blocking("read a snapshot", move || read_state(&file)).await?;
        read.membership = snapshot.meta.last_membership;
        next = snapshot.meta.last_log_id.map_or(0, |id| id.index + 1);
        read.committed = read.committed.max(LogIndex(next.saturating_sub(1)));
    }
    let end = log_state.last_log_id.map_or(0, |id| id.index + 1);
    while next < end {
        let until = end.min(next + READ_ENTRIES);
        let entries = log.try_get_log_entries(next..until).await;
        for entry in entries.map_err(unreadable)? {
            read.term = read.term.max(**entry.log_id.committed_leader_id());
            read.take(entry)?;
        }
        next = until;
    }
    Ok(read)
}

impl Read {
    fn take(&mut self, entry: RaftEntry) -> Result<(), Error> {
        let index = LogIndex(entry.log_id.index);
        match entry.payload {
            EntryPayload::Blank => self.state.skip(index),
            EntryPayload::Membership(membership) => {
                self.membership = RaftMembership::new(Some(entry.log_id), membership);
                self.state.skip(index);
            }
            EntryPayload::Normal(proposal) => {
                let entry: LogEntry =
                    codec::decode(&proposal.0, MAX_ENTRY_BYTES).map_err(|error| {
                        Error::undecodable("the log", &format!("command {index}"), &error)
                    })?;
                self.sealed.extend(self.state.apply(index, &entry).archives);
            }
        }
        Ok(())
    }
}

impl StoppedReplica {
    /// Whether it is a replica of a cluster at all.
    #[must_use]
    pub fn is_used(&self) -> bool {
        !self.voters.is_empty()
    }

    /// Makes a store of the same node beside this one, which starts with `state`, and puts it in place of this one. The
    /// old one is kept as `aside`.
    ///
    /// # Errors
    /// An archive is missing or damaged, or a file operation failed; then the old store is still there, here or aside.
    pub async fn replace(
        self,
        node: NodeId,
        state: &ClusterState,
        files: Vec<ArchiveFile>,
        aside: &Path,
    ) -> Result<(), Error> {
        let fresh = self.layout.root.with_extension("fresh");
        remove_all(&fresh)?;
        let replica = NewReplica::begin(fresh.clone(), node).await?;
        for name in CARRIED {
            let from = self.layout.root.join(name);
            if from.exists() {
                let to = fresh.join(name);
                fs::copy(&from, &to).map_err(Error::file("copy", &from))?;
            }
        }
        replica.add_files(self.sealed).await?;
        replica.add_files(files).await?;
        for (name, hash) in replica.archives.missing(state) {
            let path = self.layout.archives().join(format!("{name}.archive"));
            let record = fs::read(&path).map_err(Error::file("read", &path))?;
            replica.archives.receive(name, hash, record).await?;
        }
        replica.finish(state, self.term).await?;
        fs::rename(&self.layout.root, aside).map_err(Error::file("rename", &self.layout.root))?;
        fs::rename(&fresh, &self.layout.root).map_err(Error::file("rename", &fresh))?;
        let parent = self.layout.root.parent().unwrap_or(Path::new("/"));
        sync_directory(parent)
    }
}

fn remove_all(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", directory)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A store in the making. Not in use by anybody before `finish` has returned.
pub struct NewReplica {
    layout: Layout,
    node: NodeId,
    log: LogStore,
    archives: Archives,
    // Held until the end.
    _lock: File,
}

impl std::fmt::Debug for NewReplica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewReplica")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl NewReplica {
    /// Starts a store of `node` in an empty or absent directory.
    ///
    /// # Errors
    /// Something is there, or a file operation failed.
    pub async fn begin(directory: PathBuf, node: NodeId) -> Result<Self, Error> {
        let layout = Layout { root: directory };
        blocking("make a store", move || {
            if layout.log().exists() {
                return Err(Error::AlreadyInitialized);
            }
            layout.create()?;
            let lock = layout.lock()?;
            let reserve = Reserve::open(&layout.root, 0);
            let log = open_log(&layout, &node, Failure::new(), reserve)?;
            let archives = Archives::open(&layout)?;
            Ok(Self {
                layout,
                node,
                log,
                archives,
                _lock: lock,
            })
        })
        .await
    }

    /// Stores an archive that `state` names, as [`crate::Handle::archive_piece`] gave it.
    ///
    /// # Errors
    /// The state names no such archive, it is damaged, or cannot be written.
    pub async fn add_archive(
        &self,
        state: &ClusterState,
        name: String,
        record: Bytes,
    ) -> Result<(), Error> {
        let known = state.archives().find(|(known, _)| *known == name);
        let Some((_, hash)) = known else {
            return Err(Error::Damaged {
                file: name.into(),
                key: "its name".into(),
                what: "the state knows no such archive".into(),
            });
        };
        self.archives.receive(name, hash, record.into()).await
    }

    async fn add_files(&self, files: Vec<ArchiveFile>) -> Result<(), Error> {
        self.archives.add(files);
        self.archives.store().await
    }

    /// Stores what beginning the history sealed, the state as a snapshot, and an empty log after it in which this node
    /// alone votes. `term`: the highest that the old history may have used here.
    ///
    /// # Errors
    /// An archive is missing, or a file operation failed.
    pub async fn complete(
        self,
        state: &ClusterState,
        files: Vec<ArchiveFile>,
        term: u64,
    ) -> Result<(), Error> {
        self.add_files(files).await?;
        let fresh = self.layout.clone();
        blocking("start the generation of a store", move || {
            generation::next(&fresh, false).map(drop)
        })
        .await?;
        self.finish(state, term).await
    }

    async fn finish(self, state: &ClusterState, term: u64) -> Result<(), Error> {
        self.archives.check(state)?;
        let floor = state
            .incarnation()
            .0
            .saturating_sub(1)
            .saturating_mul(TERM_STRIDE);
        let term = floor.max(term + 1);
        let last = RaftLogId::new_term_index(term, state.applied().0);
        let replica = Replica(self.node.clone());
        let voters = vec![BTreeSet::from([replica.clone()])];
        let membership = openraft::Membership::new_with_defaults(voters, []);
        let meta = RaftSnapshotMeta {
            last_log_id: Some(last),
            last_membership: RaftMembership::new(Some(last), membership),
        };
        let (layout, stored) = (self.layout.clone(), state.clone());
        blocking("write a snapshot", move || {
            Snapshots::open(&layout)?.write(&stored, &meta).map(drop)
        })
        .await?;
        let mut log = self.log.clone();
        let failed = Error::file("write the log of", &self.layout.root);
        let written = async {
            log.save_vote(&RaftVote::new(term, replica)).await?;
            log.purge(last).await
        };
        let written = written.await;
        self.log.close().await;
        written.map_err(failed)?;
        sync_directory(&self.layout.root)
    }
}
