//! What people have used, hour by hour, and what runs have taught about their needs.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use types::{DurationMs, ExperimentId, QueueName, Resources, Timestamp};

use crate::records::{Attempt, Experiment};
use crate::state::ClusterState;

/// One hour of state time.
pub const HOUR: DurationMs = DurationMs::from_secs(3_600);
/// Hours that are remembered: 30 days, over four half-lives of a week.
pub const HOURS_KEPT: u64 = 720;
/// Runs that are remembered, one for each source and command; the oldest goes first.
const LESSONS_KEPT: usize = 4_096;

/// Who is served: a user in a queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Consumer {
    /// The queue.
    pub queue: QueueName,
    /// The user, without the node.
    pub user: String,
}

impl Consumer {
    /// Who is served by this experiment.
    #[must_use]
    pub fn of(experiment: &Experiment) -> Self {
        Self {
            queue: experiment.queue.clone(),
            user: experiment.author.user.clone(),
        }
    }
}

/// Resources times seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Thousandths of cores, times seconds.
    pub cpu_milli_s: u64,
    /// MiB, times seconds.
    pub memory_mib_s: u64,
    /// Thousandths of GPUs, times seconds.
    pub gpu_milli_s: u64,
}

impl Usage {
    /// What holding `resources` for a time amounts to.
    #[must_use]
    pub fn of(resources: &Resources, time: DurationMs) -> Self {
        let gpus = resources
            .gpus
            .iter()
            .fold(0, |sum: u64, gpu| sum.saturating_add(gpu.milli));
        let times = |amount: u64| {
            let product = u128::from(amount) * u128::from(time.0) / 1_000;
            u64::try_from(product).unwrap_or(u64::MAX)
        };
        Self {
            cpu_milli_s: times(resources.cpu_milli),
            memory_mib_s: times(resources.memory_bytes >> 20),
            gpu_milli_s: times(gpus),
        }
    }

    /// Both together; stays at the largest number.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_milli_s: self.cpu_milli_s.saturating_add(other.cpu_milli_s),
            memory_mib_s: self.memory_mib_s.saturating_add(other.memory_mib_s),
            gpu_milli_s: self.gpu_milli_s.saturating_add(other.gpu_milli_s),
        }
    }
}

/// Usage by hour of state time (milliseconds since 1970 divided by an hour's).
pub type Hours = OrdMap<u64, Usage>;

/// What the last successful runs of one source and command took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lesson {
    /// The newest of them.
    pub experiment: ExperimentId,
    /// How many there were.
    pub runs: u32,
    /// Most memory of any.
    pub peak_memory_bytes: u64,
    /// Most GPU memory of any that had one GPU, or a share of one; 0: none, or not known.
    pub peak_vram_bytes: u64,
    /// Most cores on average of any, in thousandths.
    pub cpu_milli: u64,
    /// Longest of them.
    pub duration_ms: DurationMs,
}

impl ClusterState {
    /// What a consumer has used, by hour.
    #[must_use]
    pub fn usage(&self, consumer: &Consumer) -> Hours {
        self.usage.get(consumer).cloned().unwrap_or_default()
    }

    /// Everybody that has used something lately.
    pub fn consumers(&self) -> impl Iterator<Item = (&Consumer, &Hours)> {
        self.usage.iter()
    }

    /// What earlier runs of this source and command took.
    #[must_use]
    pub fn lesson(&self, fingerprint: &[u8; 32]) -> Option<&Lesson> {
        self.lessons.get(fingerprint)
    }

    /// Adds what an attempt that is over has held to its user's hours.
    pub(crate) fn charge(&mut self, experiment: &Experiment, attempt: &Attempt, now: Timestamp) {
        let mut hours = self.usage(&Consumer::of(experiment));
        for rank in &attempt.ranks {
            let until = rank.end.as_ref().map_or(now, |end| end.at.min(now));
            for (hour, time) in by_hour(attempt.placed_at, until) {
                let more = Usage::of(&rank.placement.resources, time);
                let sum = hours.get(&hour).copied().unwrap_or_default().plus(more);
                hours.insert(hour, sum);
            }
        }
        self.usage.insert(Consumer::of(experiment), hours);
        self.forget_old_usage(now);
    }

    /// Remembers what a successful run took.
    pub(crate) fn learn(&mut self, experiment: &Experiment, attempt: &Attempt) {
        let Some(end) = attempt.end.as_ref().filter(|end| end.cause.is_success()) else {
            return;
        };
        let started = attempt
            .ranks
            .iter()
            .filter_map(|rank| rank.started_at)
            .min();
        let duration_ms = end.at.since(started.unwrap_or(attempt.placed_at));
        // What one node needs: of a gang the rank that took most.
        let of_ranks = attempt.ranks.iter().filter_map(|rank| rank.end.as_ref());
        let cpu_ms = of_ranks.map(|end| end.cpu_ms.0).max();
        let cpu_ms = cpu_ms.unwrap_or(end.cpu_ms.0);
        let mean = |time: u64| time.saturating_mul(1_000) / duration_ms.0.max(1);
        let fingerprint = experiment.spec.fingerprint();
        let known = self.lessons.get(&fingerprint).cloned();
        if known.is_none() {
            self.lesson_order.push_back(fingerprint);
            if self.lesson_order.len() > LESSONS_KEPT
                && let Some(oldest) = self.lesson_order.pop_front()
            {
                self.lessons.remove(&oldest);
            }
        }
        let before = known.unwrap_or(Lesson {
            experiment: experiment.id,
            runs: 0,
            peak_memory_bytes: 0,
            peak_vram_bytes: 0,
            cpu_milli: 0,
            duration_ms: DurationMs(0),
        });
        // On several GPUs nobody knows how much of it was on which.
        let gpus = attempt
            .ranks
            .iter()
            .map(|rank| &rank.placement.resources.gpus);
        let peak_vram_bytes = match gpus.map(Vec::len).sum::<usize>() {
            0 | 1 => end.peak_vram_bytes,
            _ => 0,
        };
        let lesson = Lesson {
            experiment: experiment.id,
            runs: before.runs.saturating_add(1),
            peak_memory_bytes: before.peak_memory_bytes.max(end.peak_memory_bytes),
            peak_vram_bytes: before.peak_vram_bytes.max(peak_vram_bytes),
            cpu_milli: before.cpu_milli.max(mean(cpu_ms)),
            duration_ms: before.duration_ms.max(duration_ms),
        };
        self.lessons.insert(fingerprint, lesson);
    }

    fn forget_old_usage(&mut self, now: Timestamp) {
        let oldest = (now.0 / HOUR.0).saturating_sub(HOURS_KEPT);
        let any_old = |hours: &Hours| hours.get_min().is_some_and(|(hour, _)| *hour < oldest);
        let old: Vec<_> = self
            .usage
            .iter()
            .filter(|(_, hours)| any_old(hours))
            .map(|(consumer, hours)| (consumer.clone(), hours.split(&oldest.saturating_sub(1)).1))
            .collect();
        for (consumer, hours) in old {
            if hours.is_empty() {
                self.usage.remove(&consumer);
            } else {
                self.usage.insert(consumer, hours);
            }
        }
    }
}

/// The time between two moments, cut at full hours; not more than is kept.
fn by_hour(from: Timestamp, to: Timestamp) -> impl Iterator<Item = (u64, DurationMs)> {
    let from = from.0.max(to.0.saturating_sub(HOURS_KEPT * HOUR.0));
    let hours = from / HOUR.0..=to.0 / HOUR.0;
    hours.filter_map(move |hour| {
        let start = from.max(hour * HOUR.0);
        let end = to.0.min((hour + 1).saturating_mul(HOUR.0));
        (end > start).then(|| (hour, DurationMs(end - start)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_cut_at_full_hours_and_none_is_lost() {
        let hour = HOUR.0;
        let cut: Vec<_> = by_hour(Timestamp(hour - 10), Timestamp(2 * hour + 5)).collect();
        let expected = [(0, DurationMs(10)), (1, HOUR), (2, DurationMs(5))];
        assert_eq!(cut, expected);
        assert_eq!(by_hour(Timestamp(7), Timestamp(7)).count(), 0);
        assert_eq!(by_hour(Timestamp(9), Timestamp(7)).count(), 0);
        let long = by_hour(Timestamp(0), Timestamp(10_000 * hour));
        assert!(long.count() as u64 <= HOURS_KEPT + 1);
    }
}
