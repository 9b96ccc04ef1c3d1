//! The network of a node: identity, admission gate, discovery, gossip, requests and streams over libp2p.
//!
//! Two swarms run under one key. *control* carries Raft, requests, joins, reports, ping, identify
//! and mDNS; *bulk* carries blobs, tails and snapshots over connections of its own, so that a large
//! transfer never delays a heartbeat. Whoever is not in the members table may speak the join
//! protocol on control and nothing else.

mod admission;
mod bulk_socket;
mod bulk_stream;
mod cluster_key;
mod config;
mod connector;
mod dialer;
mod ending;
mod error;
mod event;
mod finder;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod handle;
mod identity;
mod kept;
mod key_file;
mod knocks;
mod links;
mod outbox;
mod pipe;
mod plane;
mod protocol;
mod rate;
mod serve;
mod start;
mod swarm;
mod wire;

pub use bulk_stream::BulkStream;
pub use cluster_key::{ClusterKey, open_member_list};
pub use config::{Config, MemberAddresses};
pub use error::{CallError, Error};
pub use event::{Discovered, Event, PeerStatus, RaftCall, Reply};
pub use handle::Handle;
pub use identity::{Identity, verify};
pub use kept::{Kept, LINK_IDLE};
pub use protocol::{
    MAX_BULK_FRAME_BYTES, MAX_JOIN_BYTES, MAX_RAFT_FRAME_BYTES, MAX_REPORT_BYTES,
    MAX_RPC_ANSWER_BYTES, MAX_RPC_DEADLINE, MAX_RPC_REQUEST_BYTES,
};
pub use start::{Network, start};
