//! What can go wrong.

use std::io;
use std::path::PathBuf;

use types::{AttemptToken, FrameError, codec};

/// Why the executor could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of all attempts cannot be made or listed.
    #[error("the attempts directory {} cannot be used", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Paths go into the attempt's environment and orders, which are text.
    #[error("the path {} is not UTF-8: choose another data directory", path.display())]
    PathNotText {
        /// Which.
        path: PathBuf,
    },
    /// Experiments cannot run as the user that the settings ask for.
    #[error("{why}")]
    JobUser {
        /// Why, and what to do.
        why: String,
    },
    /// No such attempt on this node.
    #[error("attempt {token} is not on this node")]
    UnknownAttempt {
        /// Which.
        token: AttemptToken,
    },
    /// Only an ended attempt can be released.
    #[error("attempt {token} still runs and cannot be released")]
    StillRunning {
        /// Which.
        token: AttemptToken,
    },
    /// Nothing is added to the records of an ended attempt.
    #[error("attempt {token} has ended")]
    HasEnded {
        /// Which.
        token: AttemptToken,
    },
    /// An artifact cannot be kept.
    #[error("the artifact {name:?} cannot be kept: {why}")]
    Artifact {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// The holder does not take points of metrics.
    #[error("the holder of attempt {token} takes no points now: its disk does not keep up")]
    NotTaken {
        /// Which.
        token: AttemptToken,
    },
    /// The executor's run loop has ended.
    #[error("the executor has stopped")]
    Stopped,
    /// Records or an attempt's file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record is damaged.
    #[error("the records in {} are damaged", path.display())]
    Frames {
        /// Which.
        path: PathBuf,
        /// How.
        #[source]
        source: FrameError,
    },
    /// A frame carries another number than its place.
    #[error("{} holds record {found} where record {expected} belongs", path.display())]
    Sequence {
        /// Which file.
        path: PathBuf,
        /// Number that belongs there.
        expected: u64,
        /// Number that is there.
        found: u64,
    },
    /// A stored file does not decode.
    #[error("{} does not decode", path.display())]
    Decode {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: codec::Error,
    },
    /// A file cannot be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be made durable. The process must end: a second fsync may lie.
    #[error("{} cannot be made durable", path.display())]
    Sync {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory cannot be removed.
    #[error("{} cannot be removed", path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The mirror has sealed these records; the owner's late bytes are refused.
    #[error("the mirrored records of attempt {token} are sealed")]
    Sealed {
        /// Which.
        token: AttemptToken,
    },
    /// A background task of the executor died.
    #[error("a background task of the executor ended early")]
    Task(#[source] tokio::task::JoinError),
}
