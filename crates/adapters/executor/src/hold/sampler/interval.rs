//! What happened between two records: rates from counters, peaks from looks.

use types::{AttemptSample, DiskUse, DurationMs, GpuUse, NetworkOf, NetworkUse};

use super::look::Look;
use crate::process_use::Transferred;

/// Sums and peaks since the last record.
#[derive(Clone, Debug, Default)]
pub(super) struct Interval {
    started_ms: u64,
    /// Counters as of the last record.
    cpu_started_ms: u64,
    disk_started: Transferred,
    memory_bytes: u64,
    processes: u32,
    threads: u32,
    network: Option<(NetworkOf, Transferred)>,
    vram_bytes: Option<u64>,
    /// Percent times milliseconds, and the milliseconds.
    gpu_busy: (u64, u64),
    console_bytes: u64,
    /// As of the last look.
    cpu_ms: u64,
    disk: Option<Transferred>,
}

impl Interval {
    pub(super) fn starting_at(now_ms: u64) -> Self {
        Self {
            started_ms: now_ms,
            ..Self::default()
        }
    }

    /// Counters never fall here: a process that nobody waited for takes its own with it, and what others add is counted
    /// again once it is more than what was lost.
    pub(super) fn add(&mut self, look: &Look) {
        self.cpu_ms = self.cpu_ms.max(look.cpu_ms);
        if let Some(disk) = look.disk {
            self.disk = Some(self.disk.unwrap_or_default().at_least(disk));
        }
        self.memory_bytes = self.memory_bytes.max(look.memory_bytes);
        self.processes = self.processes.max(look.processes);
        self.threads = self.threads.max(look.threads);
    }

    /// Bytes since the look before. Where the namespaces changed their owner, those of the owner before are left out: a
    /// record tells of one only.
    pub(super) fn add_network(&mut self, of: NetworkOf, bytes: Transferred) {
        let before = self.network.filter(|(owner, _)| *owner == of);
        let before = before.map_or(Transferred::default(), |(_, bytes)| bytes);
        self.network = Some((of, before.plus(bytes)));
    }

    pub(super) fn add_console(&mut self, bytes: u64) {
        self.console_bytes = self.console_bytes.saturating_add(bytes);
    }

    pub(super) fn see_vram(&mut self, bytes: u64) {
        self.vram_bytes = Some(self.vram_bytes.unwrap_or_default().max(bytes));
    }

    /// The GPUs were so busy for so long.
    pub(super) fn add_gpus(&mut self, told: GpuUse, time_ms: u64) {
        self.see_vram(told.vram_bytes);
        self.gpu_busy.0 += u64::from(told.utilisation_percent) * time_ms;
        self.gpu_busy.1 += time_ms;
    }

    /// The record of this interval, and the interval that follows.
    pub(super) fn close(&self, now_ms: u64, peak_memory_bytes: u64) -> (AttemptSample, Self) {
        let length_ms = now_ms.saturating_sub(self.started_ms).max(1);
        let per_second = |amount: u64| amount.saturating_mul(1_000) / length_ms;
        let disk = self.disk.map(|disk| disk.since(self.disk_started));
        let sample = AttemptSample {
            interval: DurationMs(length_ms),
            cpu_milli: per_second(self.cpu_ms.saturating_sub(self.cpu_started_ms)),
            memory_bytes: self.memory_bytes,
            peak_memory_bytes,
            processes: self.processes,
            threads: self.threads,
            disk: disk.map(|bytes| DiskUse {
                read_bytes_per_second: per_second(bytes.inward),
                written_bytes_per_second: per_second(bytes.outward),
            }),
            gpus: self.vram_bytes.map(|vram_bytes| GpuUse {
                vram_bytes,
                utilisation_percent: self.mean_utilisation(),
            }),
            network: self.network.map(|(of, bytes)| NetworkUse {
                received_bytes_per_second: per_second(bytes.inward),
                sent_bytes_per_second: per_second(bytes.outward),
                of,
            }),
            console_bytes: self.console_bytes,
        };
        let next = Self {
            cpu_started_ms: self.cpu_ms,
            cpu_ms: self.cpu_ms,
            disk_started: self.disk.unwrap_or_default(),
            disk: self.disk,
            ..Self::starting_at(now_ms)
        };
        (sample, next)
    }

    fn mean_utilisation(&self) -> u32 {
        let (busy, time_ms) = self.gpu_busy;
        let mean = busy.checked_div(time_ms).unwrap_or_default();
        u32::try_from(mean).unwrap_or(u32::MAX)
    }
}
