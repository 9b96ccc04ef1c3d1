//! Amounts that nobody stated, learned from earlier runs of the same source and command.

use state_machine::ClusterState;
use types::{DurationMs, ExperimentSpec};

use crate::view::SubmitRequest;

/// Added to what earlier runs took, in percent: runs differ.
const MARGIN_PERCENT: u64 = 25;
/// Memory is asked for in steps of this.
const MEMORY_STEP: u64 = 256 << 20;
/// Cores are asked for in steps of this many thousandths.
const CPU_STEP: u64 = 500;

/// What a submission leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unstated {
    cpu: bool,
    memory: bool,
    time: bool,
}

impl Unstated {
    pub(crate) fn of(request: &SubmitRequest) -> Self {
        Self {
            cpu: request.resources.cpu_milli.is_none(),
            memory: request.resources.memory_bytes.is_none(),
            time: request.time_limit_ms.is_none_or(|time| time == 0),
        }
    }

    /// Fills in what earlier runs teach; what was learned, for people.
    pub(crate) fn learn(self, state: &ClusterState, spec: &mut ExperimentSpec) -> Vec<String> {
        let Some(lesson) = state.lesson(&spec.fingerprint()) else {
            return Vec::new();
        };
        let mut learned = Vec::new();
        if self.memory && lesson.peak_memory_bytes > 0 {
            let memory = stepped(with_margin(lesson.peak_memory_bytes), MEMORY_STEP);
            spec.resources.memory_bytes = memory;
            learned.push(format!("{} MiB memory", memory >> 20));
        }
        if self.cpu && lesson.cpu_milli > 0 {
            let cpu = stepped(with_margin(lesson.cpu_milli), CPU_STEP);
            spec.resources.cpu_milli = cpu;
            learned.push(format!("{}.{} cpus", cpu / 1_000, cpu % 1_000 / 100));
        }
        if self.time && lesson.duration_ms.0 > 0 {
            let expected = DurationMs(with_margin(lesson.duration_ms.0));
            spec.policy.expected_ms = expected;
            learned.push(format!("expected to run for {expected} (no limit)"));
        }
        let from = match lesson.runs {
            1 => format!("from {}", lesson.experiment),
            runs => format!("from {runs} runs, the last {}", lesson.experiment),
        };
        spec.learned = learned
            .iter()
            .map(|what| format!("{what}, {from}"))
            .collect();
        spec.learned.clone()
    }
}

fn with_margin(amount: u64) -> u64 {
    amount
        .saturating_add(amount / 100 * MARGIN_PERCENT)
        .saturating_add(amount % 100 * MARGIN_PERCENT / 100)
}

fn stepped(amount: u64, step: u64) -> u64 {
    amount.div_ceil(step).saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_and_steps_are_added_and_never_overflow() {
        assert_eq!(with_margin(1_000), 1_250);
        assert_eq!(with_margin(10), 12);
        assert_eq!(with_margin(u64::MAX), u64::MAX);
        assert_eq!(stepped(1, CPU_STEP), 500);
        assert_eq!(stepped(500, CPU_STEP), 500);
        assert_eq!(stepped((1 << 30) + 1, MEMORY_STEP), (1 << 30) + MEMORY_STEP);
    }
}
