//! Few points out of many samples. Pure.

use types::{AttemptSample, NetworkOf};

use super::Taken;
use crate::view::{RequestedView, UsagePoint, UsageSummary};

/// Over this time a step of 10 ms is one part in fifty.
const SHORTEST_FOR_CPU_MS: u64 = 500;

/// At most `wanted` points, each of samples in a row that cover about the same time: means of rates by the time that each
/// covers, and the most of what is held.
pub(super) fn points(samples: &[Taken], wanted: usize) -> Vec<UsagePoint> {
    if samples.len() <= wanted {
        return samples.chunks(1).filter_map(point).collect();
    }
    // Saturating: a damaged record may claim any time.
    let intervals = samples.iter().map(|taken| taken.sample.interval.0);
    let total_ms = intervals.fold(0, u64::saturating_add);
    // By the time that was covered, not by the wall clock, which may jump.
    let mut covered_ms = 0_u64;
    let mut buckets: Vec<Vec<Taken>> = vec![Vec::new(); wanted];
    for taken in samples {
        let place = u128::from(covered_ms) * wanted as u128 / u128::from(total_ms.max(1));
        let place = usize::try_from(place).unwrap_or(usize::MAX).min(wanted - 1);
        buckets[place].push(taken.clone());
        covered_ms = covered_ms.saturating_add(taken.sample.interval.0);
    }
    buckets.iter().filter_map(|bucket| point(bucket)).collect()
}

/// Of all samples; none if there are none.
pub(super) fn summary(samples: &[Taken], requested: RequestedView) -> Option<UsageSummary> {
    let whole = point(samples)?;
    let gpus = samples.iter().filter_map(|taken| taken.sample.gpus);
    Some(UsageSummary {
        samples: samples.len() as u64,
        span_ms: whole.span_ms,
        requested,
        peak_memory_bytes: whole.peak_memory_bytes,
        peak_vram_bytes: whole.vram_bytes,
        cpu_milli_mean: whole.cpu_milli,
        cpu_milli_max: cpu_most(samples),
        gpu_utilisation_percent_mean: whole.gpu_utilisation_percent,
        gpu_utilisation_percent_max: gpus.map(|gpus| gpus.utilisation_percent).max(),
        processes_max: whole.processes,
        threads_max: whole.threads,
        disk_read_bytes: total(samples, disk_read),
        disk_written_bytes: total(samples, disk_written),
        network_received_bytes: total(samples, received),
        network_sent_bytes: total(samples, sent),
        network_is_hosts: whole.network_is_hosts,
    })
}

/// The most of any sample that is long enough, of all if none is: the last one may be short, and the kernel counts
/// processor time in steps of 10 ms.
fn cpu_most(samples: &[Taken]) -> u64 {
    let most = |least_ms| {
        let long = samples
            .iter()
            .filter(|taken| taken.sample.interval.0 >= least_ms);
        long.map(|taken| taken.sample.cpu_milli).max()
    };
    most(SHORTEST_FOR_CPU_MS).or(most(0)).unwrap_or_default()
}

/// All of `samples` in one; none if there are none.
fn point(samples: &[Taken]) -> Option<UsagePoint> {
    let last = samples.last()?;
    let mut point = UsagePoint {
        at: last.at.0,
        cpu_milli: mean(samples, |sample| Some(sample.cpu_milli)).unwrap_or_default(),
        disk_read_bytes_per_second: mean(samples, disk_read),
        disk_written_bytes_per_second: mean(samples, disk_written),
        network_received_bytes_per_second: mean(samples, received),
        network_sent_bytes_per_second: mean(samples, sent),
        gpu_utilisation_percent: mean(samples, |sample| {
            Some(sample.gpus?.utilisation_percent.into())
        })
        .map(|percent| u32::try_from(percent).expect("a mean is no more than the largest")),
        ..UsagePoint::default()
    };
    for Taken { sample, .. } in samples {
        point.span_ms = point.span_ms.saturating_add(sample.interval.0);
        point.memory_bytes = point.memory_bytes.max(sample.memory_bytes);
        point.peak_memory_bytes = point.peak_memory_bytes.max(sample.peak_memory_bytes);
        point.processes = point.processes.max(sample.processes);
        point.threads = point.threads.max(sample.threads);
        let vram_bytes = sample.gpus.map(|gpus| gpus.vram_bytes);
        point.vram_bytes = point.vram_bytes.max(vram_bytes);
        let is_hosts = |network: types::NetworkUse| network.of == NetworkOf::Host;
        point.network_is_hosts |= sample.network.is_some_and(is_hosts);
    }
    Some(point)
}

fn disk_read(sample: &AttemptSample) -> Option<u64> {
    sample.disk.map(|disk| disk.read_bytes_per_second)
}

fn disk_written(sample: &AttemptSample) -> Option<u64> {
    sample.disk.map(|disk| disk.written_bytes_per_second)
}

fn received(sample: &AttemptSample) -> Option<u64> {
    sample
        .network
        .map(|network| network.received_bytes_per_second)
}

fn sent(sample: &AttemptSample) -> Option<u64> {
    sample.network.map(|network| network.sent_bytes_per_second)
}

/// Sum of figure times milliseconds, and of the milliseconds, over the samples that have the figure.
fn weigh(samples: &[Taken], figure: impl Fn(&AttemptSample) -> Option<u64>) -> (u128, u128) {
    let mut sums = (0, 0);
    for Taken { sample, .. } in samples {
        if let Some(figure) = figure(sample) {
            // One that covers no time still has a figure.
            let time_ms = u128::from(sample.interval.0.max(1));
            // The product of two 64-bit numbers fits once.
            sums.0 = u128::saturating_add(sums.0, u128::from(figure) * time_ms);
            sums.1 += time_ms;
        }
    }
    sums
}

/// None if no sample has the figure.
fn mean(samples: &[Taken], figure: impl Fn(&AttemptSample) -> Option<u64>) -> Option<u64> {
    let (sum, time_ms) = weigh(samples, figure);
    let mean = sum.checked_div(time_ms)?;
    Some(u64::try_from(mean).expect("a mean is no more than the largest"))
}

/// What a rate per second comes to; none if no sample has it.
fn total(samples: &[Taken], rate: impl Fn(&AttemptSample) -> Option<u64>) -> Option<u64> {
    let (sum, time_ms) = weigh(samples, rate);
    (time_ms > 0).then(|| u64::try_from(sum / 1_000).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use types::{DiskUse, DurationMs, GpuUse, NetworkUse, Timestamp};

    use super::*;

    fn taken() -> impl Strategy<Value = Taken> {
        let gpus = proptest::option::of((0..u64::MAX, 0..800_u32));
        let rate = 0..=u64::from(u32::MAX);
        let figures = (0..64_000_u64, any::<u64>(), rate, gpus, any::<bool>());
        (0..60_001_u64, any::<u64>(), figures).prop_map(
            |(interval, at, (cpu_milli, memory_bytes, rate, gpus, is_hosts))| Taken {
                sequence: 0,
                at: Timestamp(at),
                sample: AttemptSample {
                    interval: DurationMs(interval),
                    cpu_milli,
                    memory_bytes,
                    peak_memory_bytes: memory_bytes,
                    processes: 1,
                    threads: 2,
                    disk: Some(DiskUse {
                        read_bytes_per_second: rate,
                        written_bytes_per_second: 0,
                    }),
                    gpus: gpus.map(|(vram_bytes, utilisation_percent)| GpuUse {
                        vram_bytes,
                        utilisation_percent,
                    }),
                    network: is_hosts.then_some(NetworkUse {
                        received_bytes_per_second: rate,
                        sent_bytes_per_second: 1,
                        of: NetworkOf::Host,
                    }),
                    console_bytes: rate,
                },
            },
        )
    }

    proptest! {
        #[test]
        fn fewer_points_keep_every_peak_all_the_time_and_means_within_bounds(
            samples in vec(taken(), 0..200),
            wanted in 1..50_usize,
        ) {
            let points = points(&samples, wanted);
            prop_assert!(points.len() <= wanted.max(1));
            prop_assert_eq!(points.is_empty(), samples.is_empty());
            let span_ms: u64 = points.iter().map(|point| point.span_ms).sum();
            prop_assert_eq!(span_ms, samples.iter().map(|taken| taken.sample.interval.0).sum::<u64>());
            let memory = samples.iter().map(|taken| taken.sample.memory_bytes).max();
            prop_assert_eq!(points.iter().map(|point| point.memory_bytes).max(), memory);
            let vram = samples.iter().filter_map(|taken| Some(taken.sample.gpus?.vram_bytes)).max();
            prop_assert_eq!(points.iter().filter_map(|point| point.vram_bytes).max(), vram);
            let cpu = || samples.iter().map(|taken| taken.sample.cpu_milli);
            for point in &points {
                prop_assert!(Some(point.cpu_milli) <= cpu().max() && Some(point.cpu_milli) >= cpu().min());
            }
            let Some(summary) = summary(&samples, RequestedView::default()) else {
                prop_assert!(samples.is_empty());
                return Ok(());
            };
            prop_assert!(Some(summary.cpu_milli_max) <= cpu().max());
            prop_assert!(Some(summary.cpu_milli_mean) <= cpu().max());
            prop_assert_eq!(Some(summary.peak_memory_bytes), memory);
            prop_assert_eq!(summary.peak_vram_bytes, vram);
            prop_assert!(summary.gpu_utilisation_percent_mean <= summary.gpu_utilisation_percent_max);
        }
    }

    #[test]
    fn means_weigh_by_time_and_what_is_not_known_weighs_nothing() {
        let sample = |at, interval, read, percent: Option<u32>| Taken {
            sequence: at,
            at: Timestamp(at),
            sample: AttemptSample {
                interval: DurationMs(interval),
                cpu_milli: read,
                disk: Some(DiskUse {
                    read_bytes_per_second: read,
                    written_bytes_per_second: 0,
                }),
                gpus: percent.map(|utilisation_percent| GpuUse {
                    vram_bytes: 0,
                    utilisation_percent,
                }),
                ..AttemptSample::default()
            },
        };
        let samples = [
            sample(1, 5_000, 4_000, Some(80)),
            sample(2, 15_000, 0, None),
        ];
        let point = &points(&samples, 1)[0];
        assert_eq!(
            (point.at, point.span_ms, point.cpu_milli),
            (2, 20_000, 1_000)
        );
        assert_eq!(point.gpu_utilisation_percent, Some(80));
        let summary = summary(&samples, RequestedView::default()).unwrap();
        assert_eq!(summary.disk_read_bytes, Some(20_000));
        assert_eq!(summary.network_sent_bytes, None);
        assert_eq!(points(&samples, 2).len(), 2);
        assert_eq!(points(&[], 2), []);
    }
}
