//! The last known GPUs, kept by a thread of their own, so that a driver that hangs blocks nobody.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nvml_wrapper::error::NvmlError;
use types::GpuReport;

use crate::nvml::{self, Driver, Memory, describe, lost};
use crate::offered::offered;
use crate::{AttemptGpus, Config, Error, GpuDetail, GpuHealth, GpuLook, OwnTree};

/// Ages at which silent GPUs get another warning; few, so that the text seldom changes.
const AGES_S: [u64; 4] = [15, 60, 600, 3_600];
/// The thread rests at least so many times as long as a sample took: a slow driver costs at most a twentieth of a core.
const REST_FACTOR: u32 = 20;
/// But no longer than this: rest is not to look like silence, nor figures to grow old.
const MAX_REST: Duration = Duration::from_secs(2);
/// A driver that lost a card is opened anew ever more seldom, up to this many times [`Config::gpu_retry`]: most such
/// cards come back with a restart of the machine only, and opening takes a driver seconds.
const MAX_LOST_FACTOR: u32 = 20;
/// The kernel module has a directory here for each GPU that it drives.
const DRIVEN: &str = "/proc/driver/nvidia/gpus";

/// What is known about the GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GpuSample {
    /// All that is known; each keeps its place.
    pub(crate) details: Vec<GpuDetail>,
    /// The same as gossip has it.
    pub(crate) reports: Vec<GpuReport>,
    /// What each tree uses.
    pub(crate) attempts: Vec<AttemptGpus>,
    /// What a person should know.
    pub(crate) warnings: Vec<String>,
    /// How old this is; none where no driver answers.
    pub(crate) age: Option<Duration>,
}

/// The thread that reads the driver; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Gpus {
    shared: Arc<Shared>,
    /// Dropped, it tells the thread to end.
    _stop: SyncSender<()>,
}

#[derive(Debug)]
struct Shared {
    latest: Mutex<Latest>,
    trees: Mutex<Arc<[OwnTree]>>,
}

#[derive(Debug)]
struct Latest {
    sample: GpuSample,
    asked: Asked,
    /// How many answers there were.
    number: u64,
}

/// How the driver stands to what is known.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// It was asked then, and never answered.
    Since(Instant),
    /// It answered then.
    Answered(Instant),
    /// It failed: it tells nothing, so nothing is old.
    Failed,
}

impl Gpus {
    /// Starts the thread and waits for its first answer, at most `patience`.
    pub(crate) fn start(config: &Config, patience: Duration) -> Result<Self, Error> {
        let starting = "the NVIDIA driver is still starting: no GPUs are offered yet";
        let latest = Latest {
            sample: GpuSample {
                warnings: vec![starting.to_owned()],
                ..GpuSample::default()
            },
            asked: Asked::Since(Instant::now()),
            number: 0,
        };
        let shared = Arc::new(Shared {
            latest: Mutex::new(latest),
            trees: Mutex::new(Arc::from([])),
        });
        let (stop, stopped) = sync_channel(1);
        let (first, answered) = sync_channel(1);
        let thread = Thread {
            shared: Arc::clone(&shared),
            library: config.nvml_path.clone(),
            interval: config.interval,
            sees_all_processes: config.sees_all_processes,
            retry: config.gpu_retry,
            lost_factor: 1,
            stopped,
            first: Some(first),
        };
        std::thread::Builder::new()
            .name("gpus".to_owned())
            .spawn(move || thread.run())
            .map_err(Error::Thread)?;
        if answered.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::debug!("first report goes out before the driver answered");
        }
        Ok(Self {
            shared,
            _stop: stop,
        })
    }

    /// What is known now; never waits for the driver.
    pub(crate) fn latest(&self) -> GpuSample {
        let latest = lock(&self.shared.latest);
        let mut sample = latest.sample.clone();
        let (age, silent_for) = match latest.asked {
            Asked::Since(then) => (None, Some(then.elapsed())),
            Asked::Answered(then) => (Some(then.elapsed()), Some(then.elapsed())),
            Asked::Failed => (None, None),
        };
        sample.age = age;
        sample.warnings.extend(silent_for.and_then(silence));
        sample
    }

    /// The same in short, for the node's own watch; never waits for the driver.
    pub(crate) fn look(&self) -> GpuLook {
        let latest = lock(&self.shared.latest);
        let health = |detail: &GpuDetail| GpuHealth {
            uuid: detail.uuid.clone(),
            model: detail.model.clone(),
            problem: detail.problem.clone(),
        };
        GpuLook {
            number: latest.number,
            age: match latest.asked {
                Asked::Answered(then) => Some(then.elapsed()),
                Asked::Since(_) | Asked::Failed => None,
            },
            gpus: latest.sample.details.iter().map(health).collect(),
            attempts: latest.sample.attempts.clone(),
        }
    }

    /// Whose processes are no strangers, from the next sample on.
    pub(crate) fn set_trees(&self, trees: Vec<OwnTree>) {
        *lock(&self.shared.trees) = trees.into();
    }
}

/// The warning about figures of that age.
fn silence(age: Duration) -> Option<String> {
    let age = AGES_S.iter().rev().find(|limit| age.as_secs() >= **limit)?;
    Some(format!(
        "the NVIDIA driver has not answered for over {age} s: the GPU figures are old; `nvidia-smi` and `dmesg` may tell why"
    ))
}

struct Thread {
    shared: Arc<Shared>,
    library: Option<PathBuf>,
    interval: Duration,
    sees_all_processes: bool,
    retry: Duration,
    /// Times [`Self::retry`] until a driver that lost a card is opened anew.
    lost_factor: u32,
    stopped: Receiver<()>,
    first: Option<SyncSender<()>>,
}

/// Takes out what was concluded from process ids of another namespace. Without it the difference between what is used and
/// what is booked says what others use.
fn forget_whose(sample: &mut nvml::Sample) {
    sample.attempts.clear();
    let mut any = false;
    for detail in &mut sample.details {
        detail.vram_foreign_bytes = 0;
        for process in &mut detail.processes {
            any = true;
            process.name = None;
            process.user = None;
            process.attempt = None;
        }
    }
    if any {
        sample.warnings.push(
            "this node runs in a container without the machine's process ids: whose GPU processes are is not known (`--pid host` would tell)".to_owned(),
        );
    }
}

/// Why a driver is read no more.
enum End {
    Stopped,
    /// It may find more if it is opened anew.
    Stale,
    Failed(NvmlError),
}

impl Thread {
    fn run(mut self) {
        let mut memory = Memory::default();
        loop {
            match self.read_one_driver(&mut memory) {
                End::Stopped => return,
                End::Stale => {}
                End::Failed(error) => {
                    // Only with the module did the life of which the events were end.
                    if matches!(error, NvmlError::DriverNotLoaded) {
                        memory.forget_xids();
                    }
                    self.publish_failure(&describe(&error));
                    if self.wait(self.retry) {
                        return;
                    }
                }
            }
        }
    }

    /// Opens the driver and reads it again and again.
    fn read_one_driver(&mut self, memory: &mut Memory) -> End {
        let nvml = match nvml::open(self.library.as_deref()) {
            Ok(nvml) => nvml,
            Err(error) => return End::Failed(error),
        };
        let mut driver = Driver::new(&nvml, std::mem::take(memory));
        let end = self.read_until_end(&mut driver);
        *memory = driver.into_memory();
        end
    }

    fn read_until_end(&mut self, driver: &mut Driver<'_>) -> End {
        let opened_at = Instant::now();
        let driven = driven();
        loop {
            let begun = Instant::now();
            let trees = Arc::clone(&lock(&self.shared.trees));
            let mut sample = match driver.sample(&trees) {
                Ok(sample) => sample,
                Err(error) => return End::Failed(error),
            };
            if !self.sees_all_processes {
                forget_whose(&mut sample);
            }
            let has_lost = sample.has_lost;
            let sample = GpuSample {
                reports: offered(&sample.details),
                details: sample.details,
                attempts: sample.attempts,
                warnings: sample.warnings,
                age: None,
            };
            self.publish(sample, Asked::Answered(Instant::now()));
            let rest = begun.elapsed().saturating_mul(REST_FACTOR).min(MAX_REST);
            if self.wait(rest.max(self.interval)) {
                return End::Stopped;
            }
            // The library knows the GPUs that were there when it was opened.
            if driven != self::driven() {
                return End::Stale;
            }
            if !has_lost {
                self.lost_factor = 1;
            } else if opened_at.elapsed() >= self.retry.saturating_mul(self.lost_factor) {
                self.lost_factor = MAX_LOST_FACTOR.min(self.lost_factor * 2);
                return End::Stale;
            }
        }
    }

    /// The driver is gone: who was there is still counted.
    fn publish_failure(&mut self, problem: &str) {
        let known = lock(&self.shared.latest).sample.details.clone();
        let details: Vec<_> = known.iter().map(|gpu| lost(gpu, problem)).collect();
        let sample = GpuSample {
            reports: offered(&details),
            details,
            warnings: vec![problem.to_owned()],
            ..GpuSample::default()
        };
        self.publish(sample, Asked::Failed);
    }

    fn publish(&mut self, sample: GpuSample, asked: Asked) {
        let mut latest = lock(&self.shared.latest);
        *latest = Latest {
            sample,
            asked,
            number: latest.number + 1,
        };
        drop(latest);
        // Dropped, it tells the starter that there is an answer.
        self.first = None;
    }

    /// Waits; true when told to stop.
    fn wait(&self, time: Duration) -> bool {
        self.stopped.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }
}

/// How many GPUs the kernel module drives; none if it does not tell.
fn driven() -> Option<usize> {
    Some(std::fs::read_dir(DRIVEN).ok()?.count())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A sample is replaced whole: a panic elsewhere cannot leave half of one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_library_is_one_warning_and_no_gpus() {
        let config = Config {
            nvml_path: Some(PathBuf::from("/none/libnvidia-ml.so.1")),
            ..Config::new("12D3KooWnode".parse().unwrap(), PathBuf::from("/"))
        };
        let gpus = Gpus::start(&config, Duration::from_secs(10)).unwrap();
        let sample = gpus.latest();
        assert_eq!((sample.details.len(), sample.age), (0, None));
        assert_eq!(sample.warnings.len(), 1, "{:?}", sample.warnings);
        assert!(
            sample.warnings[0].contains("CPU node"),
            "{:?}",
            sample.warnings
        );
    }

    #[test]
    fn silent_driver_is_told_with_few_different_texts() {
        assert_eq!(silence(Duration::from_secs(14)), None);
        let texts: std::collections::BTreeSet<_> = (15..10_000)
            .filter_map(|age| silence(Duration::from_secs(age)))
            .collect();
        assert_eq!(texts.len(), AGES_S.len());
        assert!(silence(Duration::from_secs(59)).is_some_and(|text| text.contains("over 15 s")));
    }
}
