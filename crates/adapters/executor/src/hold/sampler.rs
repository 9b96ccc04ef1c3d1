//! What the tree uses: a look each second, a record when one is due ([`AttemptSample`] says the rule).

mod interval;
mod look;

use std::io;

use diagnosis::Course;
use types::{AttemptSample, GpuUse, NetworkOf, RecordBody};

use self::interval::Interval;
use self::look::Look;
use crate::cgroup::JobCgroups;
use crate::clock::thread_cpu_us;
use crate::process_use::NetworkCounters;
use crate::stored::Usage;

/// Between two looks: what a person would call a peak lasts longer.
const LOOK_INTERVAL_MS: u64 = 1_000;
/// Between the first looks, which grow to the above: a job of one second is still seen at work.
const FIRST_LOOK_INTERVAL_MS: u64 = 100;
/// Looking takes at most one part in so many of one processor's time, however many processes there are.
const LOOK_COST_SHARE: u64 = 100;
/// What the node told of the GPUs counts for so long: it tells each second or two, and may restart.
const GPUS_FRESH_MS: u64 = 10_000;

/// Between two records, in an attempt of this age: fine where it is watched and where most crashes are, and so few later
/// that they can be kept for good.
const fn record_interval_ms(age_ms: u64) -> u64 {
    const MINUTE_MS: u64 = 60_000;
    match age_ms {
        ..600_000 => 5_000,
        600_000..7_200_000 => 15_000,
        7_200_000.. => MINUTE_MS,
    }
}

/// Turns looks into records and remembers the peak.
#[derive(Debug)]
pub(super) struct Sampler {
    started_ms: u64,
    next_look_ms: u64,
    next_record_ms: u64,
    interval: Interval,
    last: Option<(u64, Look)>,
    told: Option<(u64, GpuUse)>,
    /// All records so far, in little room.
    pub(super) course: Course,
    /// Most memory seen in a look.
    pub(super) peak_memory_bytes: u64,
    /// Most memory of GPUs that the node told of.
    pub(super) peak_vram_bytes: u64,
    /// Processor time as of the last look.
    pub(super) cpu_ms: u64,
}

impl Sampler {
    /// For a job that starts now.
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            started_ms: now_ms,
            next_look_ms: now_ms,
            next_record_ms: now_ms + record_interval_ms(0),
            interval: Interval::starting_at(now_ms),
            last: None,
            told: None,
            course: Course::default(),
            peak_memory_bytes: 0,
            peak_vram_bytes: 0,
            cpu_ms: 0,
        }
    }

    /// When [`Self::look`] is due.
    pub(super) fn next_look_ms(&self) -> u64 {
        self.next_look_ms
    }

    /// Looks at the tree.
    pub(super) fn look(&mut self, cgroups: &JobCgroups, now_ms: u64) -> io::Result<Usage> {
        let age_ms = now_ms.saturating_sub(self.started_ms);
        let pause_ms = age_ms.clamp(FIRST_LOOK_INTERVAL_MS, LOOK_INTERVAL_MS);
        self.next_look_ms = now_ms + pause_ms;
        let before_us = thread_cpu_us();
        let look = look::look(cgroups)?;
        let cost_us = thread_cpu_us().saturating_sub(before_us);
        self.next_look_ms = now_ms + pause_ms.max(cost_us * LOOK_COST_SHARE / 1_000);
        Ok(self.take(look, now_ms))
    }

    fn take(&mut self, look: Look, now_ms: u64) -> Usage {
        self.interval.add(&look);
        self.peak_memory_bytes = self.peak_memory_bytes.max(look.memory_bytes);
        let cpu_ms = self.cpu_ms.max(look.cpu_ms);
        let mut usage = Usage {
            cpu_milli: 0,
            memory_bytes: look.memory_bytes,
            processes: look.processes,
        };
        let (then_ms, before) = match &self.last {
            Some((then_ms, before)) => (*then_ms, Some(before)),
            None => (self.started_ms, None),
        };
        let time_ms = now_ms.saturating_sub(then_ms);
        if time_ms > 0 && before.is_some() {
            usage.cpu_milli = (cpu_ms - self.cpu_ms) * 1_000 / time_ms;
        }
        if let Some(network) = &look.network {
            self.take_network(network, before.and_then(|look| look.network.clone()));
        }
        self.take_gpus(now_ms, time_ms);
        self.cpu_ms = cpu_ms;
        self.last = Some((now_ms, look));
        usage
    }

    fn take_gpus(&mut self, now_ms: u64, time_ms: u64) {
        let fresh = |(at_ms, _): &(u64, GpuUse)| now_ms < at_ms + GPUS_FRESH_MS;
        if let Some((_, told)) = self.told.filter(fresh) {
            self.interval.add_gpus(told, time_ms);
        }
    }

    /// Counters of other namespaces than before say nothing about the time between.
    fn take_network(&mut self, now: &NetworkCounters, before: Option<NetworkCounters>) {
        let same = before.filter(|before| before.own_namespaces == now.own_namespaces);
        let bytes = same.map(|before| now.bytes.since(before.bytes));
        let of = match now.own_namespaces {
            Some(_) => NetworkOf::Attempt,
            None => NetworkOf::Host,
        };
        self.interval.add_network(of, bytes.unwrap_or_default());
    }

    /// It wrote so much since the last call.
    pub(super) fn see_console(&mut self, bytes: u64) {
        self.interval.add_console(bytes);
    }

    /// The node says what the tree uses of the GPUs.
    pub(super) fn tell_gpus(&mut self, told: GpuUse, now_ms: u64) {
        self.interval.see_vram(told.vram_bytes);
        self.peak_vram_bytes = self.peak_vram_bytes.max(told.vram_bytes);
        self.told = Some((now_ms, told));
    }

    /// The record that is due, if one is.
    pub(super) fn record(&mut self, now_ms: u64) -> Option<RecordBody> {
        if now_ms < self.next_record_ms {
            return None;
        }
        let age_ms = now_ms.saturating_sub(self.started_ms);
        let interval_ms = record_interval_ms(age_ms);
        // From the last one that was due, not from now: looks are late by some milliseconds each time.
        self.next_record_ms = (self.next_record_ms + interval_ms).max(now_ms + interval_ms / 2);
        Some(RecordBody::Sample(self.close(now_ms)))
    }

    fn close(&mut self, now_ms: u64) -> AttemptSample {
        let (sample, next) = self.interval.close(now_ms, self.peak_memory_bytes);
        self.course.push(&sample);
        self.interval = next;
        if let Some((_, last)) = &self.last {
            // What was held at the seam was held on both sides of it.
            self.interval.add(last);
        }
        sample
    }

    /// Takes the last counters when the tree is gone; gives the record of what was since the last one.
    pub(super) fn finish(&mut self, cgroups: &JobCgroups, now_ms: u64) -> RecordBody {
        let look = look::look_back(cgroups);
        self.cpu_ms = self.cpu_ms.max(look.cpu_ms);
        self.interval.add(&look);
        let before = self
            .last
            .as_ref()
            .and_then(|(_, look)| look.network.clone());
        if let Some(network) = &look.network
            && before
                .as_ref()
                .is_some_and(|before| before.own_namespaces == network.own_namespaces)
        {
            self.take_network(network, before);
        }
        let since = self
            .last
            .as_ref()
            .map_or(self.started_ms, |(at_ms, _)| *at_ms);
        self.take_gpus(now_ms, now_ms.saturating_sub(since));
        // However short: what was written in it is not lost.
        let last = self.close(now_ms);
        // The kernel's own peak counts page cache too; it is told with the end, beside the limit that counts the same.
        let peak = cgroups.peak_memory().unwrap_or_default();
        self.peak_memory_bytes = self.peak_memory_bytes.max(peak);
        RecordBody::Sample(last)
    }
}

#[cfg(test)]
mod tests;
