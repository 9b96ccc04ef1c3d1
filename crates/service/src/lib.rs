//! The use cases: one door for every surface, and for what nodes ask of each other.

pub mod audit;
mod author;
mod backup;
mod blobs;
mod call;
mod clock;
mod copies;
mod doorkeeper;
mod error;
mod experiment_views;
mod experiments;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handle;
mod histories;
mod join;
mod late;
mod leases;
mod liveness;
mod lockout;
mod logs;
mod members;
mod nodes;
pub mod offline;
mod peer;
mod peer_message;
mod propose;
mod quorum;
mod records;
mod submit;
mod succession;
mod tokens;
mod users;
pub mod view;
mod way_home;

pub use author::{Caller, CallerProof};
pub use backup::BackupStream;
pub use backup::session::BackupSource;
pub use call::ReadOptions;
pub use copies::{CopyTimes, NamedOnCluster};
pub use error::{ErrorKind, ServiceError};
pub use handle::{Adapters, Config, Handle, KeepClusterKey, now, view_now};
pub use logs::{LogOptions, LogStream};
pub use peer_message::{BulkMessage, BulkReply, LeaseAnswer, PeerMessage, PeerReply};
pub use succession::Succession;
pub use way_home::look_for_leader;
