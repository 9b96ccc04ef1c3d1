//! What can go wrong, by step.

use std::io;
use std::path::{Path, PathBuf};

use tokio_util::codec::LinesCodecError;

use crate::protocol::{Failure, Order};

/// Why a machine was not started, stopped or listed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses the directory.
    #[error("{} is in use by another provider: stop that one first", path.display())]
    InUse {
        /// Directory of the provider.
        path: PathBuf,
        /// The refused lock.
        #[source]
        source: io::Error,
    },
    /// A file could not be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written durably.
    #[error("{} could not be written", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of ours does not hold what was written.
    #[error("{} is damaged: move it away, after looking which instances still run", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file of ours was written by another version.
    #[error("{} has format version {found}, this build knows {known}: use the muster that wrote it, or a newer one", path.display())]
    FileVersion {
        /// Which.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Version known.
        known: u32,
    },
    /// A program could not be started.
    #[error("{} could not be started", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A client token that cannot be one.
    #[error("{token:?} cannot be a client token: 1 to 64 of a-z, 0-9 and -")]
    Token {
        /// What was given.
        token: String,
    },
    /// A client token was used again for something else.
    #[error(
        "client token {token} already launched an instance with other arguments: use a new token"
    )]
    TokenReused {
        /// The token.
        token: String,
    },
    /// Too many instances run.
    #[error("{limit} instances run already: terminate one first")]
    TooMany {
        /// Most that may run.
        limit: usize,
    },
    /// No such instance.
    #[error("no instance {id} was launched here")]
    UnknownInstance {
        /// What was asked for.
        id: String,
    },
    /// An instance could not be signalled.
    #[error("instance {id} could not be signalled")]
    Signal {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An instance did not end, even when killed.
    #[error(
        "instance {id} still has processes {pids:?} after they were killed: the kernel holds them, look at `dmesg`"
    )]
    StillRuns {
        /// Which.
        id: String,
        /// What is left of it.
        pids: Vec<i32>,
    },
    /// An order that an older leader gave.
    #[error(
        "the order {given} is older than {newest}, which was already carried out: another node leads now"
    )]
    OlderOrder {
        /// What was given.
        given: Order,
        /// The newest that was seen.
        newest: Order,
    },
    /// The provider process ended or its connection is unusable.
    #[error("the provider process has ended: start it again")]
    Ended,
    /// The provider process failed to talk.
    #[error("the connection to the provider process failed")]
    Connection(#[source] io::Error),
    /// The provider process wrote a line that is too long or no text.
    #[error("the provider process wrote a line that is no text or over 1 MiB")]
    Line(#[source] LinesCodecError),
    /// The provider process wrote something that is no answer.
    #[error("the provider process wrote no valid answer: {line:?}")]
    Answer {
        /// Its first characters.
        line: String,
        /// Why it is none.
        #[source]
        source: serde_json::Error,
    },
    /// The asker wrote something that is no question.
    #[error("the line is no request of the provider protocol: {line:?}")]
    Question {
        /// Its first characters.
        line: String,
        /// Why it is none.
        #[source]
        source: serde_json::Error,
    },
    /// A message could not be written as JSON.
    #[error("a message could not be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// The provider process speaks another version.
    #[error(
        "the provider process speaks version {found} of the protocol, this build {known}: use matching versions"
    )]
    ProtocolVersion {
        /// Its version.
        found: u32,
        /// Our version.
        known: u32,
    },
    /// The provider process answered something else than was asked.
    #[error("the provider process answered {call} with something else")]
    OutOfTurn {
        /// What was asked.
        call: &'static str,
    },
    /// No answer in time.
    #[error("the provider process did not answer {call} within {seconds} s")]
    Deadline {
        /// What was asked.
        call: &'static str,
        /// Seconds waited.
        seconds: u64,
    },
    /// The provider refused.
    #[error("the provider refused: {0}")]
    Refused(Failure),
    /// A worker task ended early.
    #[error("a provider task was cancelled")]
    Task(#[source] tokio::task::JoinError),
}

impl Error {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Self::Write {
            path: path.to_path_buf(),
            source,
        }
    }
}
