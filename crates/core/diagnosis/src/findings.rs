//! What the course of a run says of it, while it runs and after: a leak, a GPU that waits or idles, a standstill.

use types::{Bytes, CauseKind, DurationMs, Finding};

use crate::advice::advice;
use crate::course::{Point, mean};
use crate::{Course, Request};

/// A slope needs so many points over so long; before, data is loaded and caches fill.
const LEAK_POINTS: usize = 8;
const LEAK_SPAN_MS: u64 = 40_000;
/// Less growth than this is noise, whatever the limit; and less than this part of the limit, in percent.
const LEAK_LEAST_BYTES: u64 = 16 << 20;
const LEAK_LEAST_PERCENT: u64 = 5;
/// So many percent more of the pairs of points must grow than shrink: memory that comes and goes with each epoch does not.
const LEAK_STEADY_PERCENT: i64 = 70;
/// A slope says nothing of a time so many times longer than the one over which it was seen.
const LEAK_FORESIGHT: u64 = 10;
/// The first minute, in which a program starts, says nothing of how it uses its GPUs.
const WARM_UP_MS: u64 = 60_000;
/// GPUs are judged after so long.
const STARVED_SPAN_MS: u64 = 120_000;
const UNDERUSED_SPAN_MS: u64 = 600_000;
/// Percent of the GPUs below which they wait or idle.
const STARVED_GPU_PERCENT: u64 = 30;
const UNDERUSED_GPU_PERCENT: u64 = 20;
/// Percent of its cores above which a program is busy on them.
const STARVED_CPU_PERCENT: u64 = 80;
/// Nothing for so long is a standstill; a step of training, or the download of a model, is shorter or moves bytes.
const STILL_MS: u64 = 600_000;
/// Thousandths of a core that a process takes which only waits.
const STILL_CPU_MILLI: u64 = 10;
/// Bytes per second that clocks, heartbeats and file systems move.
const STILL_BYTES_PER_SECOND: u64 = 64;

/// All that hold now.
#[must_use]
pub fn findings(course: &Course, request: &Request) -> Vec<Finding> {
    let found = [
        no_progress(course),
        host_leak(course, request.memory_bytes),
        vram_leak(course, request.vram_bytes),
        starved(course, request).or_else(|| underused(course, request)),
    ];
    found.into_iter().flatten().collect()
}

fn finding(kind: CauseKind, evidence: String) -> Finding {
    let advice = advice(&kind).join("; ");
    Finding {
        kind,
        evidence,
        advice,
    }
}

fn host_leak(course: &Course, limit_bytes: u64) -> Option<Finding> {
    let memory = |point: &Point| Some(point.memory_bytes);
    leak(course, "memory", limit_bytes, memory)
}

fn vram_leak(course: &Course, limit_bytes: u64) -> Option<Finding> {
    leak(course, "GPU memory", limit_bytes, |point| point.vram_bytes)
}

/// A robust slope after Theil and Sen (the median of the slopes between all pairs of points) over all but the first
/// quarter of the run, that still holds in the last third of it. None without a limit: then nothing runs out.
fn leak(
    course: &Course,
    what: &str,
    limit_bytes: u64,
    figure: impl Fn(&Point) -> Option<u64>,
) -> Option<Finding> {
    let window = course.since(course.length_ms() / 4);
    let held = window.iter().filter_map(|point| {
        let bytes = i64::try_from(figure(point)?).ok()?; // No machine holds more.
        Some((i64::try_from(point.at_ms).ok()?, bytes))
    });
    let held: Vec<(i64, i64)> = held.collect();
    let (first, last) = (held.first()?, held.last()?);
    let span_ms = u64::try_from(last.0 - first.0).ok()?;
    if held.len() < LEAK_POINTS || span_ms < LEAK_SPAN_MS || limit_bytes == 0 {
        return None;
    }
    let whole = slopes(&held);
    let late = slopes(&held[held.len() * 2 / 3..]);
    let grown = u64::try_from(last.1 - first.1).ok()?;
    let is_much = grown >= LEAK_LEAST_BYTES.max(limit_bytes / 100 * LEAK_LEAST_PERCENT);
    let goes_on = late.bytes_per_hour >= whole.bytes_per_hour / 2;
    if !is_much || !goes_on || whole.steady_percent < LEAK_STEADY_PERCENT {
        return None;
    }
    let per_hour = u64::try_from(whole.bytes_per_hour)
        .ok()
        .filter(|rate| *rate > 0)?;
    let left = limit_bytes.saturating_sub(u64::try_from(last.1).ok()?);
    let left_ms = u128::from(left) * 3_600_000 / u128::from(per_hour);
    let left_ms = u64::try_from(left_ms).ok()?;
    if left_ms > span_ms.saturating_mul(LEAK_FORESIGHT) {
        return None;
    }
    let end = match left {
        0 => "it reached its limit".to_owned(),
        _ => format!("at this rate it is full in {}", DurationMs(left_ms)),
    };
    let evidence = format!(
        "{what} grew by {} per minute for {}, to {} of {}: {end}",
        Bytes(per_hour / 60),
        DurationMs(span_ms),
        Bytes(u64::try_from(last.1).ok()?),
        Bytes(limit_bytes)
    );
    Some(finding(CauseKind::LeakSuspected, evidence))
}

/// The slopes between all pairs of points.
struct Slopes {
    /// The median.
    bytes_per_hour: i64,
    /// Percent of the pairs that grow, less those that shrink.
    steady_percent: i64,
}

fn slopes(held: &[(i64, i64)]) -> Slopes {
    let mut slopes = Vec::with_capacity(held.len() * held.len() / 2);
    let mut sense = 0;
    for (at, one) in held.iter().enumerate() {
        for other in &held[at + 1..] {
            let time_ms = i128::from(other.0 - one.0).max(1);
            let slope = i128::from(other.1 - one.1) * 3_600_000 / time_ms;
            slopes.push(i64::try_from(slope).unwrap_or(i64::MAX));
            sense += (other.1 - one.1).signum();
        }
    }
    let pairs = i64::try_from(slopes.len()).unwrap_or(i64::MAX).max(1);
    let middle = slopes.len() / 2;
    let median = match slopes.is_empty() {
        true => 0,
        false => *slopes.select_nth_unstable(middle).1,
    };
    Slopes {
        bytes_per_hour: median,
        steady_percent: sense * 100 / pairs,
    }
}

/// How the GPUs and the processors were used after the start.
struct Use {
    span_ms: u64,
    gpu_percent: u64,
    cpu_milli: u64,
    /// Anything at all was done on a GPU, ever.
    touched: bool,
}

fn used(course: &Course) -> Option<Use> {
    let known = course.since(WARM_UP_MS).iter();
    let known: Vec<&Point> = known.filter(|point| point.gpu_percent.is_some()).collect();
    let gpus = known
        .iter()
        .filter_map(|point| Some((point.gpu_percent?, point.span_ms)));
    let touches =
        |point: &Point| point.vram_bytes.unwrap_or(0) > 0 || point.gpu_percent.unwrap_or(0) > 0;
    Some(Use {
        span_ms: known
            .iter()
            .fold(0, |sum, point| point.span_ms.saturating_add(sum)),
        gpu_percent: mean(gpus)?,
        cpu_milli: mean(known.iter().map(|point| (point.cpu_milli, point.span_ms)))?,
        touched: course.points().iter().any(touches),
    })
}

fn starved(course: &Course, request: &Request) -> Option<Finding> {
    let used = used(course)?;
    let is_idle = request.gpu_milli > 0 && is_below(used.gpu_percent, STARVED_GPU_PERCENT, request);
    let busy_milli = request.cpu_milli.saturating_mul(STARVED_CPU_PERCENT) / 100;
    let is_busy = request.cpu_milli > 0 && used.cpu_milli >= busy_milli;
    if !is_idle || !is_busy || !used.touched || used.span_ms < STARVED_SPAN_MS {
        return None;
    }
    let evidence = format!(
        "over {} the GPU was busy {} % of the time while {} of its {} cores were busy",
        DurationMs(used.span_ms),
        used.gpu_percent,
        tenths(used.cpu_milli),
        tenths(request.cpu_milli)
    );
    Some(finding(CauseKind::DataStarved, evidence))
}

fn underused(course: &Course, request: &Request) -> Option<Finding> {
    let used = used(course)?;
    let is_idle =
        request.gpu_milli > 0 && is_below(used.gpu_percent, UNDERUSED_GPU_PERCENT, request);
    if !is_idle || used.span_ms < UNDERUSED_SPAN_MS {
        return None;
    }
    let idle_ms = u128::from(used.span_ms)
        * u128::from((request.gpu_milli / 10).saturating_sub(used.gpu_percent))
        / 100;
    let idle = DurationMs(u64::try_from(idle_ms).unwrap_or(u64::MAX));
    let evidence = match used.touched {
        false => format!(
            "in {} none of its processes did anything on the GPU that it holds: {idle} of GPU time are lost",
            DurationMs(used.span_ms)
        ),
        true => format!(
            "over {} the GPU was busy {} % of the time: {idle} of GPU time are lost",
            DurationMs(used.span_ms),
            used.gpu_percent
        ),
    };
    Some(finding(CauseKind::GpuUnderused, evidence))
}

/// Whether percent of one GPU are below `percent` of what was asked for.
fn is_below(gpu_percent: u64, percent: u64, request: &Request) -> bool {
    u128::from(gpu_percent) * 1_000 < u128::from(percent) * u128::from(request.gpu_milli)
}

fn tenths(milli: u64) -> String {
    let tenths = milli.saturating_add(50) / 100;
    match tenths % 10 {
        0 => format!("{}", tenths / 10),
        rest => format!("{}.{rest}", tenths / 10),
    }
}

/// Whether it has done nothing for so long by now that somebody should look.
#[must_use]
pub fn is_without_progress(course: &Course) -> bool {
    no_progress(course).is_some()
}

fn no_progress(course: &Course) -> Option<Finding> {
    let still = course
        .points()
        .iter()
        .rev()
        .take_while(|point| is_still(point));
    let still_ms = still.fold(0_u64, |sum, point| sum.saturating_add(point.span_ms));
    if still_ms < STILL_MS {
        return None;
    }
    let evidence = format!(
        "for {} it wrote nothing and used neither a processor nor a GPU nor a disk",
        DurationMs(still_ms)
    );
    Some(finding(CauseKind::NoProgress, evidence))
}

fn is_still(point: &Point) -> bool {
    let most_bytes = point.span_ms.saturating_mul(STILL_BYTES_PER_SECOND) / 1_000;
    point.cpu_milli <= STILL_CPU_MILLI
        && point.gpu_percent.unwrap_or(0) == 0
        && point.moved_bytes <= most_bytes
}

#[cfg(test)]
mod tests;
