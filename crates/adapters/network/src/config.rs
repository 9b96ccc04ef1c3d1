//! What the owner decides about the network.

use std::path::PathBuf;

use types::NodeId;

/// Settings of [`crate::start`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Ed25519 key of the node: made if absent, refused if anyone but the owner may read it.
    pub key_file: PathBuf,
    /// Multiaddresses of the control plane, such as `/ip4/127.0.0.1/tcp/0` and `/ip4/127.0.0.1/udp/0/quic-v1`.
    pub control_listen: Vec<String>,
    /// Multiaddresses of the bulk plane.
    pub bulk_listen: Vec<String>,
    /// Finds and announces on the local network. It multicasts on every interface: off in tests.
    pub mdns: bool,
    /// Receives the reports of all nodes from the start: voters and learners do, workers need not.
    pub gossip_subscribe: bool,
    /// Most bytes per second that this node sends on the bulk plane; none is no limit.
    pub bulk_bytes_per_second: Option<u64>,
}

/// A member, and where it may be reached: node, control addresses, bulk addresses. Addresses are hints.
pub type MemberAddresses = (NodeId, Vec<String>, Vec<String>);
