//! Deadlines and the way to the end: SIGTERM, grace, SIGKILL of the whole tree, again until nobody is left.

use rustix::process::Signal;
use types::DurationMs;

use super::Supervisor;
use crate::clock::boottime_ms;
use crate::hold::HoldError;
use crate::hold::console::say;
use crate::process_tree;
use crate::protocol::StopReason;
use crate::python;
use crate::stored::OrderV1;

/// Processes that outlive the command get this long to end by themselves, such as a `tee` that still
/// writes the last lines.
const LEFTOVER_GRACE_MS: u64 = 500;
/// Orphans are looked for at this interval once the command has ended, and killed again if they must go.
const TREE_CHECK_INTERVAL_MS: u64 = 20;
/// A Python program needs so long at most to write its stacks before SIGTERM, which may end it at once.
const STACKS_LIMIT_MS: u64 = 200;
/// Who survives SIGKILL this long hangs in the kernel; the attempt ends and says so.
const UNKILLABLE_LIMIT_MS: u64 = 30_000;

/// What is known of the end to come.
#[derive(Debug)]
pub(super) struct Stopping {
    /// The lease.
    pub(super) deadline_ms: u64,
    margin_ms: u64,
    time_limit_at_ms: Option<u64>,
    grace_ms: u64,
    /// First reason and what was done about it.
    reason: Option<(StopReason, String)>,
    term_at_ms: Option<u64>,
    kill_at_ms: Option<u64>,
    killing_since_ms: Option<u64>,
    leftovers_since_ms: Option<u64>,
}

impl Stopping {
    pub(super) fn new(order: &OrderV1, started_ms: u64) -> Self {
        let limited = order.time_limit_ms > 0;
        Self {
            deadline_ms: order.deadline_boottime_ms,
            margin_ms: order.stop_margin_ms,
            time_limit_at_ms: limited.then_some(started_ms.saturating_add(order.time_limit_ms)),
            grace_ms: order.stop_grace_ms,
            reason: None,
            term_at_ms: None,
            kill_at_ms: None,
            killing_since_ms: None,
            leftovers_since_ms: None,
        }
    }

    /// Pushes the lease forward, never back.
    pub(super) fn extend(&mut self, deadline_ms: u64) {
        self.deadline_ms = self.deadline_ms.max(deadline_ms);
    }

    fn lease_end_ms(&self) -> u64 {
        self.deadline_ms.saturating_sub(self.margin_ms)
    }

    /// Killing was tried long enough.
    pub(super) fn gave_up(&self, now_ms: u64) -> bool {
        self.killing_since_ms
            .is_some_and(|since| now_ms >= since + UNKILLABLE_LIMIT_MS)
    }

    pub(super) fn reason_with_evidence(&self) -> Option<(&StopReason, String)> {
        let (reason, done) = self.reason.as_ref()?;
        Some((reason, done.clone()))
    }

    /// When something is to be done next.
    pub(super) fn next_wake_ms(&self, main_ended: bool, now_ms: u64) -> Option<u64> {
        if main_ended || self.killing_since_ms.is_some() {
            return Some(now_ms + TREE_CHECK_INTERVAL_MS);
        }
        let time_limit = self.time_limit_at_ms.filter(|_at| self.reason.is_none());
        let due = [self.term_at_ms, self.kill_at_ms];
        [Some(self.lease_end_ms()), time_limit]
            .into_iter()
            .chain(due)
            .flatten()
            .min()
    }
}

impl Supervisor {
    /// Does what deadlines ask for.
    pub(super) fn enforce(&mut self, now_ms: u64) -> Result<(), HoldError> {
        if self.job.exit.is_some() && self.job.tree_is_gone {
            return Ok(());
        }
        if self.stopping.killing_since_ms.is_some() {
            return self.kill_tree();
        }
        if self.failure.is_some() {
            return self.begin_kill(now_ms);
        }
        if now_ms >= self.stopping.lease_end_ms() {
            self.stop(StopReason::LeaseLost, 0, now_ms)?;
        }
        let over = |at: Option<u64>| at.is_some_and(|at| now_ms >= at);
        if self.stopping.reason.is_none() && over(self.stopping.time_limit_at_ms) {
            self.stop(StopReason::TimeLimit, self.stopping.grace_ms, now_ms)?;
        }
        if over(self.stopping.kill_at_ms) {
            return self.begin_kill(now_ms);
        }
        if over(self.stopping.term_at_ms) {
            self.stopping.term_at_ms = None;
            self.signal_tree(Signal::TERM)?;
        }
        self.end_leftovers(now_ms)
    }

    /// Begins to stop the tree, or hastens it. Only the first reason counts; one that comes after the
    /// command has ended by itself does not.
    pub(super) fn stop(
        &mut self,
        reason: StopReason,
        grace_ms: u64,
        now_ms: u64,
    ) -> Result<(), HoldError> {
        let kill_at_ms = now_ms.saturating_add(grace_ms);
        let earlier = self.stopping.kill_at_ms.unwrap_or(u64::MAX);
        self.stopping.kill_at_ms = Some(earlier.min(kill_at_ms));
        if self.stopping.reason.is_some() || self.job.exit.is_some() {
            return Ok(());
        }
        let why = match &reason {
            StopReason::Requested { by } => format!("stop asked for by {by}"),
            StopReason::TimeLimit => {
                format!("time limit of {}", DurationMs(self.order.time_limit_ms))
            }
            StopReason::LeaseLost => "the node's lease ended without being renewed".to_owned(),
            StopReason::RuleMet { rule } => format!("its rule {rule}"),
            StopReason::VramOveruse { figures } => format!("it holds {figures}"),
            StopReason::GpuFailed { gpu, problem } => format!("GPU {gpu} failed: {problem}"),
        };
        let line = if grace_ms == 0 {
            format!("{why}: SIGKILL at once")
        } else {
            self.begin_stop(&why, grace_ms, now_ms)?
        };
        say(&mut self.recorder, &line);
        self.stopping.reason = Some((reason, line));
        Ok(())
    }

    /// Asks Python programs where they are, if the grace allows, and all to end; says what was done.
    fn begin_stop(&mut self, why: &str, grace_ms: u64, now_ms: u64) -> Result<String, HoldError> {
        let grace = DurationMs(grace_ms);
        let asked = match grace_ms > STACKS_LIMIT_MS {
            true => python::ask_for_stacks(std::process::id()).map_err(HoldError::Signal)?,
            false => 0,
        };
        if asked == 0 {
            let told = self.signal_tree(Signal::TERM)?;
            return Ok(format!(
                "{why}: SIGTERM to {told} processes, SIGKILL after {grace}"
            ));
        }
        self.stopping.term_at_ms = Some(now_ms.saturating_add(STACKS_LIMIT_MS));
        Ok(format!(
            "{why}: stacks of {}, then SIGTERM to all, SIGKILL after {grace}",
            python::processes(asked)
        ))
    }

    fn end_leftovers(&mut self, now_ms: u64) -> Result<(), HoldError> {
        if self.job.exit.is_none() {
            return Ok(());
        }
        let since_ms = *self.stopping.leftovers_since_ms.get_or_insert(now_ms);
        let stopping = self.stopping.kill_at_ms.is_some();
        if stopping || now_ms < since_ms + LEFTOVER_GRACE_MS {
            return Ok(());
        }
        let left = process_tree::descendants(std::process::id()).map_err(HoldError::Signal)?;
        let names: Vec<String> = left
            .iter()
            .take(8)
            .map(|process| format!("{} ({})", process.name, process.pid))
            .collect();
        let line = format!(
            "{} processes still ran after the command had ended and were killed: {}",
            left.len(),
            names.join(", ")
        );
        say(&mut self.recorder, &line);
        self.begin_kill(now_ms)
    }

    fn begin_kill(&mut self, now_ms: u64) -> Result<(), HoldError> {
        self.stopping.killing_since_ms.get_or_insert(now_ms);
        self.kill_tree()?;
        // What died at once need not wait for the next look.
        self.job.reap().map_err(HoldError::Signal)?;
        if let Some((_reason, done)) = &mut self.stopping.reason {
            let took = DurationMs(boottime_ms().saturating_sub(now_ms));
            let method = self.cgroups.kill_method();
            done.push_str(&format!("; killed by {method} in {took}"));
        }
        Ok(())
    }

    /// Kills by cgroup, and by the walk whatever is not in it: a process may have left its cgroup, or was
    /// forked before the tree was moved in.
    fn kill_tree(&self) -> Result<(), HoldError> {
        if let Err(error) = self.cgroups.kill() {
            self.recorder
                .log(&format!("the cgroup could not be killed: {error}"));
        }
        self.signal_tree(Signal::KILL).map(drop)
    }

    /// Signals everyone below this subreaper; returns how many.
    fn signal_tree(&self, signal: Signal) -> Result<usize, HoldError> {
        let mut count = 0;
        let tree = process_tree::descendants(std::process::id()).map_err(HoldError::Signal)?;
        for process in tree {
            match process_tree::signal(&process, signal) {
                Ok(true) => count += 1,
                Ok(false) => {}
                Err(error) => {
                    let problem = format!("process {} gets no signal: {error}", process.pid);
                    self.recorder.log(&problem);
                }
            }
        }
        Ok(count)
    }
}
