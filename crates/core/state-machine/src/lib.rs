//! The replicated state machine: commands in, outcomes and events out.
//!
//! [`ClusterState::apply`] is total, deterministic and pure: it uses only the state and the command
//! (invariant 2). Whatever depends on time, chance or soft state was resolved by the leader and is in
//! the command.
#![deny(clippy::float_arithmetic, clippy::wildcard_enum_match_arm)]

mod archive;
mod claimed_length;
mod command;
mod commands;
mod copies;
mod event;
mod gang;
mod group;
mod holdings;
mod invariants;
mod ledger;
mod new_history;
mod outcome;
mod overuse;
mod queries;
mod queue;
mod records;
mod snapshot;
mod standing;
mod state;
mod usage;

pub use archive::{
    ARCHIVE_ENTRIES, ARCHIVE_EXPERIMENTS, ArchiveContent, ArchiveFile, ArchiveRef, decode_archive,
};
pub use command::{Command, LogEntry};
pub use commands::{
    AcceptLate, AdmitNode, AttemptReport, CreateJoinToken, CreateQueue, CreateUserToken, DrainNode,
    Entrance, EvictNode, EvictedAttempts, ExtendLease, FoundCluster, HoldExperiment,
    IssueUserToken, LabelNode, LinePlace, LoseAttempt, MAX_GROUP_MEMBERS, MAX_MEMBER_PRIORITY,
    MoveExperiment, NoteBackup, NoteRefusals, NoteTokenUses, OrderExperiment, PauseQueue, PinRole,
    PlaceAttempt, PreemptFor, RankCapacity, ReleaseExperiment, ReleasePlacements, RemoveNode,
    RemoveUser, ReplaceNode, ReportAttempt, ReserveNode, RevokeToken, SealSegment, SetPriority,
    ShapeQueue, StopExperiment, StopGroup, SubmitExperiment, SubmitGroup, UndrainNode, UpdateNode,
    WeighUser,
};
pub use copies::NamedBlobs;
pub use event::Event;
pub use group::Group;
pub use invariants::check_invariants;
pub use ledger::{Action, LedgerEntry, verify_chain};
pub use new_history::{HISTORY_STRIDE, NewHistory, Survivors};
pub use outcome::{Outcome, Refusal, RefusalCode};
pub use overuse::VramOveruse;
pub use queries::{Demand, ResolveError};
pub use queue::{Holding, Limits, OverLimit, Queue, Word};
pub use records::{
    Attempt, AttemptEnd, Booking, Experiment, ExperimentPhase, GroupPlace, JoinToken, KeptPlace,
    NodeRecord, PlacementHold, RankRecord, StopRequest, UserToken, UserTokenTerms, Yield,
};
pub use standing::{
    Departure, Drain, NodeStanding, Pin, PinnedRole, Reserved, ResolveNodeError, Steadiness,
    fleeting_label,
};
pub use state::{Applied, Band, ClusterState, REQUEST_WINDOW, class};
pub use usage::{Consumer, HOUR, HOURS_KEPT, Hours, Lesson, Usage};
