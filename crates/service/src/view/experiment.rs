//! Experiments: where they stand, why, and what happened to them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::view::{EnvironmentView, KeptView, NodeRefView, OriginView, ResourcesView, SourceView};

/// A cause of an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CauseView {
    /// Stable word: `finished`, `exit-code`, `signal`, `command-not-found`, `source-tree`, `host-out-of-memory`, `disk-full`,
    /// `stopped`, `node-lost`, `lease-expired`, `time-limit`, `node-restarted`, `holder-failed`, `refused-by-node`, `moved`,
    /// `history-replaced`, `preempted`, `vram-overuse`, `rank-ended`, `gpu-failed`, `permission-denied`,
    /// `cuda-out-of-memory`, `gpu-xid`, `nan-loss`, `nccl-timeout`, `import-failed`, `environment-build`, `rule-met`; of findings also
    /// `no-progress`, `leak-suspected`, `data-starved`, `gpu-underused`.
    pub kind: String,
    /// For people.
    pub text: String,
    /// What was looked at.
    pub evidence: Vec<String>,
    /// What a shell would return: the command's own code, 128 + signal …
    pub exit_code: i32,
    /// What to do about it.
    pub advice: Vec<String>,
    /// What was seen besides.
    pub findings: Vec<FindingView>,
}

/// Something that was seen besides a cause, or while an experiment runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingView {
    /// A word of the same list.
    pub kind: String,
    /// For people.
    pub text: String,
    /// What was looked at.
    pub evidence: String,
    /// What to do about it.
    pub advice: String,
}

/// One rank of an attempt on several nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RankView {
    /// Number from 0.
    pub rank: u32,
    /// Where.
    pub node: NodeRefView,
    /// When its process started.
    pub started_at: Option<u64>,
    /// When it ended.
    pub ended_at: Option<u64>,
    /// How it ended.
    pub cause: Option<CauseView>,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptView {
    /// Number from 1.
    pub number: u32,
    /// Where, by rank.
    pub nodes: Vec<NodeRefView>,
    /// How its ranks fare, if it has several.
    pub ranks: Vec<RankView>,
    /// Keeper of the second copy of its unsealed records.
    pub mirror: Option<NodeRefView>,
    /// Why there.
    pub reason: String,
    /// When it was placed.
    pub placed_at: u64,
    /// When its process started; of several the last.
    pub started_at: Option<u64>,
    /// When it ended.
    pub ended_at: Option<u64>,
    /// How it ended.
    pub cause: Option<CauseView>,
    /// A result that came after it was given up.
    pub late: Option<CauseView>,
    /// Length of its lease.
    pub lease_ms: u64,
    /// Most memory it used; 0 unknown.
    pub peak_memory_bytes: u64,
    /// Processor time.
    pub cpu_ms: u64,
    /// How its process tree was ended; empty if by itself.
    pub tree_kill_method: String,
    /// What was kept of its outputs.
    pub outputs: Vec<KeptView>,
    /// Sealed record segments.
    pub segments: u64,
    /// Bytes in them.
    pub record_bytes: u64,
    /// What a person should know: it takes more GPU memory than it was given, or a neighbour does.
    pub warnings: Vec<String>,
}

/// A line of `muster ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentSummary {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// `queued`, `placed`, `running`, `stopping`, `finished`, `failed`, `stopped`.
    pub state: String,
    /// Who.
    pub user: String,
    /// The group that it was submitted with.
    pub group: Option<String>,
    /// Where it waits or waited.
    pub queue: String,
    /// Where it runs or ran last; of several nodes that of the first rank.
    pub node: Option<NodeRefView>,
    /// All nodes where it runs or ran last, by rank.
    pub nodes: Vec<NodeRefView>,
    /// When it was submitted.
    pub submitted_at: u64,
    /// When the process of the last attempt started.
    pub started_at: Option<u64>,
    /// When it was over.
    pub ended_at: Option<u64>,
    /// Attempts so far.
    pub attempts: u32,
    /// Why it waits or how it ended, in a few words.
    pub reason: String,
    /// Resources as people write them.
    pub resources: String,
}

/// `muster show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentDetail {
    /// The line of the list.
    pub summary: ExperimentSummary,
    /// user@node of the submission.
    pub submitted_by: String,
    /// Program and arguments, with places for parameters.
    pub command: Vec<String>,
    /// The same as it is run, with parameters in their places.
    pub filled_command: Vec<String>,
    /// The experiment that it was made from.
    pub origin: Option<OriginView>,
    /// The metric by which it ends itself; empty: none.
    pub stop_when: String,
    /// Sub-directory of the source tree.
    pub working_directory: String,
    /// Names of variables that were set; values are shown only to members.
    pub variables: Vec<(String, String)>,
    /// Parameters.
    pub parameters: Vec<(String, String)>,
    /// Code.
    pub source: Option<SourceView>,
    /// Paths that are kept when it ends.
    pub outputs: Vec<String>,
    /// Packages; none: what the machine has.
    pub environment: Option<EnvironmentView>,
    /// What it asked for.
    pub resources: ResourcesView,
    /// Retries allowed for lost nodes.
    pub retries_node_lost: u32,
    /// Retries allowed for own failures.
    pub retries_failed: u32,
    /// Longest run time; 0 none.
    pub time_limit_ms: u64,
    /// Higher goes first.
    pub priority: i32,
    /// Attempts, oldest first.
    pub attempts: Vec<AttemptView>,
    /// How it ended.
    pub cause: Option<CauseView>,
    /// Who asked for the stop.
    pub stop_requested_by: Option<String>,
    /// Its ledger entries of the hot state, oldest first.
    pub history: Vec<LedgerEntryView>,
}

/// One line of history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerEntryView {
    /// Number.
    pub sequence: u64,
    /// When.
    pub at: u64,
    /// Who.
    pub author: String,
    /// What.
    pub action: String,
    /// About which experiment.
    pub experiment: Option<String>,
    /// Details.
    pub detail: String,
}

/// A list of experiments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentList {
    /// Newest first.
    pub experiments: Vec<ExperimentSummary>,
    /// How many there are beyond the limit.
    pub more: u64,
}

/// What to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ExperimentFilter {
    /// Ended ones too.
    pub all: bool,
    /// Only this state.
    pub state: Option<String>,
    /// Only this user.
    pub user: Option<String>,
    /// Only this queue.
    pub queue: Option<String>,
    /// Only this name.
    pub name: Option<String>,
    /// Only those of this group.
    pub group: Option<String>,
    /// At most so many; 0: 100.
    pub limit: u64,
}

/// Why an experiment waits, runs where it runs, or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyView {
    /// Id.
    pub id: String,
    /// State as in the list.
    pub state: String,
    /// The reason in a sentence.
    pub summary: String,
    /// Place in the waiting order from 1; 0 when it does not wait.
    pub position: u64,
    /// By what rule it has that place; empty when it does not wait.
    pub rule: String,
    /// When it is expected to start, and on what basis; empty when it does not wait.
    pub estimate: String,
    /// The cluster could run it if its nodes were empty.
    pub possible_ever: bool,
    /// Per node.
    pub nodes: Vec<WhyNodeView>,
    /// What a person should know of the attempt that runs.
    pub warnings: Vec<String>,
    /// Why its last attempt ended; none before its end.
    pub cause: Option<CauseView>,
    /// What its use of resources says while it runs: a leak, a GPU that waits or idles, a standstill.
    pub findings: Vec<FindingView>,
}

/// What one node lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyNodeView {
    /// Which.
    pub node: NodeRefView,
    /// `fits`, `short`, `impossible`.
    pub verdict: String,
    /// Lines such as `needs 8 cpus, has 2 of 4 free`.
    pub reasons: Vec<String>,
}
