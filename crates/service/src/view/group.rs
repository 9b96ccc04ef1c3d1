//! Groups of experiments, experiments made from others, and what they printed last.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::log::json_float;
use super::{NodeRefView, ResourcesView, SubmitRequest};

/// A sweep: one experiment for each combination of values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupRequest {
    /// What all of them have in common.
    pub experiment: SubmitRequest,
    /// Such as `lr=log:1e-4..1e-1:8 bs=32,64`.
    pub sweep: String,
    /// So many combinations at random instead of all.
    #[serde(default)]
    pub samples: Option<u64>,
    /// Of what the samples are drawn; default: chosen and told.
    #[serde(default)]
    pub seed: Option<u64>,
}

/// What became of a sweep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupReply {
    /// The group.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Log index of the submission.
    pub index: u64,
    /// The sweep with what was chosen for it.
    pub sweep: String,
    /// Its experiments, by their numbers.
    pub experiments: Vec<String>,
    /// Amounts that nobody stated, and the earlier runs that they were learned from.
    pub learned: Vec<String>,
    /// Something the submitter should know now.
    pub warnings: Vec<String>,
}

/// How many experiments are in a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateCount {
    /// As in the list of experiments; `archived`: the group knows it by its id only.
    pub state: String,
    /// How many.
    pub count: u64,
}

/// A line of the list of groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupSummary {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// The sweep that made it.
    pub sweep: String,
    /// Who.
    pub user: String,
    /// When it was submitted.
    pub submitted_at: u64,
    /// What its experiments do.
    pub states: Vec<StateCount>,
}

/// The last value of a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricView {
    /// Name.
    pub name: String,
    /// Step.
    pub step: i64,
    /// Value; `NaN`, `inf` and `-inf` travel as text, since JSON has no such numbers.
    #[serde(with = "json_float")]
    pub value: f64,
}

/// An experiment of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupMemberView {
    /// Number in the group, from 1.
    pub number: u64,
    /// Id.
    pub id: String,
    /// As in the list of experiments, or `archived`.
    pub state: String,
    /// Why it waits or how it ended.
    pub reason: String,
    /// Where it runs or ran last.
    pub node: Option<NodeRefView>,
    /// The parameters in which the group differs, with its values.
    pub parameters: Vec<(String, String)>,
    /// When the process of the last attempt started.
    pub started_at: Option<u64>,
    /// When it was over.
    pub ended_at: Option<u64>,
    /// What its last attempt printed last of each metric.
    pub metrics: Vec<MetricView>,
    /// Why that is not known; empty if it is.
    pub metrics_unknown: String,
}

/// A group with its experiments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupView {
    /// The line of the list.
    pub summary: GroupSummary,
    /// Its experiments, by their numbers.
    pub experiments: Vec<GroupMemberView>,
}

/// An experiment made from another: the same with these changes. What is absent stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CloneRequest {
    /// Another name.
    pub name: Option<String>,
    /// Another command; empty: the same.
    pub command: Vec<String>,
    /// Variables that are added or get another value.
    pub variables: Vec<(String, String)>,
    /// Parameters that are added or get another value.
    pub parameters: Vec<(String, String)>,
    /// Amounts that are stated replace the others; so do lists that are not empty.
    pub resources: ResourcesView,
    /// Another queue.
    pub queue: Option<String>,
    /// Another priority.
    pub priority: Option<i32>,
    /// Other retries for lost nodes.
    pub retries_node_lost: Option<u32>,
    /// Other retries for own failures.
    pub retries_failed: Option<u32>,
    /// Another longest run time.
    pub time_limit_ms: Option<u64>,
    /// Another lease.
    pub lease_ms: Option<u64>,
    /// Other nodes that are taken before others; empty: the same.
    pub prefer_nodes: Vec<String>,
    /// Another place of checkpoints.
    pub checkpoint_directory: Option<String>,
    /// Another policy for over-use of GPU memory.
    pub vram_overuse: Option<String>,
    /// Another rule to stop by.
    pub stop_when: Option<String>,
    /// Refuse instead of waiting when no node of the cluster could ever run it.
    pub fail_if_impossible: bool,
}

/// An experiment exactly as it was, once more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RerunRequest {
    /// The node on which it is to run: a name, an id, or a unique start of either; absent: wherever it fits.
    pub node: Option<String>,
    /// Refuse instead of waiting when no node of the cluster could ever run it.
    pub fail_if_impossible: bool,
}

/// The experiment that another was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OriginView {
    /// `clone` or `rerun`.
    pub how: String,
    /// Of which experiment.
    pub experiment: String,
}
