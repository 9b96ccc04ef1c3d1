//! Amounts that nobody stated, learned from earlier runs of the same source and command.

use state_machine::{ClusterState, Lesson};
use types::{DurationMs, ExperimentSpec, Policy, ResourceRequest};

use crate::view::SubmitRequest;

/// Added to what earlier runs took, in percent: runs differ.
const MARGIN_PERCENT: u64 = 25;
/// Memory, a machine's or a GPU's, is asked for in steps of this.
const MEMORY_STEP: u64 = 256 << 20;
/// A whole GPU.
const WHOLE_GPU_MILLI: u64 = 1_000;
/// Cores are asked for in steps of this many thousandths.
const CPU_STEP: u64 = 500;

/// What a submission leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what is left open, each by itself"
)]
pub(crate) struct Unstated {
    cpu: bool,
    memory: bool,
    vram: bool,
    time: bool,
}

impl Unstated {
    pub(crate) fn of(request: &SubmitRequest) -> Self {
        Self {
            cpu: request.resources.cpu_milli.is_none(),
            memory: request.resources.memory_bytes.is_none(),
            vram: request.resources.vram_bytes.is_none(),
            time: request.time_limit_ms.is_none_or(|time| time == 0),
        }
    }

    /// Fills in what earlier runs teach; what was learned, for people.
    pub(crate) fn learn(self, state: &ClusterState, spec: &mut ExperimentSpec) -> Vec<String> {
        let Some(lesson) = state.lesson(&spec.fingerprint()) else {
            return Vec::new();
        };
        spec.learned = self.take(lesson, &mut spec.resources, &mut spec.policy);
        spec.learned.clone()
    }

    fn take(
        self,
        lesson: &Lesson,
        resources: &mut ResourceRequest,
        policy: &mut Policy,
    ) -> Vec<String> {
        let mut learned = Vec::new();
        if self.memory && lesson.peak_memory_bytes > 0 {
            let memory = stepped(with_margin(lesson.peak_memory_bytes), MEMORY_STEP);
            resources.memory_bytes = memory;
            learned.push(format!("{} MiB memory", memory >> 20));
        }
        // A share of a GPU runs beside others, so that its memory decides what fits there; a whole one is its alone.
        let is_share = (1..WHOLE_GPU_MILLI).contains(&resources.gpu_milli);
        if self.vram && is_share && lesson.peak_vram_bytes > 0 {
            let vram = stepped(with_margin(lesson.peak_vram_bytes), MEMORY_STEP);
            resources.vram_bytes = vram;
            learned.push(format!("{} MiB vram", vram >> 20));
        }
        if self.cpu && lesson.cpu_milli > 0 {
            let cpu = stepped(with_margin(lesson.cpu_milli), CPU_STEP);
            resources.cpu_milli = cpu;
            learned.push(format!("{}.{} cpus", cpu / 1_000, cpu % 1_000 / 100));
        }
        if self.time && lesson.duration_ms.0 > 0 {
            let expected = DurationMs(with_margin(lesson.duration_ms.0));
            policy.expected_ms = expected;
            learned.push(format!("expected to run for {expected} (no limit)"));
        }
        let from = match lesson.runs {
            1 => format!("from {}", lesson.experiment),
            runs => format!("from {runs} runs, the last {}", lesson.experiment),
        };
        learned
            .iter()
            .map(|what| format!("{what}, {from}"))
            .collect()
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
    use types::ExperimentId;

    use super::*;

    fn unstated() -> Unstated {
        Unstated {
            cpu: true,
            memory: true,
            vram: true,
            time: true,
        }
    }

    #[test]
    fn a_share_of_a_gpu_gets_the_memory_that_earlier_runs_took_of_it_and_a_whole_gpu_is_left_whole()
    {
        let lesson = Lesson {
            experiment: ExperimentId::from_bits(7),
            runs: 2,
            peak_memory_bytes: 1 << 30,
            peak_vram_bytes: 8 << 30,
            cpu_milli: 900,
            duration_ms: DurationMs::from_secs(60),
        };
        let asked = |gpu_milli, vram_bytes| ResourceRequest {
            gpu_milli,
            vram_bytes,
            ..ResourceRequest::default()
        };
        let mut resources = asked(500, 0);
        let mut policy = Policy::default();
        let learned = unstated().take(&lesson, &mut resources, &mut policy);
        assert_eq!(resources.vram_bytes, 10 << 30);
        let vram = format!(
            "10240 MiB vram, from 2 runs, the last {}",
            lesson.experiment
        );
        assert!(learned.contains(&vram), "{learned:?}");
        for (request, is_open) in [
            (asked(500, 1 << 30), false),
            (asked(1_000, 0), true),
            (asked(0, 0), true),
        ] {
            let mut resources = request.clone();
            let unstated = Unstated {
                vram: is_open,
                ..unstated()
            };
            let learned = unstated.take(&lesson, &mut resources, &mut policy);
            assert_eq!(resources.vram_bytes, request.vram_bytes);
            assert!(
                learned.iter().all(|what| !what.contains("vram")),
                "{learned:?}"
            );
        }
    }

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
