//! What can go wrong, by the step that failed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use types::NodeId;

/// What a person does about a damaged or lost store (invariant 3).
pub(crate) const REMEDY: &str = "a damaged replica never rejoins under its old identity: run `muster up --rejoin <token>` with a \
     token of another machine; the old files are kept aside (a cluster of one machine: `muster restore` of a backup)";

/// Opening the store or using it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has this directory open.
    #[error("the data directory {} is in use{}: stop the other muster first", directory.display(), describe_pid(*pid))]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// The other process, if it said so.
        pid: Option<u32>,
    },
    /// The directory belongs to another node.
    #[error("the data directory {} belongs to node {stored}, not to {given}", directory.display())]
    OtherNode {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        stored: NodeId,
        /// Who opened it.
        given: NodeId,
    },
    /// Stored bytes are not those that were written, or are gone.
    #[error("{} is damaged at {key}: {what}; {REMEDY}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// Written by another version of muster; not damage, and nothing to rejoin for.
    #[error("{} was written by another muster: {key} has a form that this one does not know: {what}; if there never was another, it is damaged: {REMEDY}", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Where in it.
        key: String,
        /// What was found.
        what: String,
    },
    /// A file operation failed.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The store of the log failed.
    #[error("cannot {step} the raft log in {}", path.display())]
    Log {
        /// What was tried.
        step: &'static str,
        /// Its directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A committed command that cannot be applied: the replicas cannot go on, but agree about what they have.
    #[error(
        "log entry {index} of {author} makes the state machine panic: nothing after it can be applied; keep the data \
         directories and install a muster in which it is mended"
    )]
    Poison {
        /// Its index.
        index: u64,
        /// Who proposed it.
        author: String,
    },
    /// The timing or counts make no sense to Raft.
    #[error("the consensus settings are not usable")]
    Settings(#[source] openraft::ConfigError),
    /// Raft stopped, after a failure or a shutdown.
    #[error("consensus has stopped: {why}")]
    Stopped {
        /// Why.
        why: String,
    },
    /// This node may not make a cluster: it has a log already.
    #[error("this node already belongs to a cluster")]
    AlreadyInitialized,
    /// The log did not get that far in time.
    #[error("log index {index} was not applied here within {waited:?}")]
    NotApplied {
        /// What was waited for.
        index: u64,
        /// How long.
        waited: Duration,
    },
    /// A worker of this crate ended by a panic.
    #[error("a storage task panicked while it tried to {step}")]
    Panicked {
        /// What it did.
        step: &'static str,
    },
}

fn describe_pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}"))
        .unwrap_or_default()
}

impl Error {
    /// Stored bytes that the codec refused: of another format version, or damaged.
    pub(crate) fn undecodable(
        file: impl Into<PathBuf>,
        key: &str,
        error: &types::codec::Error,
    ) -> Self {
        let (file, key, what) = (file.into(), key.to_owned(), chain(error));
        match error {
            types::codec::Error::Version { .. } => Self::Foreign { file, key, what },
            _ => Self::Damaged { file, key, what },
        }
    }

    pub(crate) fn file(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { step, path, source }
    }

    /// For openraft, which knows `io::Error` only.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// The text of an error and of all its sources, for one line in a log.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// A proposal was not acknowledged.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProposeError {
    /// Another node leads, or nobody known. Nothing was written.
    #[error("this node does not lead the cluster{}", describe_leader(leader.as_ref()))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// No majority could be reached. Nothing was written.
    #[error("the cluster cannot accept writes: {why}")]
    Unavailable {
        /// What is missing.
        why: String,
    },
    /// It may have been committed or may still be; ask again with the same request id.
    #[error("the write may or may not have been committed: {why}")]
    Unknown {
        /// What happened.
        why: String,
    },
    /// The disk of the leader's log runs full. Nothing was written.
    #[error("this write is refused: {problem}")]
    DiskFull {
        /// Which disk, how full, what to do.
        problem: String,
    },
    /// Larger than a log entry may be; it belongs into a blob.
    #[error("a log entry of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Consensus stopped here, after a storage failure or a shutdown. If it did while the write was
    /// under way, the write may or may not be found committed later.
    #[error("consensus has stopped on this node: {why}")]
    Stopped {
        /// Why.
        why: String,
    },
}

fn describe_leader(leader: Option<&NodeId>) -> String {
    leader.map_or_else(
        || ": no leader is known".to_owned(),
        |leader| format!(": {leader} does"),
    )
}

/// A linearizable read was not possible.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// No leader, or no majority, could be reached in time.
    #[error("no linearizable read within {waited:?}: {why}")]
    Unavailable {
        /// Time spent.
        waited: Duration,
        /// What was missing last.
        why: String,
    },
    /// Consensus stopped here.
    #[error("consensus has stopped on this node: {why}")]
    Stopped {
        /// Why.
        why: String,
    },
}

/// A change of voters or learners was not made.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum MembershipError {
    /// Only the leader changes members.
    #[error("this node does not lead the cluster{}", describe_leader(leader.as_ref()))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Raft refused it, or it did not commit in time.
    #[error("the change of members was not made: {why}")]
    NotMade {
        /// Why.
        why: String,
    },
    /// Consensus stopped here.
    #[error("consensus has stopped on this node: {why}")]
    Stopped {
        /// Why.
        why: String,
    },
}
