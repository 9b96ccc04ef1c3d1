//! Raft over one data directory: the replicated log, its state machine, and the handle that proposes
//! and reads. The only user of openraft and sled.
//!
//! Proposals are acknowledged after an fsync on a majority ([`Handle::propose`]); reads are
//! linearizable after [`Handle::read_index`]. Bytes travel through a [`Transport`] that the caller
//! brings, so that this crate knows no network.

mod archive_index;
mod archives;
mod compare;
mod config;
mod directory;
mod error;
#[doc(hidden)]
pub mod failpoint;
mod failure;
#[cfg(fuzzing)]
pub mod fuzzing;
mod generation;
#[cfg(test)]
mod golden;
mod hand_over;
mod handle;
mod log_store;
mod machine;
mod offline;
mod open;
mod published;
mod raft_network;
mod raft_types;
mod receiver;
mod reserve;
mod scrub;
mod spare;
mod stamped;
mod transport;
mod wire;

pub use config::{Config, Timing};
pub use error::{Error, MembershipError, ProposeError, ReadError};
pub use handle::{Committed, Handle, Leadership, Metrics};
pub use offline::{NewReplica, StoppedReplica, inspect};
pub use open::open;
pub use published::ApplyStalls;
pub use reserve::{DiskRoom, release_reserve};
pub use transport::{BoxFuture, Transport, TransportError};
