//! Experiments side by side.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MetricView, NodeRefView, OriginView, SourceView};

/// What is compared of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComparedView {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// As in the list of experiments.
    pub state: String,
    /// Why it waits or how it ended.
    pub reason: String,
    /// Who.
    pub user: String,
    /// The experiment that it was made from.
    pub origin: Option<OriginView>,
    /// Program and arguments, with places for parameters.
    pub command: Vec<String>,
    /// Sub-directory of the source tree.
    pub working_directory: String,
    /// Parameters.
    pub parameters: Vec<(String, String)>,
    /// Variables.
    pub variables: Vec<(String, String)>,
    /// The packages that it ran in: `host`, or what they are made from and the hash of its description.
    pub environment: String,
    /// Code.
    pub source: Option<SourceView>,
    /// What it asked for, as people write it.
    pub resources: String,
    /// Attempts so far.
    pub attempts: u32,
    /// Where its last attempt ran.
    pub nodes: Vec<NodeRefView>,
    /// How long the last attempt ran, or has run.
    pub ran_ms: Option<u64>,
    /// Processor time of the last attempt; 0 unknown.
    pub cpu_ms: u64,
    /// Most memory of the last attempt; 0 unknown.
    pub peak_memory_bytes: u64,
    /// What its last attempt printed last of each metric.
    pub metrics: Vec<MetricView>,
    /// Why that is not known; empty if it is.
    pub metrics_unknown: String,
}

/// A file that is not the same in two source trees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDifference {
    /// Where.
    pub path: String,
    /// `added`, `removed`, `changed`, or `mode` where only the right to execute differs.
    pub change: String,
    /// The difference as a unified diff; empty where `note` says why there is none.
    pub diff: String,
    /// Sizes of a binary file, or why the difference is not shown.
    pub note: String,
}

/// What differs between the code of the first experiment and that of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceDifference {
    /// The other experiment.
    pub experiment: String,
    /// By path.
    pub files: Vec<FileDifference>,
    /// Files that differ beyond those listed.
    pub more: u64,
    /// Why the trees could not be compared; empty if they were.
    pub unknown: String,
}

/// Experiments side by side; the first is the one that the code of the others is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompareView {
    /// In the order in which they were asked for.
    pub experiments: Vec<ComparedView>,
    /// One for each but the first.
    pub sources: Vec<SourceDifference>,
}
