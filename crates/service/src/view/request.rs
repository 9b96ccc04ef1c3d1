//! What a person sends, and the answers to it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
    /// No other experiment runs on its node meanwhile; default false.
    pub exclusive: bool,
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

/// The packages that the command runs with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentView {
    /// Hash of their encoded description, a blob.
    pub spec: String,
    /// What it was made from, in a line.
    pub summary: String,
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
    /// Packages, built on its node before it starts; none: what the machine has.
    #[serde(default)]
    pub environment: Option<EnvironmentView>,
    /// Sub-directory of the source tree in which the command starts.
    #[serde(default)]
    pub working_directory: String,
    /// Variables for the command, as name and value.
    #[serde(default)]
    pub variables: Vec<(String, String)>,
    /// Named parameters: `{name}` in the command or the value of a variable stands for the value, and
    /// `MUSTER_PARAM_NAME` carries it.
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
    /// Time between SIGTERM and SIGKILL at a stop; default 10 s, at most 1 h.
    #[serde(default)]
    pub stop_grace_ms: Option<u64>,
    /// Nodes that are taken before others if they fit: names, ids, or unique starts of either.
    #[serde(default)]
    pub prefer_nodes: Vec<String>,
    /// Where it leaves checkpoints; empty: nowhere. One that has some is asked to make room before others.
    #[serde(default)]
    pub checkpoint_directory: String,
    /// What to do if it holds more memory of a shared GPU than it was given: `warn`, or `stop` it. Default `warn`; a node may
    /// be stricter.
    #[serde(default)]
    pub vram_overuse: Option<String>,
    /// A rule by which it ends itself, such as `loss > 2 after step 1000`.
    #[serde(default)]
    pub stop_when: Option<String>,
    /// Files and directories that are kept when it ends, relative to where the command starts.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// Most bytes of all of these; default 10 GiB.
    #[serde(default)]
    pub output_max_bytes: Option<u64>,
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
    /// Amounts that nobody stated, and the earlier runs that they were learned from.
    pub learned: Vec<String>,
    /// Something the submitter should know now (nothing can ever run it, one machine's absence stops the cluster …).
    pub warnings: Vec<String>,
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
    /// Life; default 90 days.
    #[serde(default)]
    pub expires_in_ms: Option<u64>,
    /// It is good until it is revoked.
    #[serde(default)]
    pub never_expires: bool,
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

/// Hashes to ask about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlobHashes {
    /// Hexadecimal.
    pub hashes: Vec<String>,
}
