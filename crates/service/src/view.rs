//! The wire model: what every surface shows, as JSON. `rest` re-exports it as its own model.
//!
//! Times are milliseconds since the Unix epoch (UTC), sizes are bytes, shares are thousandths.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An answer of the state with the log index that it reflects. A client that sends the highest index it saw
/// back (`X-Muster-Index`) never goes back in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// Log index.
    pub index: u64,
    /// Milliseconds since this state was known to be current; 0 for a linearizable read.
    pub age_ms: u64,
    /// The answer.
    pub body: T,
}

/// What an experiment asks for. Absent fields take the defaults of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesView {
    /// Thousandths of a core; default 1000.
    pub cpu_milli: Option<u64>,
    /// Bytes; default 1 GiB.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a GPU; default 0.
    pub gpu_milli: Option<u64>,
    /// Bytes of GPU memory on each GPU; default what the share implies.
    pub vram_bytes: Option<u64>,
    /// Bytes of disk; default 0.
    pub disk_bytes: Option<u64>,
    /// Accepted GPU models; default any.
    pub gpu_models: Vec<String>,
    /// Labels `name=value` that the node must carry.
    pub constraints: Vec<String>,
    /// Nodes that run one rank each; default 1.
    pub nodes: Option<u32>,
}

/// Where the code came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceView {
    /// Hash of the encoded source tree, a blob.
    pub tree: String,
    /// Files in it.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Commit, with `+` when there were changes; empty for a plain directory.
    pub revision: String,
    /// Remote without credentials.
    pub remote: String,
}

/// A new experiment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// Name; default: made from the command.
    #[serde(default)]
    pub name: String,
    /// Program and arguments, run without a shell.
    pub command: Vec<String>,
    /// Code; none: an empty working directory.
    #[serde(default)]
    pub source: Option<SourceView>,
    /// Sub-directory of the source tree in which the command starts.
    #[serde(default)]
    pub working_directory: String,
    /// Variables for the command, as name and value.
    #[serde(default)]
    pub variables: Vec<(String, String)>,
    /// Named parameters.
    #[serde(default)]
    pub parameters: Vec<(String, String)>,
    /// What it needs.
    #[serde(default)]
    pub resources: ResourcesView,
    /// Where it waits; default `default`.
    #[serde(default)]
    pub queue: Option<String>,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
    /// Attempts lost with their node that are replaced; default 3.
    #[serde(default)]
    pub retries_node_lost: Option<u32>,
    /// Own failures that are tried again; default 0.
    #[serde(default)]
    pub retries_failed: Option<u32>,
    /// Longest run time; default none.
    #[serde(default)]
    pub time_limit_ms: Option<u64>,
    /// Lease; default by rule.
    #[serde(default)]
    pub lease_ms: Option<u64>,
    /// Time between SIGTERM and SIGKILL at a stop; default 10 s.
    #[serde(default)]
    pub stop_grace_ms: Option<u64>,
    /// Refuse instead of waiting when no node of the cluster could ever run it.
    #[serde(default)]
    pub fail_if_impossible: bool,
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubmitReply {
    /// The experiment.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Log index of the submission.
    pub index: u64,
    /// Something the submitter should know now (nothing can ever run it, one machine's absence stops the cluster …).
    pub warnings: Vec<String>,
}

/// A cause of an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CauseView {
    /// Stable word: `finished`, `exit-code`, `signal`, `command-not-found`, `source-tree`, `host-out-of-memory`, `disk-full`,
    /// `stopped`, `node-lost`, `lease-expired`, `time-limit`, `node-restarted`, `holder-failed`, `refused-by-node`.
    pub kind: String,
    /// For people.
    pub text: String,
    /// What was looked at.
    pub evidence: Vec<String>,
    /// What a shell would return: the command's own code, 128 + signal …
    pub exit_code: i32,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptView {
    /// Number from 1.
    pub number: u32,
    /// Where.
    pub nodes: Vec<NodeRefView>,
    /// Keeper of the second copy of its unsealed records.
    pub mirror: Option<NodeRefView>,
    /// Why there.
    pub reason: String,
    /// When it was placed.
    pub placed_at: u64,
    /// When its process started.
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
    /// Sealed record segments.
    pub segments: u64,
    /// Bytes in them.
    pub record_bytes: u64,
}

/// A node, briefly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeRefView {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
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
    /// Where it waits or waited.
    pub queue: String,
    /// Where it runs or ran last.
    pub node: Option<NodeRefView>,
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
    /// Program and arguments.
    pub command: Vec<String>,
    /// Sub-directory of the source tree.
    pub working_directory: String,
    /// Names of variables that were set; values are shown only to members.
    pub variables: Vec<(String, String)>,
    /// Parameters.
    pub parameters: Vec<(String, String)>,
    /// Code.
    pub source: Option<SourceView>,
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
    /// Some node of the cluster could run it if it were empty.
    pub possible_ever: bool,
    /// Per node.
    pub nodes: Vec<WhyNodeView>,
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
    /// Percent.
    pub utilisation_percent: u8,
    /// Thousandths booked by attempts.
    pub booked_milli: u64,
    /// Bytes booked by attempts.
    pub booked_vram_bytes: u64,
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
    /// `live`, `suspect`, `unknown` (no report yet).
    pub health: String,
    /// Age of its last report; none if there is none.
    pub report_age_ms: Option<u64>,
    /// Round trip from the node that answers; none if not connected or itself.
    pub round_trip_us: Option<u64>,
    /// Takes attempts.
    pub takes_work: bool,
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
    /// Waiting.
    pub waiting: u64,
    /// Placed or running.
    pub active: u64,
    /// Who made it.
    pub created_by: String,
}

/// Body of a queue's making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateQueueRequest {
    /// Name.
    pub name: String,
    /// Higher is served first.
    #[serde(default)]
    pub priority: i32,
}

/// Body of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// Where to.
    pub queue: String,
}

/// Body of a join token's making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinTokenRequest {
    /// Admissions; default 1.
    #[serde(default)]
    pub uses: Option<u32>,
    /// Life; default one hour.
    #[serde(default)]
    pub expires_in_ms: Option<u64>,
}

/// Body of a user token's making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUserTokenRequest {
    /// Person.
    pub user: String,
    /// `viewer`, `member` or `admin`.
    pub role: String,
}

/// A token that was made; the secret is shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// Public half.
    pub id: String,
    /// The whole text, to be handed over.
    pub token: String,
    /// When it ends; none: never.
    pub expires_at: Option<u64>,
}

/// A piece of an attempt's output or history, as followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum LogItem {
    /// Console output; bytes that are not UTF-8 are replaced.
    Console {
        /// Attempt.
        attempt: u32,
        /// Number of the record in the attempt.
        sequence: u64,
        /// When.
        at: u64,
        /// `stdout`, `stderr` or `muster`.
        stream: String,
        /// Text as it came, not necessarily whole lines.
        text: String,
    },
    /// A metric point.
    Scalar {
        /// Attempt.
        attempt: u32,
        /// Number of the record.
        sequence: u64,
        /// When.
        at: u64,
        /// Metric.
        name: String,
        /// Step.
        step: i64,
        /// Value; `NaN`, `inf` and `-inf` travel as text, since JSON has no such numbers.
        #[serde(with = "json_float")]
        value: f64,
    },
    /// Console bytes that were dropped.
    Gap {
        /// Attempt.
        attempt: u32,
        /// How many.
        bytes: u64,
    },
    /// The experiment's state changed: as in the list, with the reason.
    State {
        /// New state.
        state: String,
        /// Why.
        reason: String,
    },
    /// The experiment is over; the last item.
    End {
        /// How.
        cause: CauseView,
    },
}

/// Floats that JSON cannot write travel as text, so that a diverged loss reaches its reader.
mod json_float {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() {
            serializer.serialize_f64(*value)
        } else {
            serializer.collect_str(value)
        }
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Float {
        Number(f64),
        Text(String),
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Float::deserialize(deserializer)? {
            Float::Number(value) => Ok(value),
            Float::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// Hashes to ask about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlobHashes {
    /// Hexadecimal.
    pub hashes: Vec<String>,
}

/// An error, as every surface shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorView {
    /// Stable word.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_that_is_no_number_reaches_its_reader() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.25] {
            let item = LogItem::Scalar {
                attempt: 1,
                sequence: 2,
                at: 3,
                name: "loss".to_owned(),
                step: 4,
                value,
            };
            let text = serde_json::to_string(&item).unwrap();
            let LogItem::Scalar { value: read, .. } = serde_json::from_str(&text).unwrap() else {
                panic!("{text}")
            };
            assert!(
                read.total_cmp(&value).is_eq() || read.is_nan() && value.is_nan(),
                "{text}"
            );
        }
    }
}
