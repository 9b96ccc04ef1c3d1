//! Settings of the sampling.

use std::path::PathBuf;
use std::time::Duration;

use types::NodeId;

/// What to sample, and what to take as given.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node that reports.
    pub node: NodeId,
    /// Its data directory: the disk below it is reported.
    pub data_directory: PathBuf,
    /// Time between two samples, of the host and of the GPUs.
    pub interval: Duration,
    /// Time after which a driver that failed, or that lost a GPU, is opened anew.
    pub gpu_retry: Duration,
    /// What replaces measured figures.
    pub declared: Declared,
    /// NVML's process ids are those of this process's `/proc`, as on a machine itself. In a container they are not, and
    /// whose GPU processes are is not known.
    pub sees_all_processes: bool,
    /// File of the NVML library, none for the driver's own `libnvidia-ml.so.1`.
    pub nvml_path: Option<PathBuf>,
    /// Bytes free on the disk below which the node refuses work.
    pub disk_reserve_bytes: u64,
    /// What a person should know of the node all the time; in each report.
    pub warnings: Vec<String>,
}

impl Config {
    /// Default of [`Config::interval`]: a placement sees figures at most this old, and a sample costs well under
    /// a thousandth of it.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
    /// Default of [`Config::gpu_retry`]: a driver that was just installed or came back is found without a restart,
    /// and a machine without one pays four failed `dlopen`s a minute.
    pub const DEFAULT_GPU_RETRY: Duration = Duration::from_secs(30);
    /// Default of [`Config::disk_reserve_bytes`]: 2 GiB, room for the log, records and a clean stop.
    pub const DEFAULT_DISK_RESERVE_BYTES: u64 = 2 << 30;

    /// The defaults, nothing declared.
    #[must_use]
    pub fn new(node: NodeId, data_directory: PathBuf) -> Self {
        Self {
            node,
            data_directory,
            interval: Self::DEFAULT_INTERVAL,
            gpu_retry: Self::DEFAULT_GPU_RETRY,
            declared: Declared::default(),
            sees_all_processes: sees_all_processes(),
            nvml_path: None,
            warnings: Vec::new(),
            disk_reserve_bytes: Self::DEFAULT_DISK_RESERVE_BYTES,
        }
    }
}

/// Whether this is the first process namespace (`PROC_PID_INIT_INO` of the kernel), in which NVML counts.
fn sees_all_processes() -> bool {
    let own = std::fs::read_link("/proc/self/ns/pid");
    own.is_ok_and(|own| own.as_os_str() == "pid:[4026531836]")
}

/// Figures from the node's configuration; each that is there wins over the measured one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Thousandths of cores that attempts may use.
    pub cpu_milli: Option<u64>,
    /// Bytes of memory that attempts may use.
    pub memory_bytes: Option<u64>,
    /// The GPUs, in order; empty offers none.
    pub gpus: Option<Vec<DeclaredGpu>>,
    /// Bytes of memory of every GPU.
    pub vram_bytes: Option<u64>,
}

/// One declared GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredGpu {
    /// Model name.
    pub model: String,
    /// Bytes of memory.
    pub vram_bytes: u64,
}
