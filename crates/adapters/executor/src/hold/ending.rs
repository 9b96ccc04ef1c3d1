//! Why the attempt ended, from everything that was seen, with the lines that a person can check.

use rustix::process::WaitStatus;
use types::{Cause, CauseKind, DurationMs, bytes_text};

use super::launch::LaunchError;
use crate::clock::wall_clock;
use crate::protocol::StopReason;
use crate::stored::{Ended, OrderV1};

/// What to do about an end for over-use.
const ASK_FOR_VRAM: &str = "ask for more with --vram, or for a whole GPU with --gpus 1; what the driver counts for its processes is what it holds, CUDA's own part included";

/// What was seen.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) command: &'a [String],
    /// How the main process ended; none if it could not be killed.
    pub(super) exit: Option<WaitStatus>,
    pub(super) launch_error: Option<LaunchError>,
    /// The holder's own failure.
    pub(super) failure: Option<(CauseKind, String)>,
    /// The first reason to stop it, and what was done.
    pub(super) stop: Option<(&'a StopReason, String)>,
    /// Kills by the memory limit; none if nobody counts.
    pub(super) memory_kills: Option<u64>,
    pub(super) memory_limit_bytes: u64,
    /// How often it was not let make another process or thread; none if nobody counts.
    pub(super) refused_forks: Option<u64>,
    pub(super) max_processes: u32,
    pub(super) peak_memory_bytes: u64,
    pub(super) ran: DurationMs,
    pub(super) stderr_lines: Vec<String>,
}

/// The cause; its evidence is never empty.
pub(super) fn cause(facts: Facts<'_>) -> Cause {
    let how = describe_exit(facts.exit, facts.ran);
    let forks = forks_line(&facts);
    if let Some(error) = facts.launch_error {
        return not_launched(facts.command, error);
    }
    if let Some((kind, text)) = facts.failure {
        return Cause::new(kind, vec![text, how]);
    }
    if let Some((reason, done)) = facts.stop {
        let mut evidence = [vec![done, how], forks].concat();
        let kind = match reason {
            StopReason::Requested { by } => CauseKind::Stopped { by: by.clone() },
            StopReason::TimeLimit => CauseKind::TimeLimit,
            StopReason::LeaseLost => CauseKind::LeaseExpired,
            StopReason::VramOveruse { .. } => {
                evidence.push(ASK_FOR_VRAM.to_owned());
                CauseKind::VramOveruse
            }
            StopReason::GpuFailed { gpu, problem } => CauseKind::GpuFailed {
                gpu: *gpu,
                problem: problem.clone(),
            },
        };
        return Cause::new(kind, evidence);
    }
    let code = facts.exit.and_then(WaitStatus::exit_status);
    if code == Some(0) {
        return Cause::new(CauseKind::Finished, vec![how]);
    }
    let mut evidence = vec![how];
    let kind = match (facts.memory_kills, code) {
        (Some(kills @ 1..), _) => {
            evidence.push(format!(
                "the kernel's memory limit killed {kills} of its processes: limit {} ({} bytes), most held {} ({} bytes)",
                bytes_text(facts.memory_limit_bytes),
                facts.memory_limit_bytes,
                bytes_text(facts.peak_memory_bytes),
                facts.peak_memory_bytes
            ));
            evidence.push("ask for more with --memory".to_owned());
            CauseKind::HostOutOfMemory
        }
        (_, Some(code)) => CauseKind::ExitCode(code),
        (_, None) => match facts.exit.and_then(WaitStatus::terminating_signal) {
            Some(signal) => CauseKind::Signal(signal),
            None => CauseKind::HolderFailed,
        },
    };
    evidence.extend(forks);
    evidence.extend(
        facts
            .stderr_lines
            .into_iter()
            .map(|line| format!("stderr: {line}")),
    );
    Cause::new(kind, evidence)
}

/// Says so when the limit of processes was met: a fork bomb, or a limit that is too low.
fn forks_line(facts: &Facts<'_>) -> Vec<String> {
    let line = |times| {
        format!(
            "{times} times it was not let make another process: limit {} processes and threads",
            facts.max_processes
        )
    };
    let met = facts.refused_forks.filter(|times| *times > 0);
    met.map(line).into_iter().collect()
}

fn not_launched(command: &[String], error: LaunchError) -> Cause {
    let command = command.first().cloned().unwrap_or_default();
    match error {
        LaunchError::Command { error } => {
            let evidence = vec![format!("starting {command:?}: {error}")];
            Cause::new(CauseKind::CommandNotFound { command }, evidence)
        }
        LaunchError::WorkingDirectory { error } => Cause::new(
            CauseKind::SourceTree,
            vec![format!("working directory {error}")],
        ),
        LaunchError::Preparation { error } => Cause::new(
            CauseKind::HolderFailed,
            vec![format!("the job process could not be prepared: {error}")],
        ),
    }
}

fn describe_exit(exit: Option<WaitStatus>, ran: DurationMs) -> String {
    let code = exit.and_then(WaitStatus::exit_status);
    let signal = exit.and_then(WaitStatus::terminating_signal);
    match (code, signal) {
        (Some(code), _) => format!("the command ended with exit code {code} after {ran}"),
        (None, Some(signal)) => format!("the command was ended by signal {signal} after {ran}"),
        (None, None) => format!("the command had not ended after {ran}"),
    }
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
