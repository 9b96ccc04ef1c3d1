//! What a machine is doing, in full. Gossip carries less ([`types::NodeReport`]): this goes to whoever asks the node.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One look at a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineSample {
    /// Wall clock of the node, milliseconds since 1970.
    pub taken_at: u64,
    /// Everything but the GPUs.
    pub host: HostDetail,
    /// In NVML's order when they were first seen; each keeps its place, also when it is lost, since attempts hold GPUs
    /// by number. Of a GPU that is split by MIG its instances stand in its place.
    pub gpus: Vec<GpuDetail>,
    /// Age of the GPUs' figures in milliseconds; none where no driver answers.
    pub gpus_age_ms: Option<u64>,
    /// What a person should know of the GPUs.
    pub gpu_warnings: Vec<String>,
}

/// Processors, memory, disks and network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostDetail {
    /// Busy thousandths of each processor, since the sample before.
    pub cpus_busy_milli: Vec<u32>,
    /// Runnable and blocked tasks over 1, 5 and 15 minutes, in thousandths.
    pub load_milli: [u64; 3],
    /// Bytes of memory of the machine, or of the control group that the node lives in.
    pub memory_bytes: u64,
    /// Bytes of it in use.
    pub memory_used_bytes: u64,
    /// Bytes of swap.
    pub swap_bytes: u64,
    /// Bytes of it in use.
    pub swap_used_bytes: u64,
    /// Pressure stall information of the kernel; none where it keeps none.
    pub pressure: Option<Pressure>,
    /// Block devices with what they did since the sample before.
    pub disks: Vec<DiskDetail>,
    /// Network interfaces, without loopback, with what they carried since the sample before.
    pub interfaces: Vec<InterfaceDetail>,
    /// Sensors of the kernel.
    pub temperatures: Vec<Temperature>,
}

/// Part of the last 10 s in which tasks waited for something, in hundredths of a percent (10,000 is all the time).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pressure {
    /// At least one task waited for a processor.
    pub cpu_some: u32,
    /// At least one task waited for memory.
    pub memory_some: u32,
    /// All tasks waited for memory.
    pub memory_full: u32,
    /// At least one task waited for a disk.
    pub io_some: u32,
    /// All tasks waited for a disk.
    pub io_full: u32,
}

/// One block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskDetail {
    /// Kernel's name: `nvme0n1`.
    pub name: String,
    /// Bytes read per second.
    pub read_bytes_per_second: u64,
    /// Bytes written per second.
    pub written_bytes_per_second: u64,
    /// Thousandths of the time in which it was busy.
    pub busy_milli: u32,
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceDetail {
    /// Kernel's name: `eth0`.
    pub name: String,
    /// Bytes received per second.
    pub received_bytes_per_second: u64,
    /// Bytes sent per second.
    pub sent_bytes_per_second: u64,
}

/// One sensor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Temperature {
    /// What the kernel calls it.
    pub sensor: String,
    /// Thousandths of a degree Celsius.
    pub milli_celsius: i32,
}

/// One GPU, or one MIG instance. What the driver does not tell is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GpuDetail {
    /// NVML's uuid, as `CUDA_VISIBLE_DEVICES` takes it: `GPU-…` or `MIG-…`.
    pub uuid: String,
    /// Model name; of an instance with its profile: `NVIDIA A100-SXM4-40GB MIG 3g.20gb`.
    pub model: String,
    /// Uuid of the GPU that an instance is part of.
    pub part_of: Option<String>,
    /// PCI address: `00000000:3B:00.0`.
    pub pci_address: Option<String>,
    /// Bytes of memory.
    pub vram_total_bytes: u64,
    /// Bytes in use by anybody, the driver included.
    pub vram_used_bytes: u64,
    /// Bytes in use by processes that belong to no attempt of this node.
    pub vram_foreign_bytes: u64,
    /// Percent of the last period in which a kernel ran.
    pub utilisation_percent: Option<u8>,
    /// Percent of the last period in which its memory was read or written.
    pub memory_utilisation_percent: Option<u8>,
    /// Power that it takes, milliwatts.
    pub power_milliwatts: Option<u32>,
    /// Power that it may take, milliwatts.
    pub power_limit_milliwatts: Option<u32>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<u32>,
    /// Clock of its multiprocessors, MHz.
    pub sm_clock_mhz: Option<u32>,
    /// Highest such clock, MHz.
    pub sm_clock_max_mhz: Option<u32>,
    /// Clock of its memory, MHz.
    pub memory_clock_mhz: Option<u32>,
    /// Why it does not run at its full clock, in NVML's words: `sw-power-cap`, `hw-thermal-slowdown` …; not `gpu-idle`.
    pub throttle_reasons: Vec<String>,
    /// Corrected memory errors since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// Uncorrected ones.
    pub ecc_uncorrected: Option<u64>,
    /// Pages or rows of its memory that are not used any more since they failed.
    pub retired_pages: Option<u32>,
    /// Numbers of the last XID events that this process saw, oldest first, at most 16.
    pub xids: Vec<u64>,
    /// When each of them was seen, milliseconds since 1970.
    pub xids_at: Vec<u64>,
    /// Places in the list of the GPUs that NVLink joins it to.
    pub linked_to: Vec<u32>,
    /// NUMA node of its PCI slot.
    pub numa_node: Option<u32>,
    /// Who computes on it.
    pub processes: Vec<GpuProcess>,
    /// Why it is not offered to attempts.
    pub problem: Option<String>,
}

/// A process on a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GpuProcess {
    /// Process id.
    pub pid: u32,
    /// Program name, as the kernel has it; none if it is gone, or of another container.
    pub name: Option<String>,
    /// Login name of whom it runs as, or the number; none as above.
    pub user: Option<String>,
    /// Bytes of GPU memory; none where the driver does not tell.
    pub vram_bytes: Option<u64>,
    /// Percent of the multiprocessors' time; none where the driver does not tell.
    pub utilisation_percent: Option<u8>,
    /// The attempt that it belongs to, as [`OwnTree::attempt`] said; none for what others run.
    pub attempt: Option<String>,
}

/// A tree of processes that muster started: what uses a GPU below its root is not foreign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTree {
    /// The attempt, as it is to be named.
    pub attempt: String,
    /// Process id of its holder.
    pub root_pid: u32,
}

/// What one attempt uses of the GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptGpus {
    /// The attempt, as [`OwnTree::attempt`] said.
    pub attempt: String,
    /// Bytes of GPU memory of its processes, on all GPUs.
    pub vram_bytes: u64,
    /// Sum over all GPUs of the percent of the multiprocessors' time: 250 is two and a half GPUs.
    pub utilisation_percent: u32,
    /// Bytes of each GPU that it uses, by its place in the list.
    pub vram_by_gpu: BTreeMap<u32, u64>,
}

/// What the node's own watch needs of one answer of the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuLook {
    /// Grows with each answer.
    pub number: u64,
    /// How old it is; none where no driver answers.
    pub age: Option<Duration>,
    /// All GPUs, each in its place.
    pub gpus: Vec<GpuHealth>,
    /// What each tree uses, in the order of the attempts' names.
    pub attempts: Vec<AttemptGpus>,
}

/// Whether a GPU can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuHealth {
    /// NVML's uuid.
    pub uuid: String,
    /// Model name.
    pub model: String,
    /// Why it cannot, in words.
    pub problem: Option<String>,
}
