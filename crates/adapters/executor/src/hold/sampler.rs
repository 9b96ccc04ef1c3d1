//! What the tree uses, every few seconds.

use std::io;

use types::RecordBody;

use crate::cgroup::JobCgroups;
use crate::process_tree;
use crate::stored::Usage;

/// Interval of resource samples: fine enough for a curve, and 17,280 samples a day fit one segment.
pub(super) const SAMPLE_INTERVAL_MS: u64 = 5_000;

/// Turns counters into samples and remembers the peak.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    last: Option<(u64, u64)>,
    /// Most memory seen in a sample.
    pub(super) peak_memory_bytes: u64,
    /// Processor time as of the last look.
    pub(super) cpu_ms: u64,
}

impl Sampler {
    /// Looks at the cgroups, and at `/proc` for what they do not count.
    pub(super) fn sample(&mut self, cgroups: &JobCgroups, now_ms: u64) -> io::Result<Usage> {
        let members = cgroups.members();
        let (group_cpu, group_memory) = (cgroups.cpu_ms(), cgroups.memory());
        let mut usage = Usage::default();
        let walked = match (group_cpu, group_memory, &members) {
            (Some(_), Some(_), Some(_)) => Vec::new(),
            _ => process_tree::descendants(std::process::id())?,
        };
        let processes = members.map_or(walked.len(), |pids| pids.len());
        usage.processes = u32::try_from(processes).unwrap_or(u32::MAX);
        let resident = || walked.iter().map(|process| process.resident_bytes).sum();
        usage.memory_bytes = group_memory.unwrap_or_else(resident);
        let counted = || walked.iter().map(|process| process.cpu_ms).sum::<u64>() + reaped_cpu_ms();
        let cpu_ms = group_cpu.unwrap_or_else(counted).max(self.cpu_ms);
        if let Some((then, before)) = self.last
            && now_ms > then
        {
            usage.cpu_milli = (cpu_ms - before) * 1_000 / (now_ms - then);
        }
        self.last = Some((now_ms, cpu_ms));
        self.cpu_ms = cpu_ms;
        self.peak_memory_bytes = self.peak_memory_bytes.max(usage.memory_bytes);
        Ok(usage)
    }

    /// Takes the last counters when the tree is gone.
    pub(super) fn finish(&mut self, cgroups: &JobCgroups) {
        let cpu_ms = cgroups.cpu_ms().unwrap_or_else(reaped_cpu_ms);
        self.cpu_ms = self.cpu_ms.max(cpu_ms);
        let peak = cgroups.peak_memory().unwrap_or_default();
        self.peak_memory_bytes = self.peak_memory_bytes.max(peak);
    }
}

/// Processor time of the children that this process waited for, and of theirs.
fn reaped_cpu_ms() -> u64 {
    // Own time is in it too: a holder uses next to none.
    process_tree::read(std::process::id()).map_or(0, |own| own.cpu_ms)
}

/// The record of a sample.
pub(super) fn record(usage: Usage) -> RecordBody {
    RecordBody::Sample {
        cpu_milli: usage.cpu_milli,
        memory_bytes: usage.memory_bytes,
        processes: usage.processes,
    }
}
