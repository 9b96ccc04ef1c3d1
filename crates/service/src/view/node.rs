//! Nodes, queues and the cluster.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::view::LimitsView;

/// A node, briefly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeRefView {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GpuView {
    /// Number on the node.
    pub index: u32,
    /// Uuid.
    pub uuid: String,
    /// Model.
    pub model: String,
    /// Bytes.
    pub vram_total_bytes: u64,
    /// Bytes in use by anybody.
    pub vram_used_bytes: u64,
    /// Bytes in use by processes that muster did not start.
    pub vram_foreign_bytes: u64,
    /// Percent.
    pub utilisation_percent: u8,
    /// Thousandths booked by attempts.
    pub booked_milli: u64,
    /// Bytes booked by attempts.
    pub booked_vram_bytes: u64,
    /// Attempts that hold more of its memory than they were given.
    pub warnings: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// `leader`, `voter`, `learner`, `worker`.
    pub role: String,
    /// Why it has this role, and what is about to change.
    pub role_reason: String,
    /// The role that a person gave it, `voter` or `worker`, and who; none: by rule.
    pub pinned: Option<String>,
    /// Who drains it, since when (the words for people), and why; none: it is in use.
    pub draining: Option<String>,
    /// `live`, `suspect`, `unknown` (no report yet).
    pub health: String,
    /// Why it is suspect; none: it is not.
    pub suspicion: Option<String>,
    /// `ok`, or `full`: it refuses new attempts and writes until there is room.
    pub disk: String,
    /// Age of its last report; none if there is none.
    pub report_age_ms: Option<u64>,
    /// Round trip from the node that answers; none if not connected or itself.
    pub round_trip_us: Option<u64>,
    /// Takes attempts.
    pub takes_work: bool,
    /// Its labels as `name=value`: of its settings, with what people have said.
    pub labels: Vec<String>,
    /// Whose it is, and until when (the words for people); none: everybody's.
    pub reserved: Option<String>,
    /// Thousandths of cores: given, booked, busy.
    pub cpu_milli: u64,
    /// Booked.
    pub cpu_booked_milli: u64,
    /// Busy by anybody.
    pub cpu_busy_milli: u64,
    /// Bytes of memory: given, booked, used.
    pub memory_bytes: u64,
    /// Booked.
    pub memory_booked_bytes: u64,
    /// Used by anybody.
    pub memory_used_bytes: u64,
    /// Bytes free on the data disk.
    pub disk_free_bytes: u64,
    /// GPUs.
    pub gpus: Vec<GpuView>,
    /// Declared in the configuration rather than measured.
    pub declared: Vec<String>,
    /// Attempts that it runs, as `id#number`.
    pub attempts: Vec<String>,
    /// Version of muster.
    pub version: String,
    /// Control addresses.
    pub addresses: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Body of a drain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Move what runs there instead of letting it finish.
    #[serde(default)]
    pub now: bool,
    /// Why, one line; may be empty.
    #[serde(default)]
    pub reason: String,
}

/// Body of a change of role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// `voter`, `worker`, or none: by rule.
    #[serde(default)]
    pub role: Option<String>,
}

/// Body of a removal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveNodeRequest {
    /// Although it runs something: that is placed again when its leases are over.
    #[serde(default)]
    pub now: bool,
    /// The machine will never run again: what it ran is placed again at once.
    #[serde(default)]
    pub is_dead: bool,
    /// Why, one line; may be empty.
    #[serde(default)]
    pub reason: String,
}

/// What became of a change of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeChangeView {
    /// Which.
    pub node: NodeRefView,
    /// What holds now and what comes next.
    pub text: String,
}

/// `muster nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodesView {
    /// All members.
    pub nodes: Vec<NodeView>,
    /// Things about the cluster as a whole (single node, one machine's absence would stop it, slow link …).
    pub warnings: Vec<String>,
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// Cluster id; none before the node has joined.
    pub cluster: Option<String>,
    /// History number.
    pub incarnation: u64,
    /// The node that answers.
    pub node: NodeRefView,
    /// Who leads, if known.
    pub leader: Option<NodeRefView>,
    /// Raft term.
    pub term: u64,
    /// Members.
    pub members: u64,
    /// Voters.
    pub voters: Vec<NodeRefView>,
    /// Waiting experiments.
    pub waiting: u64,
    /// Placed or running experiments.
    pub active: u64,
    /// Version of muster.
    pub version: String,
    /// Why nothing can be written now, and what to do; none when all is well.
    pub problem: Option<String>,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueView {
    /// Name.
    pub name: String,
    /// Higher is served first.
    pub priority: i32,
    /// Its part among queues of the same priority.
    pub weight: u32,
    /// Who paused it, and why; none: it goes on.
    pub paused: Option<String>,
    /// What all of it may hold at once; 0: no limit.
    pub limits: LimitsView,
    /// What each user may hold of it at once; 0: no limit.
    pub user_limits: LimitsView,
    /// Waiting.
    pub waiting: u64,
    /// Placed or running.
    pub active: u64,
    /// Who made it.
    pub created_by: String,
}
