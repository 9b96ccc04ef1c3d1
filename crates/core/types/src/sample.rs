//! What an attempt used of its machine over an interval.

use serde::{Deserialize, Serialize};

use crate::DurationMs;

/// Use of resources by an attempt since the sample before, or since its start.
///
/// The attempt's holder looks at its processes each second, and writes one of these each 5 s for the first 10 minutes,
/// then each 15 s, after 2 hours each 60 s, and one at the end: these stay for good, and the first day of them takes 210 KB.
/// Rates and processor time are means over the interval; memory, processes and threads are the most of any look in it,
/// so that a short peak is not lost. What lies between two looks is not seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptSample {
    /// How long it covers.
    pub interval: DurationMs,
    /// Thousandths of cores in use: 2,500 is two and a half.
    pub cpu_milli: u64,
    /// Most bytes of memory in the interval, without page cache that the kernel would give up first.
    pub memory_bytes: u64,
    /// Most bytes of memory since the start.
    pub peak_memory_bytes: u64,
    /// Most processes in the tree.
    pub processes: u32,
    /// Most threads in the tree.
    pub threads: u32,
    /// None where the kernel counts none (`CONFIG_TASK_IO_ACCOUNTING`), or shows them to nobody else.
    pub disk: Option<DiskUse>,
    /// None where the node told none: no driver, no GPU, or no node process for 10 s.
    pub gpus: Option<GpuUse>,
    /// None where the kernel does not tell.
    pub network: Option<NetworkUse>,
    /// Bytes that it wrote to standard output and standard error.
    pub console_bytes: u64,
}

/// What reached block devices, or will once it is written back (`/proc/PID/io` of proc(5)): not what the page cache
/// answered, nor what lies in memory as on tmpfs, nor what network file systems carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// Bytes read per second.
    pub read_bytes_per_second: u64,
    /// Bytes written per second.
    pub written_bytes_per_second: u64,
}

/// Use of all GPUs together by the processes of the attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuUse {
    /// Most bytes of GPU memory in the interval.
    pub vram_bytes: u64,
    /// Sum over the GPUs of the percent of their time: 250 is two and a half GPUs.
    pub utilisation_percent: u32,
}

/// Bytes over network interfaces, without loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkUse {
    /// Bytes received per second.
    pub received_bytes_per_second: u64,
    /// Bytes sent per second.
    pub sent_bytes_per_second: u64,
    /// Whose they are.
    pub of: NetworkOf,
}

/// Whose bytes a [`NetworkUse`] counts. Linux counts by network namespace, not by process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkOf {
    /// The attempt's own: all its processes are in network namespaces other than the node's.
    Attempt,
    /// The whole host's, of which the attempt's are an unknown share.
    Host,
}
