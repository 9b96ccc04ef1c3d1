//! The loop: sample, decide, publish.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use types::{NodeReport, Timestamp};

use crate::gpus::{GpuSample, Gpus};
use crate::host::{Host, HostSample};
use crate::publish::{due_after, is_news};
use crate::report::Reporter;
use crate::{Config, Error, GpuDetail, GpuLook, MachineSample, OwnTree};

/// The start waits this long for the driver's first answer; one that is not resident needs seconds, and then the
/// second report has the GPUs.
const DRIVER_PATIENCE: Duration = Duration::from_millis(50);

/// Gives the reports; clones share it.
#[derive(Clone, Debug)]
pub struct Handle {
    latest: watch::Receiver<Arc<NodeReport>>,
    urgent: Arc<Notify>,
    machine: Arc<Mutex<Arc<MachineSample>>>,
    gpus: Arc<Gpus>,
}

impl Handle {
    /// The latest report and every later one: at least one each 5 s, at once when something changed. The first is
    /// there already.
    #[must_use]
    pub fn latest(&self) -> watch::Receiver<Arc<NodeReport>> {
        self.latest.clone()
    }

    /// What the machine did at the last look, at most one interval ago unless a disk or a sensor hangs.
    #[must_use]
    pub fn machine(&self) -> Arc<MachineSample> {
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner); // Replaced whole.
        Arc::clone(&machine)
    }

    /// Whose processes are the node's own, from the next sample of the GPUs on; each call replaces all trees.
    pub fn set_trees(&self, trees: Vec<OwnTree>) {
        self.gpus.set_trees(trees);
    }

    /// The last answer of the GPUs' driver in short: what each of the trees uses, and which GPUs have failed.
    #[must_use]
    pub fn gpu_look(&self) -> GpuLook {
        self.gpus.look()
    }

    /// The last answer of the GPUs' driver in full, which may be younger than what [`Self::machine`] has of it.
    #[must_use]
    pub fn gpu_details(&self) -> Vec<GpuDetail> {
        self.gpus.latest().details
    }

    /// Takes a sample now and tells it, changed or not.
    pub fn speak_up(&self) {
        self.urgent.notify_one();
    }
}

/// Takes the first sample and returns the loop that takes the others; dropped, the loop ends. The loop needs a
/// tokio runtime.
///
/// # Errors
/// The kernel's figures or the disk of the data directory cannot be read, or there is no thread for the GPUs.
pub fn start(
    config: Config,
) -> Result<(Handle, impl Future<Output = Result<(), Error>> + Send), Error> {
    let interval = config.interval;
    let gpus = Arc::new(Gpus::start(&config, DRIVER_PATIENCE)?);
    let mut host = Host::new(config.data_directory.clone())?;
    let last_sample = host.sample()?;
    let warnings = config.warnings.clone();
    let mut reporter = Reporter::new(config, now());
    let seen = gpus.latest();
    let first = reporter.report(last_sample, &seen, warnings.clone(), now());
    for warning in &first.warnings {
        tracing::warn!(warning, "node has a limitation");
    }
    let (publish, latest) = watch::channel(Arc::new(first));
    let machine = Arc::default();
    let mut sampler = Sampler {
        machine: Arc::clone(&machine),
        host,
        last_sample,
        gpus: Arc::clone(&gpus),
        reporter,
        warnings,
    };
    sampler.look(&seen);
    let urgent = Arc::new(Notify::new());
    let handle = Handle {
        latest,
        urgent: Arc::clone(&urgent),
        machine,
        gpus,
    };
    Ok((handle, run(sampler, publish, interval, urgent)))
}

async fn run(
    mut sampler: Sampler,
    publish: watch::Sender<Arc<NodeReport>>,
    interval: Duration,
    urgent: Arc<Notify>,
) -> Result<(), Error> {
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told_at = Instant::now();
    loop {
        let is_urgent = tokio::select! {
            _ = ticks.tick() => false,
            () = urgent.notified() => true,
        };
        // On a thread that may block: a hanging disk then stops the reports, not the node.
        let sampled = spawn_blocking(move || {
            let report = sampler.sample();
            (sampler, report)
        });
        let report;
        (sampler, report) = sampled.await.map_err(Error::Task)?;
        publish.send_if_modified(|told| {
            let due = due_after(&told.node, told.sequence).saturating_sub(interval / 2);
            let worth_it = is_urgent || told_at.elapsed() >= due || is_news(told, &report);
            if worth_it {
                *told = Arc::new(report);
                told_at = Instant::now();
            }
            worth_it
        });
    }
}

struct Sampler {
    machine: Arc<Mutex<Arc<MachineSample>>>,
    host: Host,
    last_sample: HostSample,
    gpus: Arc<Gpus>,
    reporter: Reporter,
    /// Always true of this node.
    warnings: Vec<String>,
}

impl Sampler {
    /// Keeps all there is to see for whoever asks.
    fn look(&mut self, gpus: &GpuSample) {
        let age_ms = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let seen = Arc::new(MachineSample {
            taken_at: now().0,
            host: self.host.detail(&self.last_sample),
            gpus: gpus.details.clone(),
            gpus_age_ms: gpus.age.map(age_ms),
            gpu_warnings: gpus.warnings.clone(),
        });
        *self.machine.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    fn sample(&mut self) -> NodeReport {
        let mut warnings = self.warnings.clone();
        match self.host.sample() {
            Ok(sample) => self.last_sample = sample,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let cause = cause.unwrap_or_default();
                warnings.push(format!("{error} ({cause}): its figures are old"));
            }
        }
        let gpus = self.gpus.latest();
        self.look(&gpus);
        self.reporter
            .report(self.last_sample, &gpus, warnings, now())
    }
}

pub(crate) fn now() -> Timestamp {
    // Before 1970 the clock is plainly wrong; 0 says so better than no reports.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
