//! Why an attempt ended: a closed list with evidence, never empty.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reason of an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CauseKind {
    /// Exit code 0.
    Finished,
    /// The command returned this code, not 0.
    ExitCode(i32),
    /// A signal that muster did not send ended it.
    Signal(i32),
    /// The command does not exist or cannot be executed.
    CommandNotFound {
        /// First word of the command.
        command: String,
    },
    /// The working directory or a file of the source tree could not be made.
    SourceTree,
    /// The kernel's memory limit ended it.
    HostOutOfMemory,
    /// The node's disk is full.
    DiskFull,
    /// A person stopped it.
    Stopped {
        /// user@node.
        by: String,
    },
    /// The node vanished and the lease ran out.
    NodeLost,
    /// The node could not renew its lease and ended the attempt at the deadline.
    LeaseExpired,
    /// The time limit of the experiment.
    TimeLimit,
    /// The machine started again underneath it.
    NodeRestarted,
    /// The holder process failed to do its part.
    HolderFailed,
    /// The node refused to start it.
    RefusedByNode,
    /// A person empties the machine: it runs again elsewhere.
    Moved {
        /// user@node.
        by: String,
    },
    /// A new history of the cluster began, from a backup, which does not know what became of it.
    HistoryReplaced,
    /// It made room for another experiment: it runs again when there is room.
    Preempted {
        /// The experiment that got its place.
        by: String,
    },
    /// It used more GPU memory than it asked for, and its policy says stop.
    VramOveruse,
    /// Another rank of the same attempt ended, and one cannot go on without the others.
    RankEnded {
        /// Which.
        rank: u32,
    },
    /// A GPU that it had failed: it runs again on another.
    GpuFailed {
        /// Its number on the node.
        gpu: u32,
        /// In the words of the node, with its XID if there was one.
        problem: String,
    },
}

/// Why, and what was looked at to say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The reason.
    pub kind: CauseKind,
    /// Lines that a person can check; at most 16, each at most 512 bytes.
    pub evidence: Vec<String>,
}

impl Cause {
    /// Most evidence lines that are kept: what fits on a screen beside the rest.
    pub const MAX_EVIDENCE_LINES: usize = 16;
    /// Longest evidence line that is kept.
    pub const MAX_EVIDENCE_LINE_BYTES: usize = 512;

    /// A cause with its evidence, cut to the limits.
    #[must_use]
    pub fn new(kind: CauseKind, evidence: Vec<String>) -> Self {
        let mut evidence = evidence;
        evidence.truncate(Self::MAX_EVIDENCE_LINES);
        for line in &mut evidence {
            if line.len() > Self::MAX_EVIDENCE_LINE_BYTES {
                let end = line.floor_char_boundary(Self::MAX_EVIDENCE_LINE_BYTES);
                line.truncate(end);
            }
        }
        Self { kind, evidence }
    }

    /// The attempt did what it was asked to do.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.kind == CauseKind::Finished
    }

    /// The machine failed, not the experiment: retried up to the limit for lost nodes.
    #[must_use]
    pub fn is_node_failure(&self) -> bool {
        matches!(
            self.kind,
            CauseKind::NodeLost
                | CauseKind::LeaseExpired
                | CauseKind::NodeRestarted
                | CauseKind::HolderFailed
                | CauseKind::RefusedByNode
                | CauseKind::HistoryReplaced
                | CauseKind::GpuFailed { .. }
        )
    }

    /// It was moved elsewhere by a person's wish, or made room for another: neither it nor the machine failed.
    #[must_use]
    pub fn is_move(&self) -> bool {
        matches!(
            self.kind,
            CauseKind::Moved { .. } | CauseKind::Preempted { .. }
        )
    }

    /// Exit code for a command line that waits for the experiment: its own, 128 + signal, or 1.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self.kind {
            CauseKind::Finished => 0,
            CauseKind::ExitCode(code) => code,
            CauseKind::Signal(signal) => 128 + signal,
            CauseKind::CommandNotFound { .. } => 127,
            CauseKind::HostOutOfMemory => 137,
            CauseKind::Stopped { .. }
            | CauseKind::Moved { .. }
            | CauseKind::Preempted { .. }
            | CauseKind::RankEnded { .. } => 143,
            CauseKind::TimeLimit => 124,
            CauseKind::SourceTree
            | CauseKind::DiskFull
            | CauseKind::NodeLost
            | CauseKind::LeaseExpired
            | CauseKind::NodeRestarted
            | CauseKind::HolderFailed
            | CauseKind::RefusedByNode
            | CauseKind::HistoryReplaced
            | CauseKind::VramOveruse
            | CauseKind::GpuFailed { .. } => 1,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            CauseKind::Finished => f.write_str("finished"),
            CauseKind::ExitCode(code) => write!(f, "exit code {code}"),
            CauseKind::Signal(signal) => write!(f, "ended by signal {signal}"),
            CauseKind::CommandNotFound { command } => write!(f, "command not found: {command}"),
            CauseKind::SourceTree => f.write_str("the source tree could not be laid out"),
            CauseKind::HostOutOfMemory => {
                f.write_str("out of memory: over the memory it asked for")
            }
            CauseKind::DiskFull => f.write_str("disk full"),
            CauseKind::Stopped { by } => write!(f, "stopped by {by}"),
            CauseKind::NodeLost => f.write_str("node lost"),
            CauseKind::LeaseExpired => {
                f.write_str("lease expired: the node lost touch with the leader")
            }
            CauseKind::TimeLimit => f.write_str("time limit reached"),
            CauseKind::NodeRestarted => f.write_str("the machine restarted"),
            CauseKind::HolderFailed => f.write_str("the process that holds the experiment failed"),
            CauseKind::RefusedByNode => f.write_str("refused by the node"),
            CauseKind::Moved { by } => write!(f, "moved: {by} empties the machine"),
            CauseKind::HistoryReplaced => {
                f.write_str("the cluster was restored from a backup while it ran")
            }
            CauseKind::Preempted { by } => write!(f, "preempted: {by} got its place"),
            CauseKind::VramOveruse => f.write_str("over the GPU memory it asked for"),
            CauseKind::RankEnded { rank } => write!(f, "rank {rank} of it ended"),
            CauseKind::GpuFailed { gpu, problem } => write!(f, "GPU {gpu} failed: {problem}"),
        }
    }
}
