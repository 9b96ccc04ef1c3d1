//! What a history may be told besides its seed: bugs on purpose, and where to crash.

/// A bug on purpose, to see the harness catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// No bug.
    Nothing,
    /// The disk says that entries are durable before they are, and a crash loses them.
    LyingDisk,
    /// A vote is never written: a restarted voter may vote twice in a term.
    ForgottenVote,
    /// Reads are answered from the local state without asking a majority.
    LocalReads,
    /// A new leader does not hold the leases that the one before granted.
    NoHold,
    /// Entries that the snapshot holds are applied once more after a restart.
    DoubleApply,
    /// Each retry of a client is a new request.
    ForgetfulClient,
    /// A machine that lost its store goes on with an empty one under its old name.
    WipedStore,
}

/// A durable step, before or after which a node may crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Point {
    /// Before a vote is written.
    Vote,
    /// Before entries are dropped from the end of the log.
    Truncate,
    /// Before entries are dropped from the beginning of the log.
    Purge,
    /// Before a group of writes is synced.
    BeforeSync,
    /// After it is synced, before anybody knows.
    AfterSync,
    /// After entries are applied and answered.
    Applied,
    /// Before a snapshot is written.
    BuildSnapshot,
    /// Before a snapshot of the leader is written.
    InstallSnapshot,
    /// After it is written, before it is the state.
    SnapshotInstalled,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Vote,
        Self::Truncate,
        Self::Purge,
        Self::BeforeSync,
        Self::AfterSync,
        Self::Applied,
        Self::BuildSnapshot,
        Self::InstallSnapshot,
        Self::SnapshotInstalled,
    ];
}

/// What is special about a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// A bug on purpose.
    pub plant: Plant,
    /// Where nodes crash far more often than elsewhere.
    pub crash_at: Option<Point>,
    /// Print every event.
    pub verbose: bool,
}

impl Setup {
    /// An ordinary history with this bug.
    #[must_use]
    pub fn with(plant: Plant) -> Self {
        Self {
            plant,
            crash_at: None,
            verbose: false,
        }
    }
}
