//! Where an attempt runs, and what a node is told to run.

use serde::{Deserialize, Serialize};

use crate::{AttemptToken, DurationMs, ExperimentSpec, Incarnation, LogIndex, NodeId, Resources};

/// One rank of an attempt on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankPlacement {
    /// The node.
    pub node: NodeId,
    /// What it books there.
    pub resources: Resources,
}

/// An attempt that a node should be running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedAttempt {
    /// Fencing token.
    pub token: AttemptToken,
    /// Number of this node's rank.
    pub rank: u32,
    /// What to run.
    pub spec: ExperimentSpec,
    /// User who submitted it, as user@node.
    pub submitted_by: String,
    /// What it books on this node.
    pub resources: Resources,
    /// Node that keeps a second copy of its unsealed records.
    pub mirror: Option<NodeId>,
    /// Length of its lease.
    pub lease_ms: DurationMs,
    /// A person wants it stopped: end the tree, report who asked.
    pub stop_requested_by: Option<String>,
}

/// Everything that a node should be running, as of a log index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedSet {
    /// History that it belongs to.
    pub incarnation: Incarnation,
    /// State it was read from; a node never acts on a lower one.
    pub index: LogIndex,
    /// The attempts.
    pub attempts: Vec<WantedAttempt>,
}
