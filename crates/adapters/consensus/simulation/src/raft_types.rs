//! The types that openraft is told to use: those of `consensus`, with a number for a name.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use state_machine::Outcome;

use crate::machine::Machine;
use crate::runtime::Runtime;

openraft::declare_raft_types!(
    /// Standard Raft: one leader a term.
    pub(crate) Types:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = openraft::EmptyNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

pub(crate) type Raft = openraft::Raft<Types, Machine>;
pub(crate) type RaftEntry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type RaftLogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type RaftVote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type RaftMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type RaftSnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub(crate) type RaftSnapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotBytes>;

/// The codec's bytes of a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotBytes(pub(crate) Arc<Vec<u8>>);

/// The codec's bytes of a log entry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal(pub(crate) Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What applying an entry said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) index: u64,
    pub(crate) outcome: Outcome,
}

/// Term and index of a log id.
pub(crate) fn position(id: &RaftLogId) -> (u64, u64) {
    (**id.committed_leader_id(), id.index)
}
