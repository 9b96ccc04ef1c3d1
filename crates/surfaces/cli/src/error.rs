//! Everything that can go wrong, with what to do about it.

mod hint;

use std::io;
use std::path::PathBuf;

use rest::wire::{ErrorView, SamplesView};

use crate::output::amounts::bytes;

/// What went wrong. [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No socket of a living node.
    #[error("no muster node runs on this machine")]
    NoNode {
        /// Directories that were looked through.
        searched: Vec<PathBuf>,
        /// Sockets that nobody listens on.
        left_over: Vec<PathBuf>,
    },
    /// More than one node and no `--node`.
    #[error("{} muster nodes run on this machine: {}", names.len(), names.join(", "))]
    SeveralNodes {
        /// Their names.
        names: Vec<String>,
    },
    /// `--node` names none of them.
    #[error("no node named {name:?} runs on this machine")]
    NoSuchNode {
        /// What was asked for.
        name: String,
        /// Those that run.
        present: Vec<String>,
    },
    /// The address is no http URL of a host.
    #[error("{text:?} is not an address of a node: {problem}")]
    NodeAddress {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The socket directory belongs to somebody else, who could pose as a node.
    #[error("{} belongs to user {owner}, who is neither you nor root", path.display())]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A certificate is shown, and nothing says which one is right.
    #[error("nothing says by which certificate the node is known")]
    NoTrust,
    /// The fingerprint is none.
    #[error("{text:?} is no fingerprint of a certificate")]
    Pin {
        /// What was given.
        text: String,
    },
    /// The node did not prove that it is the one that is meant, or speaks no TLS.
    #[error("no trusted connection to the node at {address}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The packages of an experiment cannot be captured.
    #[error("{problem}")]
    Environment {
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// Others can read a secret.
    #[error("other users of this machine may read {} (mode {mode:04o})", path.display())]
    ReadableSecret {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Nobody answers at the address.
    #[error("cannot connect to the node at {address}")]
    Connect {
        /// Socket path or host and port.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the node broke while {step}")]
    Talk {
        /// What was going on.
        step: &'static str,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The node did not answer in time.
    #[error("the node gave no answer within {seconds} s")]
    TimedOut {
        /// How long was waited.
        seconds: u64,
    },
    /// The stream of output ended although the experiment has not.
    #[error("the node ended the stream before the experiment's end")]
    StreamEnded,
    /// The node could not go on with the stream of output.
    #[error("{}", view.message)]
    StreamFailed {
        /// What it said.
        view: Box<ErrorView>,
    },
    /// A value cannot be sent in a header.
    #[error("{name} holds a character that cannot be sent")]
    HeaderValue {
        /// Which value.
        name: &'static str,
    },
    /// The node answered with an error.
    #[error("{}", view.message)]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        view: Box<ErrorView>,
    },
    /// Nothing was measured yet.
    #[error("attempt {} of {} has no samples{}", view.attempt, view.experiment, if view.ended_at.is_none() { " yet" } else { "" })]
    NoSamples {
        /// The answer without points.
        view: Box<SamplesView>,
    },
    /// The answer is not what it should be.
    #[error("the node's answer is not {what}")]
    Unreadable {
        /// What was expected.
        what: &'static str,
        /// Why it is not.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is over the limit.
    #[error("the node's answer is over {}", bytes(*limit))]
    AnswerTooLong {
        /// Bytes accepted.
        limit: u64,
    },
    /// A file or directory of the source cannot be read.
    #[error("cannot {step} {}", path.display())]
    Source {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of parameters is none.
    #[error("{}: {why}", path.display())]
    Parameters {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// An attempt left nothing of that name.
    #[error("attempt {attempt} of {experiment} left no {path:?}")]
    NoSuchOutput {
        /// What was asked for.
        path: String,
        /// Whose.
        experiment: String,
        /// Which attempt.
        attempt: u32,
    },
    /// Only one file can be printed.
    #[error("--to - prints one file, and this names {count}")]
    NotOneFile {
        /// How many.
        count: usize,
    },
    /// What was fetched is not what was kept.
    #[error("{path} was not fetched: {problem}")]
    Download {
        /// Which.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A file that is to be written is there already.
    #[error("{} exists already", path.display())]
    FileExists {
        /// Which.
        path: PathBuf,
    },
    /// A file is no whole backup.
    #[error("{}: {source}", path.display())]
    BadBackup {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: types::BackupError,
    },
    /// A file of the source is over the limit.
    #[error("{path} has {}, over the limit of {} for one file of the source tree", bytes(*size), bytes(*limit))]
    FileTooLarge {
        /// Which.
        path: String,
        /// Bytes.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The whole source is over the limit.
    #[error("the source tree has {} in {files} files, over the limit of {}; the largest is {largest} with {}", bytes(*size), bytes(*limit), bytes(*largest_size))]
    TreeTooLarge {
        /// Bytes.
        size: u64,
        /// Files.
        files: usize,
        /// Bytes allowed.
        limit: u64,
        /// Largest file.
        largest: String,
        /// Its bytes.
        largest_size: u64,
    },
    /// Too many files.
    #[error("the source tree has more than {limit} files")]
    TooManyFiles {
        /// Files allowed.
        limit: usize,
    },
    /// A symbolic link leaves the tree.
    #[error("{path} is a symbolic link to {target:?}, which is outside the source tree")]
    LinkLeavesTree {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A path cannot be written in a source tree.
    #[error("{path:?} cannot be part of a source tree: {problem}")]
    BadPath {
        /// The path, what is not UTF-8 replaced.
        path: String,
        /// Why.
        problem: &'static str,
    },
    /// A file changed between its capture and its upload, again and again.
    #[error("{path} changed while it was captured")]
    Changed {
        /// Which.
        path: String,
    },
    /// A line of `.musterignore` cannot be understood.
    #[error(".musterignore, line {line}: {problem}")]
    IgnoreFile {
        /// Line from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// git cannot be started.
    #[error("cannot start git, which {} needs as it is a git checkout", path.display())]
    GitStart {
        /// The checkout.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// git said no.
    #[error("git {arguments} failed: {message}")]
    Git {
        /// What was run.
        arguments: String,
        /// What it said.
        message: String,
    },
    /// What git printed is over the limit.
    #[error("`git {arguments}` prints more than {}", bytes(*limit))]
    GitOutput {
        /// What was run.
        arguments: String,
        /// Bytes accepted.
        limit: u64,
    },
    /// A file of history is not whole.
    #[error("{}, line {line}: {problem}", path.display())]
    AuditFile {
        /// Which.
        path: PathBuf,
        /// Line from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The history was tampered with.
    #[error("{what} is not what the cluster wrote")]
    LedgerBroken {
        /// Which history.
        what: String,
        /// Where it breaks.
        #[source]
        source: rest::audit::Broken,
    },
    /// A thread died of a bug.
    #[error("a worker of muster failed")]
    Worker(#[source] tokio::task::JoinError),
    /// Ctrl-C cannot be caught.
    #[error("cannot listen for Ctrl-C")]
    Signal(#[source] io::Error),
    /// Standard output is gone or full.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl Error {
    /// What to do about it; empty if there is nothing to say.
    #[must_use]
    pub fn hint(&self) -> String {
        hint::hint(self)
    }

    /// The same request may go well a moment later, as when a new leader is being elected.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Talk { .. }
            | Self::TimedOut { .. }
            | Self::StreamEnded
            | Self::StreamFailed { .. } => true,
            // A majority that is gone does not come back by waiting: the node has waited already.
            Self::Refused { status, view } => {
                *status == 503 && !matches!(view.code.as_str(), "no-quorum" | "disk-full")
            }
            _ => false,
        }
    }

    /// There is no such thing.
    #[must_use]
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// The reader of the output went away, as `head` does.
    #[must_use]
    pub fn is_closed_output(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_named_with_both_ways_out() {
        let error = Error::FileTooLarge {
            path: "data/big.bin".into(),
            size: (1 << 30) + 1,
            limit: 256 << 20,
        };
        assert_eq!(
            error.to_string(),
            "data/big.bin has 1 GiB, over the limit of 256 MiB for one file of the source tree"
        );
        assert_eq!(
            error.hint(),
            "allow it with --max-file-size 2GiB, or leave it out by a line /data/big.bin in .musterignore"
        );
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let refused = |status| Error::Refused {
            status,
            view: Box::new(ErrorView {
                code: "c".into(),
                message: "m".into(),
                hint: String::new(),
            }),
        };
        assert!(refused(503).may_pass());
        assert!(!refused(409).may_pass());
        assert!(Error::StreamEnded.may_pass());
        assert!(!Error::Changed { path: "x".into() }.may_pass());
    }
}
