//! Where an attempt runs, and what a node is told to run.

use serde::{Deserialize, Serialize};

use crate::{
    AttemptToken, DurationMs, ExperimentSpec, Incarnation, LogIndex, NodeId, Resources, codec,
};

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
    /// The nodes of all ranks in order, if there are several; empty: it is the only one.
    pub gang: Vec<NodeId>,
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
    /// It is to stop: end the tree, report who or what asked.
    pub stop_requested_by: Option<String>,
}

/// Ports at which the ranks of gangs meet: below those that Linux gives to outgoing connections (from 32,768) and those of
/// Kubernetes' services (from 30,000).
const MASTER_PORTS: std::ops::Range<u16> = 20_000..30_000;

impl WantedAttempt {
    /// The port at which its ranks meet on the node of the first: every node computes the same, and each attempt another.
    #[must_use]
    pub fn master_port(&self) -> u16 {
        let hash = blake3::hash(&codec::encode(&self.token));
        let bits = u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]);
        MASTER_PORTS.start + bits % (MASTER_PORTS.end - MASTER_PORTS.start)
    }
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
