//! What to measure, how long, and where the peers are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::table::say;

/// Prints figures of this build beside those of etcd and `HyperQueue`.
#[derive(Debug, clap::Parser)]
#[command(name = "report")]
pub(crate) struct Arguments {
    /// Which figures.
    #[arg(value_enum, default_value_t = What::All)]
    pub(crate) what: What,
    /// The etcd server (apt-get install etcd-server).
    #[arg(long, default_value = "/usr/bin/etcd", value_name = "PATH")]
    pub(crate) etcd: PathBuf,
    /// A python that has hyperqueue (python3 -m venv V && V/bin/pip install hyperqueue).
    #[arg(long, value_name = "PATH")]
    pub(crate) hq_python: Option<PathBuf>,
    /// Length of one run under load, in seconds.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// Runs of each kind; ours and the peer's take turns.
    #[arg(long, default_value_t = 3)]
    pub(crate) reps: usize,
    /// Leaders or machines that are killed in each cluster; 50 for the figures that are published.
    #[arg(long, default_value_t = 10)]
    pub(crate) kills: usize,
    /// Voters of the clusters whose leaders or machines are killed, one after the other: 3 or 5.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 5], value_parser = voters)]
    pub(crate) voters: Vec<usize>,
    /// Starts in each run.
    #[arg(long, default_value_t = 30)]
    pub(crate) starts: usize,
    /// Clients of the submit runs.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64])]
    pub(crate) clients: Vec<usize>,
    /// Rest between the warm-up and the idle figures, in seconds; 300 for the figures that are published.
    #[arg(long, default_value_t = 10)]
    pub(crate) settle_secs: u64,
    /// The part of its workloads that Kueue's generator sends into each queue: 10 for a tenth.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=50))]
    pub(crate) kueue_part: u64,
    /// The larger of its published sizes: 1,000 queues.
    #[arg(long)]
    pub(crate) kueue_large: bool,
    /// Keep the directories of the run.
    #[arg(long)]
    pub(crate) keep: bool,
    /// What cargo adds; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A group of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// Durable submits per second and their latency; disk per submit.
    Submits,
    /// Submit to process start on an idle cluster.
    Start,
    /// SIGKILL of the leader to the next acknowledged submit.
    Failover,
    /// The end of a machine to the placement of what it ran on another.
    Death,
    /// Memory and processor time of idle nodes.
    Idle,
    /// Points of metrics and bytes of console per second; a chart of a million points.
    Records,
    /// Kueue's generator of workloads: wall time on three nodes.
    Kueue,
    /// All of them but the last.
    All,
}

fn voters(text: &str) -> Result<usize, String> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a cluster has 3 or 5 voters".to_owned()),
    }
}

impl Arguments {
    /// Length of one run under load.
    pub(crate) fn run_time(&self) -> Duration {
        Duration::from_secs_f64(self.secs.clamp(0.1, 3_600.0))
    }

    /// The etcd server, if it is there; says so if not.
    pub(crate) fn etcd(&self) -> Option<&Path> {
        if self.etcd.is_file() {
            return Some(&self.etcd);
        }
        say("peer not installed: apt-get install etcd-server (or --etcd PATH)");
        None
    }

    /// The python with hyperqueue, if there is one; says so if not.
    pub(crate) fn hq_python(&self) -> Option<&Path> {
        match &self.hq_python {
            Some(python) if python.is_file() => Some(python),
            _ => {
                say(
                    "peer not installed: python3 -m venv V && V/bin/pip install hyperqueue, then --hq-python V/bin/python",
                );
                None
            }
        }
    }
}
