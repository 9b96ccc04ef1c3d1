//! What the agent is told and what it says.

use std::fmt;

use types::{AttemptToken, CauseKind, DurationMs, WantedAttempt, WantedSet};

/// How far an attempt is on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptPhase {
    /// Its source tree and environment are being made; no process yet.
    Preparing,
    /// Its process runs under its holder.
    Running,
    /// It is over and its result is stored here.
    Ended,
}

/// An attempt that the executor has on this node, from its start to its [`Action::Release`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAttempt {
    /// Fencing token.
    pub token: AttemptToken,
    /// Rank of this node.
    pub rank: u32,
    /// How far it is.
    pub phase: AttemptPhase,
}

/// What the agent is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// What this node should run; a set of a lower (incarnation, index) than seen before is dropped. True: the leader
    /// confirmed that it is current; only then absence means something (invariant 20).
    Wanted(WantedSet, bool),
    /// All that the executor has. Must come once before anything starts; attempts leave it only by
    /// [`Action::Release`], so one that vanishes otherwise counts as ended.
    Running(Vec<LocalAttempt>),
    /// The leader granted a lease.
    LeaseGranted {
        /// Of which attempt.
        token: AttemptToken,
        /// When this node sent the request, on its clock since boot, in milliseconds.
        sent_at_boottime_ms: u64,
        /// From then on.
        length: DurationMs,
    },
    /// The leader, sure of being it, said that this attempt is not current. Never for a failed request.
    LeaseRefused {
        /// Which.
        token: AttemptToken,
        /// In the leader's words.
        why: String,
    },
    /// Its process runs.
    Started {
        /// Which.
        token: AttemptToken,
    },
    /// It is over and its result is stored here.
    Ended {
        /// Which.
        token: AttemptToken,
    },
    /// The report of its start is in the log.
    StartCommitted {
        /// Which.
        token: AttemptToken,
    },
    /// The report of its end is in the log, or was refused for good.
    ReportCommitted {
        /// Which.
        token: AttemptToken,
    },
    /// Time passed.
    Tick,
}

/// Why an attempt is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A person asked for it.
    Requested {
        /// user@node.
        by: String,
    },
    /// The leader says that this attempt is not current any more.
    Stale {
        /// In words.
        why: String,
    },
    /// The lease could not be renewed in time.
    LeaseExpired,
}

impl StopReason {
    /// The cause that the end of the attempt carries when this stop ended it. A stale attempt is not current, so its
    /// cause is read only in its late report: its lease was over.
    #[must_use]
    pub fn cause(&self) -> CauseKind {
        match self {
            Self::Requested { by } => CauseKind::Stopped { by: by.clone() },
            Self::Stale { .. } | Self::LeaseExpired => CauseKind::LeaseExpired,
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested { by } => write!(f, "stopped by {by}"),
            Self::Stale { why } => write!(f, "not current any more: {why}"),
            Self::LeaseExpired => f.write_str("the lease could not be renewed in time"),
        }
    }
}

/// What the node's loop does for the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the leader, by any member, for leases; the caller notes the time before it sends and answers with
    /// [`Input::LeaseGranted`] or [`Input::LeaseRefused`] for each. Repeated until answered.
    RequestLease {
        /// For these.
        tokens: Vec<AttemptToken>,
    },
    /// Prepare and run it, under a holder that ends it at the deadline: the end of its lease on this node's clock since
    /// boot, in milliseconds.
    Start(Box<WantedAttempt>, u64),
    /// Push the holder's deadline forward. While it is being prepared: the deadline to start it with. Said again once
    /// it runs.
    Extend {
        /// Which.
        token: AttemptToken,
        /// New end of its lease.
        deadline_boottime_ms: u64,
    },
    /// End its process tree: SIGTERM, after `grace` SIGKILL; said once per reason, a later one is harder, and once more
    /// if it starts to run after all.
    Stop {
        /// Which.
        token: AttemptToken,
        /// Why.
        reason: StopReason,
        /// Zero: SIGKILL at once.
        grace: DurationMs,
    },
    /// Propose that its process runs; repeated until [`Input::StartCommitted`].
    ReportStarted {
        /// Which.
        token: AttemptToken,
        /// Rank of this node.
        rank: u32,
    },
    /// Propose its stored end; repeated until [`Input::ReportCommitted`].
    ReportEnded {
        /// Which.
        token: AttemptToken,
        /// Rank of this node.
        rank: u32,
    },
    /// Propose that it was stopped before it started here; repeated until [`Input::ReportCommitted`].
    ReportNeverStarted {
        /// Which.
        token: AttemptToken,
        /// Rank of this node.
        rank: u32,
        /// Who stopped it: user@node.
        by: String,
    },
    /// Its end is in the log: forget it and free its directory.
    Release {
        /// Which.
        token: AttemptToken,
    },
}
