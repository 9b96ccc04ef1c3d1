//! What changed, for loops to wake on. A lost event costs latency, not truth.

use types::{AttemptToken, ExperimentId, NodeId};

/// A change of state that somebody may wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Waits for a place (new, or again).
    ExperimentQueued(ExperimentId),
    /// Booked on these nodes.
    AttemptPlaced {
        /// Which.
        token: AttemptToken,
        /// Where.
        nodes: Vec<NodeId>,
    },
    /// Its process runs.
    AttemptStarted(AttemptToken),
    /// Something else about it changed: lease, segment, stop request.
    AttemptChanged(AttemptToken),
    /// One of its ranks is over, and what it held is free.
    RankEnded(AttemptToken),
    /// It is over.
    AttemptEnded(AttemptToken),
    /// The experiment is over.
    ExperimentEnded(ExperimentId),
    /// Members or their facts changed.
    MembersChanged,
    /// Queues changed.
    QueuesChanged,
    /// Tokens changed.
    TokensChanged,
}
