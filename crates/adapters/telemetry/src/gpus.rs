//! The last known GPUs, kept by a thread of their own, so that a driver that hangs blocks nobody.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use types::GpuReport;

use crate::Error;
use crate::nvml::{Driver, describe};

/// After a failure the driver is tried again this much later: one that was just installed or came back is found
/// without a restart, and a machine without one pays two failed `dlopen`s a minute.
const RETRY: Duration = Duration::from_secs(30);
/// Ages at which silent GPUs get another warning; few, so that the text seldom changes.
const AGES_S: [u64; 4] = [15, 60, 600, 3_600];

/// What is known about the GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GpuSample {
    /// In NVML's order.
    pub(crate) gpus: Vec<GpuReport>,
    /// What a person should know.
    pub(crate) warnings: Vec<String>,
}

/// The thread that reads the driver; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Gpus {
    latest: Arc<Mutex<Latest>>,
    /// Dropped, it tells the thread to end.
    _stop: SyncSender<()>,
}

#[derive(Debug)]
struct Latest {
    sample: GpuSample,
    /// When it was taken; none if the driver failed: it then tells nothing, so nothing is old.
    taken_at: Option<Instant>,
}

impl Gpus {
    /// Starts the thread and waits for its first answer, at most `patience`.
    pub(crate) fn start(
        library: Option<PathBuf>,
        interval: Duration,
        patience: Duration,
    ) -> Result<Self, Error> {
        let looking = GpuSample {
            gpus: Vec::new(),
            warnings: vec![
                "the NVIDIA driver is still starting: no GPUs are offered yet".to_owned(),
            ],
        };
        let latest = Arc::new(Mutex::new(Latest {
            sample: looking,
            taken_at: Some(Instant::now()),
        }));
        let (stop, stopped) = sync_channel(1);
        let (first, answered) = sync_channel(1);
        let thread = Thread {
            latest: Arc::clone(&latest),
            library,
            interval,
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
            latest,
            _stop: stop,
        })
    }

    /// What is known now; never waits for the driver.
    pub(crate) fn latest(&self) -> GpuSample {
        let latest = lock(&self.latest);
        let mut sample = latest.sample.clone();
        let age = latest.taken_at.map(|taken_at| taken_at.elapsed());
        sample.warnings.extend(age.and_then(silence));
        sample
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
    latest: Arc<Mutex<Latest>>,
    library: Option<PathBuf>,
    interval: Duration,
    stopped: Receiver<()>,
    first: Option<SyncSender<()>>,
}

impl Thread {
    fn run(mut self) {
        loop {
            if let Err(error) = self.read_until_failure() {
                let lost = lock(&self.latest).sample.gpus.clone();
                let sample = GpuSample {
                    gpus: lost.into_iter().map(lose).collect(),
                    warnings: vec![describe(&error)],
                };
                self.publish(sample, None);
            } else {
                return;
            }
            if self.wait(RETRY) {
                return;
            }
        }
    }

    /// Reads again and again; `Ok` when told to stop.
    fn read_until_failure(&mut self) -> Result<(), nvml_wrapper::error::NvmlError> {
        let mut driver = Driver::open(self.library.as_deref())?;
        loop {
            let sample = driver.sample()?;
            self.publish(sample, Some(Instant::now()));
            if self.wait(self.interval) {
                return Ok(());
            }
        }
    }

    fn publish(&mut self, sample: GpuSample, taken_at: Option<Instant>) {
        *lock(&self.latest) = Latest { sample, taken_at };
        // Dropped, it tells the starter that there is an answer.
        self.first = None;
    }

    /// Waits; true when told to stop.
    fn wait(&self, time: Duration) -> bool {
        self.stopped.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }
}

/// A GPU whose driver fails: still counted, so that the numbers of the others stay, but nothing fits on it.
pub(crate) fn lose(gpu: GpuReport) -> GpuReport {
    GpuReport {
        vram_total_bytes: 0,
        vram_used_bytes: 0,
        vram_foreign_bytes: 0,
        utilisation_percent: 0,
        ..gpu
    }
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
        let library = Some(PathBuf::from("/none/libnvidia-ml.so.1"));
        let patience = Duration::from_secs(10);
        let gpus = Gpus::start(library, Duration::from_secs(1), patience).unwrap();
        let sample = gpus.latest();
        assert_eq!(sample.gpus, Vec::new());
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

    #[test]
    fn lost_gpu_keeps_its_place_and_offers_nothing() {
        let gpu = GpuReport {
            uuid: "GPU-1".to_owned(),
            model: "H100".to_owned(),
            vram_total_bytes: 80 << 30,
            vram_used_bytes: 1 << 30,
            vram_foreign_bytes: 0,
            utilisation_percent: 50,
            links: 0,
            numa_node: None,
        };
        let lost = lose(gpu);
        assert_eq!((lost.uuid.as_str(), lost.vram_total_bytes), ("GPU-1", 0));
    }
}
