//! Bugs on purpose.

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
    /// A node that was the leader when it was asked for a lease grants it after another one was elected.
    LateGrant,
    /// Each retry of a client is a new request.
    ForgetfulClient,
}
