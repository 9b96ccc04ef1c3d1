//! The replicated state machine: commands in, outcomes and events out.
//!
//! [`ClusterState::apply`] is total, deterministic and pure: it uses only the state and the command
//! (invariant 2). Whatever depends on time, chance or soft state was resolved by the leader and is in
//! the command.
#![deny(clippy::float_arithmetic, clippy::wildcard_enum_match_arm)]

mod archive;
mod command;
mod commands;
mod event;
mod invariants;
mod ledger;
mod outcome;
mod queries;
mod records;
mod snapshot;
mod state;

pub use archive::{ARCHIVE_ENTRIES, ArchiveContent, ArchiveFile, ArchiveRef, decode_archive};
pub use command::{Command, LogEntry};
pub use commands::{
    AdmitNode, AttemptReport, CreateJoinToken, CreateQueue, CreateUserToken, Entrance, ExtendLease,
    FoundCluster, IssueUserToken, LoseAttempt, MoveExperiment, NoteRefusals, NoteTokenUses,
    PlaceAttempt, RankCapacity, RemoveNode, RemoveUser, ReportAttempt, RevokeToken, SealSegment,
    StopExperiment, SubmitExperiment, UpdateNode,
};
pub use event::Event;
pub use invariants::check_invariants;
pub use ledger::{Action, LedgerEntry, verify_chain};
pub use outcome::{Outcome, Refusal, RefusalCode};
pub use queries::{Demand, ResolveError};
pub use records::{
    Attempt, AttemptEnd, Booking, Experiment, ExperimentPhase, JoinToken, NodeRecord, Queue,
    RankRecord, StopRequest, UserToken, UserTokenTerms,
};
pub use state::{Applied, ClusterState, REQUEST_WINDOW};
