//! What the holder sees of an end, in the words of the diagnosis.

use diagnosis::{Disk, Exit, LaunchFailure};
use rustix::process::WaitStatus;
use types::{Cause, CauseKind};

use super::launch::LaunchError;
use crate::attempt_directory::AttemptDirectory;
use crate::clock::wall_clock;
use crate::protocol::StopReason;
use crate::stored::{Ended, OrderV1};

/// How the main process ended; never, if it could not be killed.
pub(super) fn exit(status: Option<WaitStatus>) -> Exit {
    let code = status.and_then(WaitStatus::exit_status).map(Exit::Code);
    let signal = status.and_then(WaitStatus::terminating_signal);
    code.or(signal.map(Exit::Signal)).unwrap_or(Exit::Never)
}

/// The cause that a stop makes.
pub(super) fn kind_of(reason: &StopReason) -> CauseKind {
    match reason {
        StopReason::Requested { by } => CauseKind::Stopped { by: by.clone() },
        StopReason::TimeLimit => CauseKind::TimeLimit,
        StopReason::RuleMet { rule } => CauseKind::RuleMet { rule: rule.clone() },
        StopReason::LeaseLost => CauseKind::LeaseExpired,
        StopReason::VramOveruse { .. } => CauseKind::VramOveruse,
        StopReason::GpuFailed { gpu, problem } => CauseKind::GpuFailed {
            gpu: *gpu,
            problem: problem.clone(),
        },
    }
}

pub(super) fn launch_failure(error: LaunchError) -> LaunchFailure {
    match error {
        LaunchError::Command { error } => LaunchFailure::Command(error),
        LaunchError::NotAllowed { error } => LaunchFailure::NotAllowed(error),
        LaunchError::WorkingDirectory { error } => LaunchFailure::WorkingDirectory(error),
        LaunchError::Preparation { error } => LaunchFailure::Preparation(error),
    }
}

/// How many processes the kernel killed for lack of memory since the machine started (`oom_kill` of `/proc/vmstat`, Linux
/// 4.13); none where it does not count them.
pub(super) fn machine_kills() -> Option<u64> {
    // Without the file nobody counts, as documented.
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    count.trim().parse().ok() // the kernel writes a number
}

/// Those after `before`.
pub(super) fn kills_since(before: Option<u64>) -> Option<u64> {
    Some(machine_kills()?.saturating_sub(before?))
}

/// The file system of the attempt. Only once the job is gone: it may hang.
pub(super) fn disk(directory: &AttemptDirectory) -> Option<Disk> {
    // A file system that cannot be asked is not known, as documented.
    let found = rustix::fs::statvfs(&directory.root).ok()?;
    Some(Disk {
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        free_files: (found.f_files > 0).then_some(found.f_favail),
    })
}

/// The end of an attempt whose lease was over when its holder came.
pub(super) fn lease_over_before_start(order: &OrderV1) -> Ended {
    let now = wall_clock();
    let line = "the lease was over before the command could be started".to_owned();
    Ended {
        cause: Cause::new(CauseKind::LeaseExpired, vec![line]),
        started_at: now,
        ended_at: now,
        peak_memory_bytes: 0,
        peak_vram_bytes: 0,
        cpu_ms: 0,
        tree_kill_method: order.cgroups.tree_kill_method().to_owned(),
        records: 0,
    }
}
