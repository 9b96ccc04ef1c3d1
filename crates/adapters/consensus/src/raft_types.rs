//! The types that openraft is told to use.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use state_machine::Outcome;
use types::{LogIndex, NodeId};

use crate::machine::Machine;

openraft::declare_raft_types!(
    /// Standard Raft (one leader a term, so that a term is a fence), text node ids, no addresses.
    pub(crate) Types:
        D = Proposal,
        R = Reply,
        NodeId = Replica,
        Node = openraft::EmptyNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, Replica>,
);

pub(crate) type Raft = openraft::Raft<Types, Machine>;
pub(crate) type RaftEntry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type RaftLogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type RaftVote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type RaftMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type RaftSnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;

/// A node as Raft names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Replica(pub(crate) NodeId);

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.short())
    }
}

/// For openraft's own test suite, which counts its nodes.
#[cfg(test)]
impl From<u64> for Replica {
    fn from(number: u64) -> Self {
        let digits: String = number
            .to_string()
            .bytes()
            .map(|digit| char::from(digit - b'0' + b'a'))
            .collect();
        Self(digits.parse().expect("letters a to j are base58"))
    }
}

/// The codec's bytes of a log entry: encoded once, by the proposer.
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
    pub(crate) index: LogIndex,
    pub(crate) outcome: Outcome,
}
