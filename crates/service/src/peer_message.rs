//! What nodes say to each other: stored nowhere, sent between versions; variants are appended.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use state_machine::{Command, Outcome};
use types::{
    AttemptToken, BlobHash, DurationMs, LogIndex, MetricPoint, NodeId, SegmentRef,
    SignedMemberList, WantedSet,
};

use crate::author::Vouched;
use crate::backup::session::BackupSource;
use crate::copies::NamedOnCluster;
use crate::error::ServiceError;
use crate::packages::KeptPackage;

/// A control-plane request. Appended only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerMessage {
    /// A person's request, vouched for by the sender.
    Call(Vouched),
    /// A command of the sender itself: a report, a seal, its own facts.
    Propose(Box<Command>),
    /// The sender runs or wants to run these; also asks for the sender's wanted set and, if newer, the member list.
    Lease {
        /// Attempts to hold.
        tokens: Vec<AttemptToken>,
        /// Version of the member list that the sender has.
        members_version: u64,
    },
    /// From the leader: what the receiver should run.
    Wanted(WantedSet),
    /// From the leader: the member list changed.
    Members(SignedMemberList),
    /// From the leader, to a voter: the cluster's signing key.
    ClusterKey(Bytes),
    /// Sign the head of the ledger, if the receiver has the same.
    AttestLedger {
        /// How many entries there are.
        length: u64,
        /// Hash of the newest.
        hash: [u8; 32],
    },
    /// Is the receiver there?
    Ping {
        /// The sender has missed an answer: the receiver tells everybody that it is there.
        in_doubt: bool,
    },
    /// The receiver was taken out of the cluster; the sender cuts it off after this.
    Removed {
        /// The list without it, signed by the cluster: the proof.
        members: SignedMemberList,
        /// By whom and why, for people.
        message: String,
    },
    /// From the leader, to a node without state: it holds none since this change of voters or learners, which it was
    /// not told any more.
    Released {
        /// Log index of the change.
        at: LogIndex,
        /// Who holds it since then: these the receiver keeps links with.
        replicas: Vec<NodeId>,
    },
    /// Does the receiver reach this member, which the sender does not?
    Reach {
        /// Whom.
        node: NodeId,
        /// How long the sender waits.
        within: DurationMs,
    },
    /// As `Lease`, to a member that is not asked to lead: the sender does not reach the leader.
    RelayLease {
        /// Attempts to hold.
        tokens: Vec<AttemptToken>,
        /// Version of the member list that the sender has.
        members_version: u64,
    },
    /// As `Lease`, for another member, which does not reach the leader.
    LeaseFor {
        /// Who runs or wants to run these.
        node: NodeId,
        /// Attempts to hold.
        tokens: Vec<AttemptToken>,
        /// Version of the member list that it has.
        members_version: u64,
    },
    /// What does the receiver's machine do?
    Machine,
    /// Which files of this project does the receiver keep?
    Packages(String),
    /// A member shall dial another one, which cannot dial it; to itself, or to a replica that it is linked with.
    Dial {
        /// Who.
        node: NodeId,
        /// Whom.
        to: NodeId,
    },
}

/// The answer to a lease request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// Granted, with their length from the sending of the request.
    pub granted: Vec<(AttemptToken, DurationMs)>,
    /// Not current any more, and why.
    pub refused: Vec<(AttemptToken, String)>,
    /// What the sender should run, confirmed by a quorum.
    pub wanted: WantedSet,
    /// The member list, when the sender's is older.
    pub members: Option<SignedMemberList>,
    /// The leader.
    pub leader: NodeId,
}

/// A control-plane answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerReply {
    /// JSON of the answer.
    Call(Result<Bytes, ServiceError>),
    /// What became of it.
    Propose(Result<Outcome, ServiceError>),
    /// Leases.
    Lease(Result<LeaseAnswer, ServiceError>),
    /// Taken in.
    Done,
    /// The signature under a ledger head.
    Attested(Result<Vec<u8>, ServiceError>),
    /// Whether the member was reached.
    Reached(bool),
    /// What the machine does.
    Machine(Box<telemetry::MachineSample>),
    /// What is kept of a project.
    Packages(Vec<KeptPackage>),
}

/// A bulk-plane request. Appended only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BulkMessage {
    /// Frames of an attempt that the receiver runs (or mirrors), from a record on; waits up to `wait_ms` for news.
    Tail {
        /// Which.
        token: AttemptToken,
        /// Which rank of it.
        rank: u32,
        /// First record.
        from_sequence: u64,
        /// Longest wait for news.
        wait_ms: u64,
    },
    /// Bytes of an unsealed segment, to be kept durably by the receiver.
    Mirror {
        /// Whose.
        token: AttemptToken,
        /// Number of the segment.
        segment: u32,
        /// Number of the first record of the segment.
        first_sequence: u64,
        /// Where they go.
        offset: u64,
        /// Frames.
        bytes: Bytes,
    },
    /// Seal the mirrored tail and store it as blobs.
    SealMirror {
        /// Whose.
        token: AttemptToken,
    },
    /// The attempt is over and all its records are blobs: forget the tail.
    DropMirror {
        /// Whose.
        token: AttemptToken,
    },
    /// A piece of a backup that the receiver opened for the sender.
    BackupPiece {
        /// Which backup.
        session: [u8; 16],
        /// Which part of it.
        source: BackupSource,
        /// From where on.
        offset: u64,
    },
    /// The backup is read.
    CloseBackup {
        /// Which.
        session: [u8; 16],
    },
    /// Which blobs does the state name, and who keeps blobs?
    BlobNames,
    /// Points of metrics for the records of an attempt that the receiver runs.
    Points {
        /// Which.
        token: AttemptToken,
        /// At most some thousand.
        points: Vec<MetricPoint>,
    },
    /// An artifact of an attempt that the receiver runs; the sender has the blob.
    Artifact {
        /// Which.
        token: AttemptToken,
        /// Its path below the artifacts.
        name: String,
        /// Its content.
        hash: BlobHash,
    },
}

/// A bulk-plane answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BulkReply {
    /// Frames from `from_sequence` on.
    Tail {
        /// Whole frames.
        frames: Bytes,
        /// Number after the last.
        next_sequence: u64,
        /// No more will come.
        ended: bool,
    },
    /// What the mirror has durably.
    Mirrored {
        /// Its newest segment.
        segment: u32,
        /// Bytes of that.
        length: u64,
    },
    /// Sealed segments, now blobs at the answering node.
    Sealed(Vec<SegmentRef>),
    /// Done.
    Done,
    /// It cannot, and why.
    Failed(String),
    /// A piece and the length of the whole.
    Piece {
        /// The piece.
        bytes: Bytes,
        /// Bytes of the whole.
        total: u64,
    },
    /// Names of blobs and nodes that keep them.
    BlobNames(NamedOnCluster),
}
