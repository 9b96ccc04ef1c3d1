//! Processors, memory and disk of the machine, or of the container that the node lives in.

mod detail;
mod sensors;

use std::num::NonZero;
use std::path::{Path, PathBuf};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::{Error, HostDetail};
use detail::Details;

/// Limits of the control group and the number of processors are read again after this many samples: they change
/// only when a person changes them.
const LIMITS_EVERY: u32 = 30;

/// One look at the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostSample {
    /// Thousandths of cores that this process may use.
    pub(crate) cpu_milli: u64,
    /// Thousandths of cores that are busy.
    pub(crate) cpu_busy_milli: u64,
    /// Bytes of memory that this process may use.
    pub(crate) memory_bytes: u64,
    /// Bytes of it in use.
    pub(crate) memory_used_bytes: u64,
    /// Bytes free on the disk.
    pub(crate) disk_free_bytes: u64,
}

/// Reads the machine.
#[derive(Debug)]
pub(crate) struct Host {
    system: System,
    own_process: Option<Pid>,
    data_directory: PathBuf,
    samples: u32,
    cores: u64,
    memory_limited: bool,
    details: Details,
}

impl Host {
    pub(crate) fn new(data_directory: PathBuf) -> Result<Self, Error> {
        Ok(Self {
            system: System::new().map_err(Error::Kernel)?,
            own_process: sysinfo::get_current_pid().ok(), // without it only the container's limits are seen
            data_directory,
            samples: 0,
            cores: 1,
            memory_limited: false,
            details: Details::new(),
        })
    }

    /// Takes a sample. Blocks for well under a millisecond, unless the disk hangs.
    pub(crate) fn sample(&mut self) -> Result<HostSample, Error> {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        let looks_at_limits = self.samples.is_multiple_of(LIMITS_EVERY);
        self.samples = self.samples.wrapping_add(1);
        if looks_at_limits {
            // Counts the quota of the control group and the affinity mask; a failure leaves the kernel's count.
            let kernel = NonZero::new(self.system.cpus().len()).unwrap_or(NonZero::<usize>::MIN);
            let allowed = std::thread::available_parallelism().unwrap_or(kernel);
            self.cores = u64::try_from(allowed.min(kernel).get()).unwrap_or(u64::MAX);
        }
        let machine_cores = u64::try_from(self.system.cpus().len()).unwrap_or(u64::MAX);
        let cpu_milli = self.cores.saturating_mul(1_000);
        let busy = busy_milli(self.system.global_cpu_usage(), machine_cores);
        let (memory_bytes, memory_used_bytes) = self.memory(looks_at_limits);
        Ok(HostSample {
            cpu_milli,
            cpu_busy_milli: busy.min(cpu_milli),
            memory_bytes,
            memory_used_bytes,
            disk_free_bytes: disk_free_bytes(&self.data_directory)?,
        })
    }

    /// Everything else, as of the last sample. Blocks for about a millisecond.
    pub(crate) fn detail(&mut self, sample: &HostSample) -> HostDetail {
        let memory = (sample.memory_bytes, sample.memory_used_bytes);
        self.details.look(&self.system, memory)
    }

    /// Bytes of memory, and those in use.
    fn memory(&mut self, looks_at_limits: bool) -> (u64, u64) {
        let total = self.system.total_memory();
        let used = total.saturating_sub(self.system.available_memory());
        if !looks_at_limits && !self.memory_limited {
            return (total, used);
        }
        let limits = self.own_limits().or_else(|| self.system.cgroup_limits());
        let limited = limits.filter(|limits| limits.total_memory < total);
        self.memory_limited = limited.is_some();
        limited.map_or((total, used), |limits| (limits.total_memory, limits.rss))
    }

    /// Limits of the control group that this process is in.
    fn own_limits(&mut self) -> Option<sysinfo::CGroupLimits> {
        let own = self.own_process?;
        if self.system.process(own).is_none() {
            self.system.refresh_processes_specifics(
                ProcessesToUpdate::Some(&[own]),
                false,
                ProcessRefreshKind::nothing(),
            );
        }
        self.system.process(own)?.cgroup_limits()
    }
}

/// Thousandths of cores from a usage in percent of all cores.
fn busy_milli(usage_percent: f32, cores: u64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=10000, and NaN casts to 0"
    )]
    let hundredths = (usage_percent * 100.0).clamp(0.0, 10_000.0).round() as u64;
    hundredths.saturating_mul(cores) / 10
}

fn disk_free_bytes(path: &Path) -> Result<u64, Error> {
    let disk = rustix::fs::statvfs(path).map_err(|e| Error::Disk {
        path: path.to_path_buf(),
        source: e.into(),
    })?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_becomes_thousandths_of_cores() {
        assert_eq!(busy_milli(50.0, 4), 2_000);
        assert_eq!(busy_milli(0.0, 64), 0);
        assert_eq!(busy_milli(100.0, 1), 1_000);
        assert_eq!(busy_milli(250.0, 2), 2_000);
        assert_eq!(busy_milli(f32::NAN, 2), 0);
    }

    #[test]
    fn figures_of_this_machine_are_sane() {
        let mut host = Host::new(std::env::temp_dir()).unwrap();
        for _ in 0..2 {
            let sample = host.sample().unwrap();
            assert!(sample.cpu_milli >= 1_000 && sample.cpu_milli <= 4_096_000);
            assert!(sample.cpu_busy_milli <= sample.cpu_milli);
            assert!(sample.memory_bytes > 64 << 20);
            assert!(sample.memory_used_bytes > 0);
            assert!(sample.memory_used_bytes < sample.memory_bytes);
            assert!(sample.disk_free_bytes > 0);
        }
    }

    #[test]
    fn missing_directory_is_named() {
        let mut host = Host::new("/none/such".into()).unwrap();
        let text = host.sample().unwrap_err().to_string();
        assert!(text.contains("/none/such"), "{text}");
    }
}
