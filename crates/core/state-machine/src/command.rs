//! What the log holds. Frozen: variants and structs are never changed, only appended.

use serde::{Deserialize, Serialize};
use types::{Author, RequestId, Timestamp};

use crate::commands::{
    AcceptLate, AdmitNode, CreateJoinToken, CreateQueue, CreateUserToken, DrainNode, EvictNode,
    ExtendLease, FoundCluster, HoldExperiment, IssueUserToken, LabelNode, LoseAttempt,
    MoveExperiment, NoteBackup, NoteRefusals, NoteTokenUses, OrderExperiment, PauseQueue, PinRole,
    PlaceAttempt, PreemptFor, ReleaseExperiment, ReleasePlacements, RemoveNode, RemoveUser,
    ReplaceNode, ReportAttempt, ReserveNode, RevokeToken, SealSegment, SetPriority, ShapeQueue,
    StopExperiment, StopGroup, SubmitExperiment, SubmitGroup, UndrainNode, UpdateNode, WeighUser,
};

/// One entry of the Raft log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The leader's clock when it proposed; state time is the maximum of these.
    pub time: Timestamp,
    /// Who asked for it.
    pub author: Author,
    /// The client's name for the request; a repeat gets the first outcome.
    pub request: Option<RequestId>,
    /// What to do.
    pub command: Command,
}

/// A change of the cluster's state. One file each under `commands/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// First entry of a cluster.
    FoundCluster(FoundCluster),
    /// Make a join token.
    CreateJoinToken(CreateJoinToken),
    /// End a join or user token.
    RevokeToken(RevokeToken),
    /// Let a node in.
    AdmitNode(AdmitNode),
    /// Replace a node's facts.
    UpdateNode(UpdateNode),
    /// Take a node out.
    RemoveNode(RemoveNode),
    /// Put an experiment into a queue.
    SubmitExperiment(Box<SubmitExperiment>),
    /// Ask for the end of an experiment.
    StopExperiment(StopExperiment),
    /// Place an attempt on nodes.
    PlaceAttempt(PlaceAttempt),
    /// A node says how an attempt goes.
    ReportAttempt(Box<ReportAttempt>),
    /// Lengthen the lease of an attempt.
    ExtendLease(ExtendLease),
    /// The lease of an attempt ran out, or its end is proven otherwise.
    LoseAttempt(LoseAttempt),
    /// A segment of records has become a blob.
    SealSegment(SealSegment),
    /// Make a queue, or change its priority.
    CreateQueue(CreateQueue),
    /// Move a waiting experiment.
    MoveExperiment(MoveExperiment),
    /// Make a token for a person.
    CreateUserToken(CreateUserToken),
    /// Make a token for a person that may end by itself.
    IssueUserToken(IssueUserToken),
    /// End all tokens of a person.
    RemoveUser(RemoveUser),
    /// Remember when tokens were last used.
    NoteTokenUses(NoteTokenUses),
    /// Write down that somebody tries to get in.
    NoteRefusals(NoteRefusals),
    /// End the hold after a new history began.
    ReleasePlacements(ReleasePlacements),
    /// Let a node get empty.
    DrainNode(DrainNode),
    /// Take a node into use again.
    UndrainNode(UndrainNode),
    /// Give a node a role.
    PinRole(PinRole),
    /// Take a node out whatever it runs.
    EvictNode(Box<EvictNode>),
    /// Let a node in under a new key and take its old identity out.
    ReplaceNode(Box<ReplaceNode>),
    /// Take a late success for the result.
    AcceptLate(AcceptLate),
    /// Write down that a backup is made.
    NoteBackup(NoteBackup),
    /// Keep a waiting experiment from being placed.
    HoldExperiment(HoldExperiment),
    /// Let a held experiment go on.
    ReleaseExperiment(ReleaseExperiment),
    /// Give a waiting experiment another place in its queue.
    OrderExperiment(OrderExperiment),
    /// Change the priority of a waiting experiment.
    SetPriority(SetPriority),
    /// Pause a queue, or let it go on.
    PauseQueue(PauseQueue),
    /// Set the part and the limits of a queue.
    ShapeQueue(ShapeQueue),
    /// Give a user a part.
    WeighUser(WeighUser),
    /// Give a machine labels.
    LabelNode(LabelNode),
    /// Give a machine to one person for a time.
    ReserveNode(ReserveNode),
    /// End attempts so that an experiment gets their place.
    PreemptFor(Box<PreemptFor>),
    /// Put a group of experiments into a queue.
    SubmitGroup(Box<SubmitGroup>),
    /// Ask for the end of all experiments of a group.
    StopGroup(StopGroup),
}
