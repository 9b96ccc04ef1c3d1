//! Who uses a GPU.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nvml_wrapper::Device;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;

use super::lineage::Lineage;
use super::told;
use crate::{AttemptGpus, GpuDetail, GpuProcess, OwnTree};

/// Samples of utilisation up to this old count: the driver takes one in 1/6 to 1 s (`nvmlDeviceGetUtilizationRates`).
const RECENT: Duration = Duration::from_secs(2);

/// Lists are asked for again so often if processes come while they are read.
const MAX_RACES: u32 = 3;

/// The processes on a card or an instance, by id.
pub(super) fn read(
    device: &Device<'_>,
    lineage: &mut Lineage<'_>,
) -> Result<Vec<GpuProcess>, NvmlError> {
    // One that computes and draws is in two lists, with the same memory in both.
    let lists = [
        list(|| device.running_compute_processes())?,
        list(|| device.running_graphics_processes())?,
        list(|| device.mps_running_compute_processes())?,
    ];
    let mut memory: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    for process in lists.into_iter().flatten() {
        let bytes = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let known = memory.entry(process.pid).or_default();
        *known = (*known).max(bytes);
    }
    if memory.is_empty() {
        return Ok(Vec::new());
    }
    let busy = busy(device)?;
    let process = |(pid, vram_bytes)| GpuProcess {
        pid,
        name: lineage.name(pid),
        user: lineage.user(pid),
        vram_bytes,
        // Who is not in the list did nothing.
        utilisation_percent: busy
            .as_ref()
            .map(|busy| busy.get(&pid).copied().unwrap_or(0)),
        attempt: lineage.attempt(pid).map(ToOwned::to_owned),
    };
    Ok(memory.into_iter().map(process).collect())
}

/// A list that NVML first tells the length of: more may have come since.
fn list(
    ask: impl Fn() -> Result<Vec<ProcessInfo>, NvmlError>,
) -> Result<Vec<ProcessInfo>, NvmlError> {
    let mut answer = ask();
    for _again in 0..MAX_RACES {
        if matches!(answer, Err(NvmlError::InsufficientSize(_))) {
            answer = ask();
        }
    }
    Ok(told(answer)?.unwrap_or_default())
}

/// Percent of the multiprocessors' time by process, of those that were busy; none if the driver does not tell.
fn busy(device: &Device<'_>) -> Result<Option<BTreeMap<u32, u8>>, NvmlError> {
    let since = SystemTime::now()
        .checked_sub(RECENT)
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default(); // Before 1970 all samples count.
    let since_us = u64::try_from(since.as_micros()).unwrap_or(0);
    let mut samples = match device.process_utilization_stats(since_us) {
        Err(NvmlError::NotFound) => return Ok(Some(BTreeMap::new())),
        answer => match told(answer)? {
            Some(samples) => samples,
            None => return Ok(None),
        },
    };
    samples.sort_by_key(|sample| sample.timestamp);
    // Some drivers give numbers that are no percents for processes that just came or went.
    let sane = samples.into_iter().filter(|sample| sample.sm_util <= 100);
    let percents = sane.map(|sample| (sample.pid, u8::try_from(sample.sm_util).unwrap_or(100)));
    Ok(Some(percents.collect()))
}

/// Bytes of those that belong to no attempt. Where the driver tells it of none or only some of them, all that is used
/// and not known to be an attempt's counts.
pub(super) fn foreign_bytes(processes: &[GpuProcess], used_bytes: u64) -> u64 {
    let (own, foreign): (Vec<_>, Vec<_>) = processes
        .iter()
        .partition(|process| process.attempt.is_some());
    let bytes = |process: &&GpuProcess| process.vram_bytes;
    let known: Option<u64> = foreign.iter().map(bytes).sum();
    known.unwrap_or_else(|| {
        let own: u64 = own.iter().filter_map(bytes).sum();
        used_bytes.saturating_sub(own)
    })
}

/// What each attempt uses, also of those that use nothing.
pub(super) fn of_attempts(trees: &[OwnTree], details: &[GpuDetail]) -> Vec<AttemptGpus> {
    let mut uses: BTreeMap<&str, AttemptGpus> = BTreeMap::new();
    for tree in trees {
        uses.insert(&tree.attempt, AttemptGpus::default());
    }
    for (place, detail) in (0..).zip(details) {
        for (attempt, vram_bytes, percent) in of_gpu(detail) {
            let uses = uses.entry(attempt).or_default();
            uses.vram_bytes = uses.vram_bytes.saturating_add(vram_bytes);
            uses.utilisation_percent = uses.utilisation_percent.saturating_add(percent);
            let here = uses.vram_by_gpu.entry(place).or_default();
            *here = here.saturating_add(vram_bytes);
        }
    }
    let named = |(attempt, uses): (&str, AttemptGpus)| AttemptGpus {
        attempt: attempt.to_owned(),
        ..uses
    };
    uses.into_iter().map(named).collect()
}

/// The attempts on a GPU with their bytes and percents. Where the driver tells no utilisation of processes, the card's
/// is that of the attempt that has it alone.
fn of_gpu(detail: &GpuDetail) -> Vec<(&str, u64, u32)> {
    let processes = &detail.processes;
    let first = processes.first().map(|process| &process.attempt);
    let is_alone = processes
        .iter()
        .all(|process| Some(&process.attempt) == first && process.utilisation_percent.is_none());
    let mut of_card = detail.utilisation_percent.filter(|_| is_alone);
    let own = processes.iter().filter_map(|process| {
        let attempt = process.attempt.as_deref()?;
        let percent = process.utilisation_percent.or_else(|| of_card.take());
        let vram_bytes = process.vram_bytes.unwrap_or(0);
        Some((attempt, vram_bytes, percent.unwrap_or(0).into()))
    });
    own.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(attempt: Option<&str>, vram_bytes: Option<u64>, percent: Option<u8>) -> GpuProcess {
        GpuProcess {
            vram_bytes,
            utilisation_percent: percent,
            attempt: attempt.map(ToOwned::to_owned),
            ..GpuProcess::default()
        }
    }

    #[test]
    fn foreign_memory_is_that_of_others() {
        let own = process(Some("a"), Some(10), None);
        let other = process(None, Some(3), None);
        let untold = process(None, None, None);
        assert_eq!(foreign_bytes(&[], 100), 0);
        assert_eq!(foreign_bytes(std::slice::from_ref(&own), 100), 0);
        assert_eq!(foreign_bytes(&[own.clone(), other.clone()], 100), 3);
        assert_eq!(foreign_bytes(&[own, other, untold], 100), 90);
    }

    #[test]
    fn utilisation_of_the_card_is_that_of_the_attempt_that_has_it_alone() {
        let trees = ["a", "b"].map(|attempt| OwnTree {
            attempt: attempt.to_owned(),
            root_pid: 1,
        });
        let gpu = |processes| GpuDetail {
            utilisation_percent: Some(80),
            processes,
            ..GpuDetail::default()
        };
        let a = process(Some("a"), Some(10), None);
        let alone = gpu(vec![a.clone(), a.clone()]);
        let shared = gpu(vec![a, process(None, Some(1), None)]);
        let told = gpu(vec![process(Some("a"), Some(5), Some(70))]);
        let uses = of_attempts(&trees, &[alone, shared, told]);
        let by_gpu: Vec<_> = uses[0].vram_by_gpu.iter().collect();
        assert_eq!(by_gpu, [(&0, &20), (&1, &10), (&2, &5)]);
        assert!(uses[1].vram_by_gpu.is_empty());
        let uses: Vec<_> = uses
            .iter()
            .map(|uses| {
                (
                    uses.attempt.as_str(),
                    uses.vram_bytes,
                    uses.utilisation_percent,
                )
            })
            .collect();
        assert_eq!(uses, [("a", 35, 150), ("b", 0, 0)]);
    }
}
