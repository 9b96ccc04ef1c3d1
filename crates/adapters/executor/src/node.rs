//! The node's side: starts, adopts and watches holders.

mod adopt;
mod artifacts;
mod attempt;
mod build;
mod environment;
mod handle;
mod packages;
mod points;
mod prepare;
mod runner;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use types::{
    AttemptToken, BlobHash, DurationMs, EnvironmentSpec, GpuShare, SourceTree, Timestamp,
    WantedAttempt,
};

use crate::cgroup::CgroupPlan;
use crate::clock::boot_id;
use crate::environments::{EnvironmentConfig, Environments};
use crate::error::Error;
use crate::hold::Program;
use crate::job_user::{JobUser, Protection, make_passable};
use crate::segment::SealedSegment;
use crate::stored::{BookedGpu, Ended, GpuTerms, Usage};
use attempt::Attempt;

pub use handle::{Handle, UnsealedRead};
pub use runner::Runner;

/// Events that may wait for the node's loop: far more than attempts on one node. `TailGrew` is dropped
/// when it is full, the others wait.
const EVENT_CAPACITY: usize = 1_024;
/// Starts that may wait for the run loop.
const LAUNCH_CAPACITY: usize = 256;

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where attempts live: `<data dir>/attempts`. Made if it is not there.
    pub directory: PathBuf,
    /// The program that is started as holder: this binary, by absolute path or as `/proc/self/exe`.
    pub holder_program: PathBuf,
    /// Its arguments before the attempt's directory, such as `hold`.
    pub holder_arguments: Vec<String>,
    /// Use cgroups where there are some.
    pub use_cgroups: bool,
    /// The tree is killed this long before the lease ends, so that it is gone in time.
    pub stop_margin: DurationMs,
    /// As whom jobs run.
    pub job_user: JobUser,
    /// The directory with the node's keys, below which attempts are: jobs of the node's own user do not see it. None:
    /// nothing is hidden.
    pub private_directory: Option<PathBuf>,
    /// Processes and threads that one attempt may have at once.
    pub max_processes: u32,
    /// Where the pipes of an MPS control daemon are, if one runs: jobs that share a GPU go through it. It is never started.
    pub mps_directory: PathBuf,
    /// A segment is sealed at this size.
    pub segment_max_bytes: u64,
    /// A segment is sealed at this age.
    pub segment_max_age: DurationMs,
    /// Environments that are built for experiments.
    pub environments: EnvironmentConfig,
}

impl Config {
    /// Where MPS has its pipes unless `CUDA_MPS_PIPE_DIRECTORY` says otherwise.
    pub const DEFAULT_MPS_DIRECTORY: &str = "/tmp/nvidia-mps";

    /// The settings of flow 4 for attempts below `directory`, with `muster hold-attempt` as holder.
    #[must_use]
    pub fn new(directory: PathBuf, holder_program: PathBuf) -> Self {
        Self {
            environments: EnvironmentConfig::beside(&directory),
            directory,
            holder_program,
            holder_arguments: vec!["hold-attempt".to_owned()],
            use_cgroups: true,
            // Killing a tree takes about 10 ms; the rest is for a busy machine.
            stop_margin: DurationMs(100),
            job_user: JobUser::default(),
            private_directory: None,
            // Half of the smallest common `pid_max` (32,768), so that a fork bomb leaves room to kill it.
            max_processes: 16_384,
            mps_directory: PathBuf::from(Self::DEFAULT_MPS_DIRECTORY),
            segment_max_bytes: 16 << 20,
            segment_max_age: DurationMs::from_secs(600),
        }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct StartAttempt {
    /// The attempt as the cluster wants it.
    pub wanted: WantedAttempt,
    /// Its source tree; none: it starts in an empty directory.
    pub tree: Option<SourceTree>,
    /// Files with the content of the tree's blobs.
    pub files: BTreeMap<BlobHash, PathBuf>,
    /// End of its lease, by [`crate::boottime_ms`].
    pub deadline_boottime_ms: u64,
    /// Its GPUs as CUDA names them, in the order of its shares; empty: by their numbers.
    pub gpus: Vec<String>,
    /// The packages that it runs with, put together before it starts; none: those of the machine.
    pub environment: Option<EnvironmentSpec>,
    /// More variables; they win over those of the experiment.
    pub variables: Vec<(String, String)>,
}

impl StartAttempt {
    /// What it is given of the GPUs, with their names.
    fn gpu_terms(&self) -> GpuTerms {
        let shares = self.wanted.resources.gpus.iter().enumerate();
        let gpu = |(place, share): (usize, &GpuShare)| BookedGpu {
            share: *share,
            uuid: self.gpus.get(place).cloned(),
        };
        GpuTerms {
            gpus: shares.map(gpu).collect(),
            overuse: self.wanted.spec.policy.overuse,
            stop_grace: self.wanted.spec.policy.stop_grace_ms,
        }
    }
}

/// An attempt as the watch over the GPUs sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuTenant {
    /// Rank on this node.
    pub rank: u32,
    /// What it was given.
    pub terms: GpuTerms,
    /// A node process before this one started it.
    pub is_adopted: bool,
}

/// Where an attempt stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its directory is being made, or its holder starts.
    Preparing,
    /// Its command runs.
    Running,
    /// It ended and is not yet released.
    Ended(Ended),
}

/// An attempt that this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptStatus {
    /// Which.
    pub token: AttemptToken,
    /// Rank on this node.
    pub rank: u32,
    /// Where it stands.
    pub phase: Phase,
    /// Process id of the command, once it runs.
    pub pid: Option<u32>,
    /// Wall clock of its start, once it runs.
    pub started_at: Option<Timestamp>,
    /// End of its lease as far as the holder was told.
    pub deadline_boottime_ms: u64,
    /// Newest sample.
    pub usage: Usage,
}

/// What happened. Events wake; [`Handle::running`] tells the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The command runs.
    Started {
        /// Which.
        token: AttemptToken,
        /// Process id of the command.
        pid: u32,
        /// Wall clock.
        at: Timestamp,
    },
    /// The attempt ended, durably. Told again after a restart until it is released.
    Ended {
        /// Which.
        token: AttemptToken,
        /// How.
        ended: Ended,
    },
    /// A segment is complete; all of an attempt's are told before its end is.
    SegmentSealed {
        /// Which.
        token: AttemptToken,
        /// The file and what is in it.
        segment: SealedSegment,
    },
    /// There are new records. Dropped when the receiver is slow: see [`Handle::tail_changed`].
    TailGrew {
        /// Which.
        token: AttemptToken,
    },
}

/// What handle, run loop and attempts share.
#[derive(Debug)]
struct Shared {
    config: Config,
    cgroups: CgroupPlan,
    boot_id: u64,
    host_variables: Vec<(String, String)>,
    protection: Protection,
    environments: Arc<Environments>,
    attempts: Mutex<BTreeMap<AttemptToken, Arc<Attempt>>>,
    events: mpsc::Sender<Event>,
}

impl Shared {
    fn attempts(&self) -> std::sync::MutexGuard<'_, BTreeMap<AttemptToken, Arc<Attempt>>> {
        self.attempts
            .lock()
            .expect("no holder of this lock can panic: it only reads and writes the map")
    }

    fn attempt(&self, token: &AttemptToken) -> Result<Arc<Attempt>, Error> {
        let attempts = self.attempts();
        let attempt = attempts.get(token).cloned();
        attempt.ok_or(Error::UnknownAttempt { token: *token })
    }

    async fn tell(&self, event: Event) {
        if self.events.send(event).await.is_err() {
            // Nobody listens any more: the node is going down, and the next one finds it on disk.
            tracing::debug!("executor event has no receiver");
        }
    }
}

/// Opens the attempts directory, adopts attempts whose holders live, and finds those that ended while no
/// node was there. Drive the [`Runner`]; without it nothing happens.
///
/// # Errors
/// The directory cannot be made or read, or its path is not text.
pub async fn start(config: Config) -> Result<(Handle, mpsc::Receiver<Event>, Runner), Error> {
    let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
    let shared = tokio::task::spawn_blocking(move || {
        let cgroups = cgroup_plan(&config, true);
        std::fs::create_dir_all(&config.directory)
            .and_then(|()| environment::restrict(&config.directory))
            .map_err(|source| directory_error(&config, source))?;
        let protection = protect(&config)?;
        if config.directory.to_str().is_none() {
            return Err(Error::PathNotText {
                path: config.directory,
            });
        }
        let environments = Environments::new(config.environments.clone(), holder_program(&config));
        Ok(Arc::new(Shared {
            environments: Arc::new(environments),
            config,
            cgroups,
            boot_id: boot_id(),
            host_variables: environment::host_variables(),
            protection,
            attempts: Mutex::default(),
            events,
        }))
    });
    let shared = shared.await.map_err(Error::Task)??;
    let found = adopt::scan(&shared).await?;
    let (launches, waiting) = mpsc::channel(LAUNCH_CAPACITY);
    let handle = Handle::new(Arc::clone(&shared), launches);
    Ok((handle, receiver, Runner::new(shared, waiting, found)))
}

fn holder_program(config: &Config) -> Program {
    Program {
        path: config.holder_program.clone(),
        arguments: config.holder_arguments.clone(),
    }
}

/// Decides as whom jobs run, and opens the way to their work for that user.
fn protect(config: &Config) -> Result<Protection, Error> {
    let holder = holder_program(config);
    let private = config.private_directory.as_deref();
    let protection = Protection::find(&config.job_user, private, &config.directory, &holder)?;
    if protection.others_pass() {
        make_passable(&config.directory)
            .and_then(|()| private.map_or(Ok(()), make_passable))
            .map_err(|source| directory_error(config, source))?;
    }
    match &protection.warning {
        Some(warning) => tracing::warn!("{warning}"),
        None => tracing::info!("{}", protection.describe()),
    }
    Ok(protection)
}

fn directory_error(config: &Config, source: std::io::Error) -> Error {
    Error::Directory {
        path: config.directory.clone(),
        source,
    }
}

fn cgroup_plan(config: &Config, prepare: bool) -> CgroupPlan {
    if !config.use_cgroups {
        return CgroupPlan::default();
    }
    let mut plan = CgroupPlan::discover();
    if prepare {
        plan.pass_controllers_on();
    }
    plan
}

/// Lines for `doctor`: what ends process trees and enforces limits on this node. Changes nothing.
#[must_use]
pub fn protections(config: &Config) -> Vec<String> {
    cgroup_plan(config, false).describe()
}
