//! What an attempt used over time, in few points whatever its length.

use types::{AttemptSample, NetworkOf};

/// Most points that are kept, 17 KB: enough to see a slope, and few enough to compare each with each.
const MAX_POINTS: usize = 240;

/// Samples in a row as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    /// When it ends, since the start.
    pub(crate) at_ms: u64,
    pub(crate) span_ms: u64,
    /// Mean.
    pub(crate) cpu_milli: u64,
    /// Most.
    pub(crate) memory_bytes: u64,
    /// Most; none where no driver told.
    pub(crate) vram_bytes: Option<u64>,
    /// Mean; as above.
    pub(crate) gpu_percent: Option<u64>,
    /// Bytes that it wrote to its output, to and from disks, and over a network of its own.
    pub(crate) moved_bytes: u64,
}

impl Point {
    fn of(sample: &AttemptSample, before_ms: u64) -> Self {
        let span_ms = sample.interval.0;
        let disk = sample.disk.unwrap_or_default();
        let network = sample
            .network
            .filter(|network| network.of == NetworkOf::Attempt);
        let network = network.map_or(0, |network| {
            let received = network.received_bytes_per_second;
            received.saturating_add(network.sent_bytes_per_second)
        });
        let rate = disk
            .read_bytes_per_second
            .saturating_add(disk.written_bytes_per_second)
            .saturating_add(network);
        let moved = rate.saturating_mul(span_ms) / 1_000;
        Self {
            at_ms: before_ms.saturating_add(span_ms),
            span_ms,
            cpu_milli: sample.cpu_milli,
            memory_bytes: sample.memory_bytes,
            vram_bytes: sample.gpus.map(|gpus| gpus.vram_bytes),
            gpu_percent: sample.gpus.map(|gpus| gpus.utilisation_percent.into()),
            moved_bytes: moved.saturating_add(sample.console_bytes),
        }
    }

    /// Both as one.
    fn and(self, later: Self) -> Self {
        let weights = (self.span_ms, later.span_ms);
        let gpu = |percent: Option<u64>, span| percent.map(|percent| (percent, span));
        let gpus = [
            gpu(self.gpu_percent, self.span_ms),
            gpu(later.gpu_percent, later.span_ms),
        ];
        Self {
            at_ms: later.at_ms,
            span_ms: self.span_ms.saturating_add(later.span_ms),
            cpu_milli: mean(
                [(self.cpu_milli, weights.0), (later.cpu_milli, weights.1)].into_iter(),
            )
            .unwrap_or_default(),
            memory_bytes: self.memory_bytes.max(later.memory_bytes),
            vram_bytes: self.vram_bytes.max(later.vram_bytes),
            gpu_percent: mean(gpus.into_iter().flatten()),
            moved_bytes: self.moved_bytes.saturating_add(later.moved_bytes),
        }
    }
}

/// By weight; none if there is nothing.
pub(crate) fn mean(figures: impl Iterator<Item = (u64, u64)>) -> Option<u64> {
    let mut sums = (0_u128, 0_u128);
    for (figure, weight) in figures {
        let weight = u128::from(weight.max(1));
        sums.0 = sums.0.saturating_add(u128::from(figure) * weight);
        sums.1 += weight;
    }
    let mean = sums.0.checked_div(sums.1)?;
    Some(u64::try_from(mean).unwrap_or(u64::MAX))
}

/// The samples of an attempt, coarser as they grow many.
#[derive(Clone, Debug, Default)]
pub struct Course {
    points: Vec<Point>,
    /// Samples that make up each point.
    samples_per_point: u32,
    /// How many the last point has.
    in_last: u32,
}

impl Course {
    /// Takes the next sample.
    pub fn push(&mut self, sample: &AttemptSample) {
        let before_ms = self.points.last().map_or(0, |point| point.at_ms);
        let next = Point::of(sample, before_ms);
        let per_point = self.samples_per_point.max(1);
        if let Some(last) = self.points.last_mut().filter(|_| self.in_last < per_point) {
            *last = last.and(next);
            self.in_last += 1;
            return;
        }
        if self.points.len() >= MAX_POINTS {
            let pairs = self.points.chunks(2);
            self.points = pairs
                .filter_map(|pair| pair.iter().copied().reduce(Point::and))
                .collect();
            self.samples_per_point = per_point.saturating_mul(2);
        }
        self.points.push(next);
        self.in_last = 1;
    }

    /// Oldest first.
    pub(crate) fn points(&self) -> &[Point] {
        &self.points
    }

    /// How long it covers.
    pub(crate) fn length_ms(&self) -> u64 {
        self.points.last().map_or(0, |point| point.at_ms)
    }

    /// The points that end after this time.
    pub(crate) fn since(&self, at_ms: u64) -> &[Point] {
        let first = self.points.partition_point(|point| point.at_ms <= at_ms);
        &self.points[first..]
    }
}

#[cfg(test)]
mod tests {
    use types::DurationMs;

    use super::*;

    #[test]
    fn a_long_run_takes_no_more_room_and_keeps_its_length_and_its_peak() {
        let mut course = Course::default();
        for second in 0..100_000_u64 {
            course.push(&AttemptSample {
                interval: DurationMs(1_000),
                cpu_milli: 500,
                memory_bytes: if second == 777 { 99 } else { 1 },
                ..AttemptSample::default()
            });
            assert!(course.points.len() <= MAX_POINTS);
        }
        assert_eq!(course.length_ms(), 100_000_000);
        let peak = course.points.iter().map(|point| point.memory_bytes).max();
        assert_eq!(peak, Some(99));
        assert!(course.points.iter().all(|point| point.cpu_milli == 500));
        let spans = course.points.iter().map(|point| point.span_ms).sum::<u64>();
        assert_eq!(spans, 100_000_000);
    }
}
