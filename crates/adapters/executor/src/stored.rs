//! What an attempt's directory stores besides records: the order, the status, the end.

use serde::{Deserialize, Serialize};
use types::{AttemptToken, Cause, DurationMs, GpuShare, Outputs, Overuse, StopRule, Timestamp};

use crate::cgroup::CgroupPlan;
use crate::job_user::Confinement;

/// Largest order, status or end that is read: a command line and environment of this size no kernel takes.
pub(crate) const MAX_STORED_BYTES: usize = 8 << 20;

/// What the holder is to run; written by the node before the holder starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// First layout.
    V1(OrderV1),
    /// And what the job is kept from.
    V2(OrderV1, Confinement),
    /// And the GPUs that it was given, for the next node process.
    V3(OrderV1, Confinement, GpuTerms),
}

/// What an attempt was given of the GPUs, and what is to be done if it takes more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuTerms {
    /// In the order of its shares.
    pub gpus: Vec<BookedGpu>,
    /// The experiment's own wish.
    pub overuse: Overuse,
    /// Between SIGTERM and SIGKILL, if it is ended for what it does with them.
    pub stop_grace: DurationMs,
}

impl GpuTerms {
    /// Thousandths of GPUs, and bytes of memory on them.
    pub(crate) fn amounts(&self) -> (u64, u64) {
        let shares = self.gpus.iter().map(|gpu| &gpu.share);
        shares.fold((0_u64, 0_u64), |(milli, bytes), share| {
            let milli = milli.saturating_add(share.milli);
            (milli, bytes.saturating_add(share.vram_bytes))
        })
    }
}

/// A share of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookedGpu {
    /// How much of which.
    pub share: GpuShare,
    /// As the driver calls it; none where it is only declared.
    pub uuid: Option<String>,
}

/// An order with all that later layouts added; what was given of the GPUs only if it tells.
pub(crate) type WholeOrder = (OrderV1, Confinement, Option<GpuTerms>);

/// First layout of [`Order`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrderV1 {
    /// Fencing token.
    pub(crate) token: AttemptToken,
    /// Number of this node's rank.
    pub(crate) rank: u32,
    /// Boot on which it was ordered.
    pub(crate) boot_id: u64,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Where it starts, relative to `work/`; empty: there.
    pub(crate) working_directory: String,
    /// Its whole environment.
    pub(crate) variables: Vec<(String, String)>,
    /// Lease, as of the order.
    pub(crate) deadline_boottime_ms: u64,
    /// The tree is killed this long before the lease ends.
    pub(crate) stop_margin_ms: u64,
    /// Longest run time; 0: none.
    pub(crate) time_limit_ms: u64,
    /// Between SIGTERM and SIGKILL at the time limit, and when its own rule ends it.
    pub(crate) stop_grace_ms: u64,
    /// It ends when a metric says so.
    pub(crate) stop_rule: Option<StopRule>,
    /// What is kept of its directory at the end.
    pub(crate) outputs: Outputs,
    /// Memory limit; 0: none.
    pub(crate) memory_bytes: u64,
    /// Thousandths of cores, for the weight among attempts; 0: the kernel's default.
    pub(crate) cpu_milli: u64,
    /// Where cgroups can be made, and their name.
    pub(crate) cgroups: CgroupPlan,
    /// A segment is sealed at this size.
    pub(crate) segment_max_bytes: u64,
    /// A segment is sealed at this age.
    pub(crate) segment_max_age_ms: u64,
}

/// Who runs; written by the holder after the start, for people and for the node that finds it dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Status {
    /// First layout.
    V1 {
        /// Process id of the holder.
        holder_pid: u32,
        /// Process id of the command.
        pid: u32,
        /// Wall clock of the start.
        started_at: Timestamp,
    },
}

/// The durable end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exit {
    /// First layout.
    V1(Ended),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Why, with evidence.
    pub cause: Cause,
    /// Wall clock of the start; equal to the end if it never started.
    pub started_at: Timestamp,
    /// Wall clock of the end.
    pub ended_at: Timestamp,
    /// Most memory that the tree held, as far as it was seen.
    pub peak_memory_bytes: u64,
    /// Most memory that it held of all GPUs together, as far as the node told; 0: none, or nobody could tell.
    pub peak_vram_bytes: u64,
    /// Processor time of the tree in milliseconds.
    pub cpu_ms: u64,
    /// How the process tree was, or would have been, killed.
    pub tree_kill_method: String,
    /// Records that the attempt left, all on this node's disk.
    pub records: u64,
}

/// What an attempt uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Thousandths of cores in use since the sample before.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Processes in the tree.
    pub processes: u32,
}

/// Reads bytes as each of the files.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    use types::codec;

    fn read<T: Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) {
        if let Ok(stored) = codec::decode::<T>(bytes, MAX_STORED_BYTES) {
            let again = codec::encode(&stored);
            assert_eq!(again[codec::HEADER_BYTES..], bytes[codec::HEADER_BYTES..]);
        }
    }
    read::<Order>(bytes);
    read::<Status>(bytes);
    read::<Exit>(bytes);
}
