//! Messages between replicas. Frozen: variants are appended, never changed.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};
use types::{LogIndex, NodeId, codec};

use crate::raft_types::{RaftVote, Types};

/// Bytes of a snapshot or archive in one message: two or three frames of patience on a 100 Mbit/s
/// line, and small beside the node's 40 MiB.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;

/// What one replica asks another.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    TransferLeader(TransferLeaderRequest<Types>),
    ReadIndex,
    /// A snapshot of so many bytes follows in chunks.
    BeginSnapshot {
        vote: RaftVote,
        length: u64,
    },
    SnapshotChunk {
        session: u64,
        offset: u64,
        bytes: Bytes,
    },
    /// All chunks are sent; BLAKE3 of the whole.
    FinishSnapshot {
        session: u64,
        vote: RaftVote,
        checksum: [u8; 32],
    },
    /// A piece of an archive file's stored form.
    Archive {
        name: String,
        offset: u64,
    },
    /// How well it could lead.
    Fitness,
    /// The hash of its state after this entry.
    StateHash {
        index: u64,
    },
    /// The leader of `vote` has heard from this replica that it has entries up to `acknowledged`, and now it has not.
    Reverted {
        vote: RaftVote,
        acknowledged: u64,
    },
}

/// The answer.
#[derive(Serialize, Deserialize)]
pub(crate) enum Response {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    TransferLeader(TransferLeaderResponse<Types>),
    ReadIndex(LogIndex),
    NotLeader {
        leader: Option<NodeId>,
    },
    SnapshotSession(u64),
    ChunkStored,
    SnapshotInstalled(SnapshotResponse<Types>),
    /// A piece and the length of the whole; `None`: no such archive here.
    Archive(Option<(Bytes, u64)>),
    /// Not done, and why.
    Failed(String),
    Fitness {
        roomy: bool,
        sync_micros: u64,
    },
    /// `None`: not known (yet, or any more).
    StateHash(Option<[u8; 32]>),
    /// The replica has looked at its log and stops.
    Stopping,
}

impl Request {
    pub(crate) fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, codec::Error> {
        codec::decode(bytes, codec::MAX_MESSAGE_BYTES)
    }
}

impl Response {
    pub(crate) fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, codec::Error> {
        codec::decode(bytes, codec::MAX_MESSAGE_BYTES)
    }

    /// Name of the variant, for messages about an answer that was not expected.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Append(_) => "append",
            Self::Vote(_) => "vote",
            Self::TransferLeader(_) => "transfer leader",
            Self::ReadIndex(_) => "read index",
            Self::NotLeader { .. } => "not leader",
            Self::SnapshotSession(_) => "snapshot session",
            Self::ChunkStored => "chunk stored",
            Self::SnapshotInstalled(_) => "snapshot installed",
            Self::Archive(_) => "archive",
            Self::Failed(_) => "failed",
            Self::Fitness { .. } => "fitness",
            Self::StateHash(_) => "state hash",
            Self::Stopping => "stopping",
        }
    }
}
