//! What an attempt used, over time and in all.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::view::FindingView;

/// The samples of an attempt, reduced to few points.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SamplesView {
    /// Id of the experiment.
    pub experiment: String,
    /// Number of the attempt from 1.
    pub attempt: u32,
    /// Which of its ranks, from 0.
    pub rank: u32,
    /// When its process started; none before.
    pub started_at: Option<u64>,
    /// When it ended; none: more may come. The first sample comes 5 s after the start, or at the end.
    pub ended_at: Option<u64>,
    /// Oldest first; empty before the first sample.
    pub points: Vec<UsagePoint>,
    /// Of all samples, not of the points; none before the first.
    pub summary: Option<UsageSummary>,
    /// What a person should know: it takes more GPU memory than it was given, or a neighbour does.
    pub warnings: Vec<String>,
    /// What all samples together say: a leak, a GPU that waits or idles, a standstill.
    pub findings: Vec<FindingView>,
}

/// Some samples in a row: rates, processors and GPU time are means over them, the rest is the most of any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsagePoint {
    /// When the last of them was taken.
    pub at: u64,
    /// How long they cover together, milliseconds.
    pub span_ms: u64,
    /// Thousandths of cores in use.
    pub cpu_milli: u64,
    /// Bytes of memory, without page cache that the kernel would give up first.
    pub memory_bytes: u64,
    /// Most bytes of memory since the start.
    pub peak_memory_bytes: u64,
    /// Processes.
    pub processes: u32,
    /// Threads.
    pub threads: u32,
    /// Bytes read from disks per second; none where the kernel does not tell.
    pub disk_read_bytes_per_second: Option<u64>,
    /// Bytes written to disks per second.
    pub disk_written_bytes_per_second: Option<u64>,
    /// Bytes of GPU memory on all GPUs; none where no driver told.
    pub vram_bytes: Option<u64>,
    /// Sum over the GPUs of the percent of their time: 250 is two and a half.
    pub gpu_utilisation_percent: Option<u32>,
    /// Bytes received per second over interfaces other than loopback; none where the kernel does not tell.
    pub network_received_bytes_per_second: Option<u64>,
    /// Bytes sent per second.
    pub network_sent_bytes_per_second: Option<u64>,
    /// The network figures are those of the whole machine, not of the attempt alone.
    pub network_is_hosts: bool,
}

/// What the attempt used in all, beside what it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageSummary {
    /// How many samples there are.
    pub samples: u64,
    /// How long they cover together, milliseconds.
    pub span_ms: u64,
    /// What was asked for.
    pub requested: RequestedView,
    /// Most bytes of memory seen, without page cache that the kernel would give up first.
    pub peak_memory_bytes: u64,
    /// Most bytes of GPU memory; none where no driver told.
    pub peak_vram_bytes: Option<u64>,
    /// Thousandths of cores, over all the time.
    pub cpu_milli_mean: u64,
    /// The most of any sample.
    pub cpu_milli_max: u64,
    /// Percent of one GPU, over the time for which it is known.
    pub gpu_utilisation_percent_mean: Option<u32>,
    /// The most of any sample.
    pub gpu_utilisation_percent_max: Option<u32>,
    /// Most processes.
    pub processes_max: u32,
    /// Most threads.
    pub threads_max: u32,
    /// Bytes read from disks.
    pub disk_read_bytes: Option<u64>,
    /// Bytes written to disks.
    pub disk_written_bytes: Option<u64>,
    /// Bytes received.
    pub network_received_bytes: Option<u64>,
    /// Bytes sent.
    pub network_sent_bytes: Option<u64>,
    /// The network figures are, at least in part, those of the whole machine.
    pub network_is_hosts: bool,
}

/// What the attempt was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestedView {
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Thousandths of GPUs.
    pub gpu_milli: u64,
    /// Bytes of memory on them.
    pub vram_bytes: u64,
}
