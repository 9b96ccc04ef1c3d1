//! What people say of what waits, of queues and of machines.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of a hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldRequest {
    /// Why, one line; may be empty.
    #[serde(default)]
    pub reason: String,
}

/// Body of a reordering: one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    /// `first`, `last`, or `ordinary`: by priority and age again.
    #[serde(default)]
    pub place: Option<String>,
    /// Right before this experiment.
    #[serde(default)]
    pub before: Option<String>,
}

/// Body of a change of priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PriorityRequest {
    /// Higher goes first; from 100 on it takes the places of lower hundreds.
    pub priority: i32,
}

/// Body of a pause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// Why, one line; may be empty.
    #[serde(default)]
    pub reason: String,
}

/// The most that may be held at once; 0 or absent: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsView {
    /// Experiments.
    pub experiments: u64,
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Thousandths of GPUs.
    pub gpu_milli: u64,
}

/// Body of a change of a queue; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShapeQueueRequest {
    /// Higher is served first.
    pub priority: Option<i32>,
    /// Its part among queues of the same priority.
    pub weight: Option<u32>,
    /// What all of it may hold.
    pub limits: Option<LimitsView>,
    /// What each user may hold of it.
    pub user_limits: Option<LimitsView>,
}

/// Body of a change of a user's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// The part among users of one queue; 1 is ordinary.
    pub weight: u32,
}

/// Body of a change of labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelRequest {
    /// Names with values; null takes the label off.
    pub labels: std::collections::BTreeMap<String, Option<String>>,
}

/// Body of a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReserveRequest {
    /// Whose it is to be, without a node.
    pub user: String,
    /// For how long, in milliseconds.
    pub for_ms: u64,
}
