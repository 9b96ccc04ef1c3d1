//! What a node says of itself. Facts are committed when it joins; reports are gossip.

mod packed;

use serde::{Deserialize, Serialize};

use crate::{NodeId, Timestamp};

/// Slow-changing facts of a node, committed at admission and when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Host name.
    pub name: String,
    /// Version of muster.
    pub version: String,
    /// Control-plane addresses with peer id, as multiaddr text.
    pub control_addresses: Vec<String>,
    /// Bulk-plane addresses with peer id.
    pub bulk_addresses: Vec<String>,
    /// The node takes attempts.
    pub takes_work: bool,
    /// The node may vote (not a laptop, not spot).
    pub may_vote: bool,
    /// The node keeps blob copies.
    pub keeps_blobs: bool,
    /// Labels from its configuration, among them `failure-domain`.
    pub labels: Vec<(String, String)>,
}

/// One GPU, as NVML or the node's configuration tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuReport {
    /// NVML uuid, or `declared-N`.
    pub uuid: String,
    /// Model name.
    pub model: String,
    /// Bytes of memory; 0: it is broken and only keeps its place.
    pub vram_total_bytes: u64,
    /// Bytes in use by anybody.
    pub vram_used_bytes: u64,
    /// Bytes in use by processes that belong to no attempt of the node.
    pub vram_foreign_bytes: u64,
    /// Utilisation in percent.
    pub utilisation_percent: u8,
    /// The GPUs that NVLink joins it to: a bit for the place of each in the list, the lowest for the first.
    pub links: u32,
    /// NUMA node of its PCI slot.
    pub numa_node: Option<u8>,
}

/// A node's gossip: soft state, never in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Who; must be the sender.
    pub node: NodeId,
    /// Start of this node process, wall clock: a higher one replaces a lower one.
    pub node_started_at: Timestamp,
    /// Number of this report since the start.
    pub sequence: u64,
    /// Wall clock of the node when it was taken.
    pub taken_at: Timestamp,
    /// Boot id of the kernel, hashed to 64 bits: a new one proves that old attempts are gone.
    pub boot_id: u64,
    /// Thousandths of cores it gives to attempts.
    pub cpu_milli: u64,
    /// Thousandths of cores that are busy.
    pub cpu_busy_milli: u64,
    /// Bytes of memory it gives to attempts.
    pub memory_bytes: u64,
    /// Bytes of memory in use by anybody.
    pub memory_used_bytes: u64,
    /// Bytes free on the disk of the data directory.
    pub disk_free_bytes: u64,
    /// GPUs.
    #[serde(with = "packed")]
    pub gpus: Vec<GpuReport>,
    /// Which of these were declared in the node's configuration rather than measured: `cpus`, `memory`, `gpus`, `vram`.
    pub declared: Vec<String>,
    /// Something that a person should know (disk nearly full, NVML missing …).
    pub warnings: Vec<String>,
    /// The node refuses new attempts and writes (disk reserve reached).
    pub refuses_work: bool,
}
