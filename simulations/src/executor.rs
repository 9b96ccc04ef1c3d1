//! Holders and their processes, as far as leases see them.

use agent::AttemptPhase;
use bytes::Bytes;
use state_machine::{AttemptEnd, AttemptReport};
use types::{AttemptToken, Cause, CauseKind, DurationMs, WantedAttempt};

use crate::world::{Event, Plant, World};

/// Longest time that killing a process tree takes; less than the agent's margin.
const KILL_MS: u64 = 100;

/// A holder with its process tree.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) phase: AttemptPhase,
    /// On the machine's clock.
    deadline: u64,
    /// Why it ended, or would if nothing else ended it.
    cause: CauseKind,
    work_ms: u64,
}

/// What happens to a process.
#[derive(Clone, Debug)]
pub(crate) enum ProcessStep {
    /// Source tree and environment are there.
    Prepared,
    /// It has done its work.
    Finished,
    /// Its deadline, as it was when this was planned; a later one has its own step.
    Deadline { planned: u64 },
    /// Its tree is gone, by the holder's deadline or a stop.
    Killed(CauseKind),
}

impl World {
    pub(crate) fn start_attempt(&mut self, node: usize, wanted: &WantedAttempt, deadline: u64) {
        let token = wanted.token;
        if self.machines[node].processes.contains_key(&token) {
            return; // The executor knows each token once.
        }
        let cause = match self.random.range(0..10) {
            0 => CauseKind::ExitCode(1),
            1 => CauseKind::Signal(9),
            _ => CauseKind::Finished,
        };
        let work_ms = match self.random.range(0..20) {
            0 => self.random.range(700_000..900_000),
            1..4 => self.random.range(1..50),
            _ => self.random.range(1_000..60_000),
        };
        let process = Process {
            phase: AttemptPhase::Preparing,
            deadline,
            cause,
            work_ms,
        };
        self.machines[node].processes.insert(token, process);
        // A large source tree takes longer than a lease.
        let longest = if self.random.chance(100) { 15_000 } else { 400 };
        let delay = self.random.range(5..longest);
        self.plan(node, token, delay, ProcessStep::Prepared);
        self.plan_deadline(node, token, deadline);
    }

    pub(crate) fn extend_process(&mut self, node: usize, token: AttemptToken, deadline: u64) {
        if let Some(process) = self.machines[node].processes.get_mut(&token) {
            process.deadline = process.deadline.max(deadline);
            self.plan_deadline(node, token, deadline);
        }
    }

    pub(crate) fn stop_process(
        &mut self,
        node: usize,
        token: AttemptToken,
        cause: CauseKind,
        grace: DurationMs,
    ) {
        let delay = self.random.range(1..KILL_MS) + self.random.range(0..grace.0 + 1);
        self.plan(node, token, delay, ProcessStep::Killed(cause));
    }

    fn plan(&mut self, node: usize, token: AttemptToken, delay: u64, step: ProcessStep) {
        let boot = self.machines[node].boot;
        self.after(
            delay,
            Event::Process {
                node,
                boot,
                token,
                step,
            },
        );
    }

    fn plan_deadline(&mut self, node: usize, token: AttemptToken, deadline: u64) {
        // On its own clock, to the millisecond: a drift of 1 % would cost the margin of a long lease.
        let left = deadline.saturating_sub(self.machines[node].clock(self.now));
        let step = ProcessStep::Deadline { planned: deadline };
        self.plan(node, token, (left - left / 100).max(1), step);
    }

    pub(crate) fn process(
        &mut self,
        node: usize,
        boot: u64,
        token: AttemptToken,
        step: ProcessStep,
    ) -> Result<(), String> {
        let clock = self.machines[node].clock(self.now);
        if self.machines[node].boot != boot {
            return Ok(());
        }
        let Some(process) = self.machines[node].processes.get_mut(&token) else {
            return Ok(());
        };
        if process.phase == AttemptPhase::Ended {
            return Ok(());
        }
        match step {
            ProcessStep::Prepared => {
                process.phase = AttemptPhase::Running;
                let work = process.work_ms;
                self.plan(node, token, work, ProcessStep::Finished);
                self.check_start(node, token)?;
                self.tell_phase(node, token, AttemptPhase::Running);
            }
            ProcessStep::Finished => self.end_process(node, token, None),
            ProcessStep::Deadline { planned } if planned != process.deadline => {}
            ProcessStep::Deadline { planned } if clock < planned => {
                self.plan_deadline(node, token, planned);
            }
            ProcessStep::Deadline { .. } => {
                if self.plant != Plant::DeafHolder {
                    let delay = self.random.range(1..KILL_MS);
                    let step = ProcessStep::Killed(CauseKind::LeaseExpired);
                    self.plan(node, token, delay, step);
                }
            }
            ProcessStep::Killed(_) if self.plant == Plant::DeafHolder => {}
            ProcessStep::Killed(cause) => self.end_process(node, token, Some(cause)),
        }
        Ok(())
    }

    /// The process tree is gone, and its holder has stored why.
    pub(crate) fn end_process(
        &mut self,
        node: usize,
        token: AttemptToken,
        cause: Option<CauseKind>,
    ) {
        if let Some(process) = self.machines[node].processes.get_mut(&token) {
            process.phase = AttemptPhase::Ended;
            process.cause = cause.unwrap_or(process.cause.clone());
        }
        if let Some(running) = self.running.get_mut(&token.experiment) {
            running.retain(|(on, other)| (*on, *other) != (node, token));
        }
        self.tell_phase(node, token, AttemptPhase::Ended);
    }

    pub(crate) fn end_report(&self, node: usize, token: AttemptToken) -> AttemptReport {
        let process = self.machines[node].processes.get(&token);
        let kind = process.map_or(CauseKind::HolderFailed, |process| process.cause.clone());
        self.ended(node, kind)
    }

    pub(crate) fn never_started(&self, node: usize, by: String) -> AttemptReport {
        self.ended(node, CauseKind::Stopped { by })
    }

    fn ended(&self, node: usize, kind: CauseKind) -> AttemptReport {
        AttemptReport::Ended {
            end: AttemptEnd {
                cause: Cause::new(kind, vec!["seen by the simulated holder".to_owned()]),
                at: self.machines[node].wall(self.now),
                peak_memory_bytes: 0,
                cpu_ms: DurationMs(0),
                tree_kill_method: String::new(),
            },
            segments: Vec::new(),
            inline_records: Bytes::new(),
        }
    }
}
