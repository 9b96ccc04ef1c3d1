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
    /// It, or a file that it wants, is not for the user that it runs as.
    PermissionDenied {
        /// The file, or the first word of the command.
        what: String,
    },
    /// A GPU had too little free memory for what it asked of it.
    CudaOutOfMemory,
    /// The driver reported an error of its own work on a GPU, which goes on.
    GpuXid {
        /// NVIDIA's number.
        xid: u32,
    },
    /// Its loss was not a number any more.
    NanLoss,
    /// It did nothing for long: no output, no processor, no GPU.
    NoProgress,
    /// A rank waited for the others in vain.
    NcclTimeout,
    /// A Python package, a name in one, or a shared library is missing.
    ImportFailed {
        /// Which.
        what: String,
    },
    /// Its environment could not be built.
    EnvironmentBuild,
    /// Its memory, or that on the GPUs, grew steadily.
    LeakSuspected,
    /// The GPUs waited for data that its processors were too slow to prepare.
    DataStarved,
    /// It hardly used the GPUs that it had.
    GpuUnderused,
    /// A metric that it printed met the rule by which it ends itself.
    RuleMet {
        /// The rule, and the value that met it.
        rule: String,
    },
}

/// Something that was seen besides the cause, or while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What, from the same list.
    pub kind: CauseKind,
    /// A line that a person can check; at most 512 bytes.
    pub evidence: String,
    /// What to do about it; at most 512 bytes.
    pub advice: String,
}

/// Why, and what was looked at to say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The reason.
    pub kind: CauseKind,
    /// Lines that a person can check; at most 16, each at most 512 bytes.
    pub evidence: Vec<String>,
    /// What to do about it; at most 4 lines of at most 512 bytes.
    pub advice: Vec<String>,
    /// What was seen besides; at most 4.
    pub findings: Vec<Finding>,
    /// What a shell says of the command: its code, or 128 and the signal; none if it did not end, or nobody knows.
    pub shell_code: Option<i32>,
}

impl Cause {
    /// Most evidence lines that are kept: what fits on a screen beside the rest.
    pub const MAX_EVIDENCE_LINES: usize = 16;
    /// Longest evidence line that is kept.
    pub const MAX_EVIDENCE_LINE_BYTES: usize = 512;

    /// Most lines of advice: more is not read.
    pub const MAX_ADVICE_LINES: usize = 4;
    /// Most findings, as above.
    pub const MAX_FINDINGS: usize = 4;

    /// A cause with its evidence, cut to the limits.
    #[must_use]
    pub fn new(kind: CauseKind, evidence: Vec<String>) -> Self {
        let whole = Self {
            kind,
            evidence,
            advice: Vec::new(),
            findings: Vec::new(),
            shell_code: None,
        };
        whole.cut()
    }

    /// The same with other evidence, cut to the limits.
    #[must_use]
    pub fn with_evidence(self, evidence: Vec<String>) -> Self {
        Self { evidence, ..self }.cut()
    }

    /// The same, cut to the limits: for causes that others made.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.evidence.truncate(Self::MAX_EVIDENCE_LINES);
        self.advice.truncate(Self::MAX_ADVICE_LINES);
        self.findings.truncate(Self::MAX_FINDINGS);
        let findings = self.findings.iter_mut();
        let found = findings.flat_map(|finding| [&mut finding.evidence, &mut finding.advice]);
        for line in self
            .evidence
            .iter_mut()
            .chain(&mut self.advice)
            .chain(found)
        {
            line.truncate(line.floor_char_boundary(Self::MAX_EVIDENCE_LINE_BYTES));
        }
        self
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

    /// It was to end for good: a person stopped it, or its own rule.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        matches!(
            self.kind,
            CauseKind::Stopped { .. } | CauseKind::RuleMet { .. }
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

    /// Exit code for a command line that waits for the experiment: its own, 128 + signal, or 1. Where muster ended it, or
    /// something else than its command failed, that counts and not what the command made of it.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        let own = self.shell_code.filter(|code| *code != 0);
        match self.kind {
            CauseKind::Finished => 0,
            CauseKind::ExitCode(code) => code,
            CauseKind::Signal(signal) => signal.saturating_add(128),
            CauseKind::CommandNotFound { .. } => own.unwrap_or(127),
            CauseKind::HostOutOfMemory => 137,
            CauseKind::Stopped { .. }
            | CauseKind::Moved { .. }
            | CauseKind::Preempted { .. }
            | CauseKind::RuleMet { .. }
            | CauseKind::RankEnded { .. } => 143,
            CauseKind::TimeLimit => 124,
            CauseKind::PermissionDenied { .. } => own.unwrap_or(126),
            CauseKind::DiskFull
            | CauseKind::CudaOutOfMemory
            | CauseKind::GpuXid { .. }
            | CauseKind::NanLoss
            | CauseKind::NoProgress
            | CauseKind::NcclTimeout
            | CauseKind::ImportFailed { .. }
            | CauseKind::EnvironmentBuild
            | CauseKind::LeakSuspected
            | CauseKind::DataStarved
            | CauseKind::GpuUnderused => own.unwrap_or(1),
            CauseKind::SourceTree
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
        self.kind.fmt(f)
    }
}

impl fmt::Display for CauseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::ExitCode(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::CommandNotFound { command } => write!(f, "command not found: {command}"),
            Self::SourceTree => f.write_str("the source tree could not be laid out"),
            Self::HostOutOfMemory => f.write_str("out of memory: over the memory it asked for"),
            Self::DiskFull => f.write_str("disk full"),
            Self::Stopped { by } => write!(f, "stopped by {by}"),
            Self::NodeLost => f.write_str("node lost"),
            Self::LeaseExpired => f.write_str("lease expired: the node lost touch with the leader"),
            Self::TimeLimit => f.write_str("time limit reached"),
            Self::NodeRestarted => f.write_str("the machine restarted"),
            Self::HolderFailed => f.write_str("the process that holds the experiment failed"),
            Self::RefusedByNode => f.write_str("refused by the node"),
            Self::Moved { by } => write!(f, "moved: {by} empties the machine"),
            Self::HistoryReplaced => {
                f.write_str("the cluster was restored from a backup while it ran")
            }
            Self::Preempted { by } => write!(f, "preempted: {by} got its place"),
            Self::VramOveruse => f.write_str("over the GPU memory it asked for"),
            Self::RankEnded { rank } => write!(f, "rank {rank} of it ended"),
            Self::GpuFailed { gpu, problem } => write!(f, "GPU {gpu} failed: {problem}"),
            Self::PermissionDenied { what } => write!(f, "permission denied: {what}"),
            Self::CudaOutOfMemory => f.write_str("CUDA out of memory"),
            Self::GpuXid { xid } => write!(f, "GPU error XID {xid}"),
            Self::NanLoss => f.write_str("the loss became NaN"),
            Self::NoProgress => f.write_str("no progress"),
            Self::NcclTimeout => f.write_str("NCCL timeout: a rank waited for the others in vain"),
            Self::ImportFailed { what } => write!(f, "import failed: {what}"),
            Self::EnvironmentBuild => f.write_str("the environment could not be built"),
            Self::LeakSuspected => f.write_str("memory leak suspected"),
            Self::DataStarved => f.write_str("the GPU waits for data"),
            Self::GpuUnderused => f.write_str("the GPU is hardly used"),
            Self::RuleMet { rule } => write!(f, "stopped by its rule {rule}"),
        }
    }
}
