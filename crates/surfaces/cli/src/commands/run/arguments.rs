//! Options of `muster run`.

use std::path::{Path, PathBuf};

use crate::environment::Mode;
use types::{DurationMs, StopRule, parse_bytes, parse_cpus, parse_duration, parse_gpus};

/// Options of `muster run`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Name of the experiment (default: made from the command)
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Queue to wait in (default: `default`)
    #[arg(long)]
    pub(super) queue: Option<String>,
    /// Experiments of higher priority go first; from 100 on (administrators) they take the places of others
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(super) priority: i32,
    /// Longest run time, such as 90m or 2h (default: none); stated, it may run before others while they wait for room
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) time: Option<DurationMs>,
    /// How often the command is tried again after it failed (default 0)
    #[arg(long, value_name = "NUMBER")]
    pub(super) retries: Option<u32>,
    /// How often it is placed again after its node was lost (default 3)
    #[arg(long, value_name = "NUMBER")]
    pub(super) retries_node_lost: Option<u32>,
    /// How long it may run on without word from the cluster (default: by rule)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) lease: Option<DurationMs>,
    /// A variable for the command; may be given several times
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) variables: Vec<(String, String)>,
    /// A parameter: {NAME} in the command and in values of --env stands for it, and `MUSTER_PARAM_NAME` carries it; may be
    /// given several times
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) parameters: Vec<(String, String)>,
    /// Names this submission: the same key submits once (default: a random one)
    #[arg(long, value_name = "KEY")]
    pub(super) key: Option<String>,
    /// Where the command leaves checkpoints: one that has some is asked to make room for others before one that has none
    #[arg(
        long = "checkpoint",
        value_name = "DIR",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) checkpoint_directory: String,
    /// What to do if it holds more memory of a shared GPU than it was given: warn, or stop it; default warn, unless the
    /// machine is stricter
    #[arg(long, value_name = "warn|stop")]
    pub(super) vram_overuse: Option<String>,
    /// Refuse at once when no node of the cluster could ever run it
    #[arg(long)]
    pub(super) fail_if_impossible: bool,
    /// Print the output until the end, and exit as the command does
    #[arg(short, long)]
    pub(super) follow: bool,
    /// End it when a metric that it prints says so, such as 'loss > 2 after step 1000' or 'loss is nan'
    #[arg(long, value_name = "RULE")]
    pub(super) stop_when: Option<StopRule>,
    #[command(flatten)]
    pub(super) outputs: Outputs,
    #[command(flatten)]
    pub(super) sweep: Sweep,
    #[command(flatten)]
    pub(super) needs: Needs,
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    pub(super) packages: Packages,
    /// The command and its arguments, run without a shell
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
}

/// What is kept of its directory.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What it leaves")]
pub(super) struct Outputs {
    /// A file or directory to keep when it ends, however it ends, relative to where the command starts; `muster get`
    /// fetches it; may be given several times
    #[arg(long = "output", value_name = "PATH")]
    pub(super) paths: Vec<String>,
    /// Most of all of these together (default 10GiB)
    #[arg(long = "output-limit", value_name = "SIZE", value_parser = parse_bytes)]
    pub(super) max_bytes: Option<u64>,
}

/// Parameters of a file, and many experiments at once.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Parameters")]
pub(super) struct Sweep {
    /// Parameters from a file of JSON or TOML; tables in it become names with dots; --param wins
    #[arg(long, value_name = "FILE")]
    pub(super) params: Option<PathBuf>,
    /// One experiment for each combination, such as 'lr=log:1e-4..1e-1:8 bs=32,64': lists, and ranges lin:, log: and
    /// int: with a number of points
    #[arg(long, value_name = "SWEEP", conflicts_with = "follow")]
    pub(super) sweep: Option<String>,
    /// So many combinations of the sweep at random, instead of all; its ranges then have no number of points
    #[arg(long, value_name = "NUMBER", requires = "sweep")]
    pub(super) samples: Option<u64>,
    /// Of what the samples are drawn: the same seed draws the same ones (default: a random one, which is shown)
    #[arg(long, value_name = "NUMBER", requires = "samples")]
    pub(super) seed: Option<u64>,
}

/// What the experiment asks of its node, or of each of its nodes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What it needs")]
pub(in crate::commands) struct Needs {
    /// GPUs: a whole number, or a share of one such as 0.5
    #[arg(long, value_name = "NUMBER", value_parser = parse_gpus)]
    pub(in crate::commands) gpus: Option<u64>,
    /// Memory of each GPU, such as 20GiB; without --gpus that share of one GPU
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(in crate::commands) vram: Option<u64>,
    /// Main memory (default 1GiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(in crate::commands) memory: Option<u64>,
    /// Processor cores, such as 4 or 0.5 (default 1)
    #[arg(long, value_name = "NUMBER", value_parser = parse_cpus)]
    pub(in crate::commands) cpus: Option<u64>,
    /// Disk for its directory and outputs
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(in crate::commands) disk: Option<u64>,
    /// Accepted GPU models by whole words of their names: A100 accepts NVIDIA A100-SXM4-80GB
    #[arg(long = "gpu-model", value_name = "A|B", value_delimiter = '|')]
    pub(in crate::commands) gpu_models: Vec<String>,
    /// A label that the node must carry; may be given several times
    #[arg(long = "constraint", value_name = "NAME=VALUE", value_parser = constraint)]
    pub(in crate::commands) constraints: Vec<String>,
    /// A node that is taken before others if it fits; may be given several times
    #[arg(long = "prefer-node", value_name = "NODE")]
    pub(in crate::commands) prefer_nodes: Vec<String>,
    /// Run the command once on each of so many nodes at the same time, all of them or none; each gets all of the above
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::commands) nodes: Option<u32>,
    /// Run nothing else on its node meanwhile
    #[arg(long)]
    pub(in crate::commands) exclusive: bool,
}

/// Which code goes with it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Its code")]
pub(super) struct Source {
    /// Take no code: the command starts in an empty directory
    #[arg(long, conflicts_with = "directory")]
    no_source: bool,
    /// Start in this directory instead of the current one, with its git checkout, or itself, as the code
    #[arg(long = "source", value_name = "DIR", id = "directory")]
    directory: Option<PathBuf>,
    /// Largest file of the code
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_bytes)]
    pub(super) max_file_size: u64,
    /// Most code in all
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = parse_bytes)]
    pub(super) max_tree_size: u64,
}

impl Source {
    pub(super) fn without_code(&self) -> bool {
        self.no_source
    }

    pub(super) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }
}

/// Which packages go with it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Its packages")]
pub(super) struct Packages {
    /// Where its Python packages come from
    #[arg(long = "env-mode", value_name = "MODE", value_enum, default_value_t)]
    pub(super) mode: Mode,
    /// The lock or requirements file, where the nearest one is not meant
    #[arg(long = "env-file", value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
}

/// Reads `NAME=VALUE`.
pub(in crate::commands) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Checks `NAME=VALUE`.
fn constraint(text: &str) -> Result<String, String> {
    pair(text).map(|(name, value)| format!("{name}={value}"))
}
