//! Holders and their processes, as far as leases see them.

use agent::{AttemptPhase, Input};
use bytes::Bytes;
use state_machine::{AttemptEnd, AttemptReport};
use types::{AttemptToken, Cause, CauseKind, DurationMs};

use super::{Effect, Host, TimerKind};

/// Longest time that killing a process tree takes; less than the agent's margin.
const KILL_MS: u64 = 100;

/// A holder with its process tree.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) rank: u32,
    pub(super) phase: AttemptPhase,
    /// On the machine's clock.
    deadline: u64,
    /// Why it ended, or would if nothing else ended it.
    cause: CauseKind,
    work_ms: u64,
    /// Its deadline passed while the machine slept.
    overslept: bool,
}

/// What happens to a holder.
#[derive(Clone, Debug)]
pub enum HolderStep {
    /// Source tree and environment are there.
    Prepared,
    /// It has done its work.
    Finished,
    /// Its deadline, as it was when this was planned; a later one has its own step.
    Deadline {
        /// On the machine's clock.
        planned: u64,
    },
    /// Its tree is gone, by the holder's deadline or a stop.
    Killed(CauseKind),
}

impl Host {
    pub(super) fn start_holder(
        &mut self,
        now: u64,
        (token, rank): (AttemptToken, u32),
        deadline: u64,
    ) -> Vec<Effect> {
        if self.holders.contains_key(&token) {
            return Vec::new(); // The executor knows each token once.
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
        let holder = Holder {
            rank,
            phase: AttemptPhase::Preparing,
            deadline,
            cause,
            work_ms,
            overslept: false,
        };
        self.holders.insert(token, holder);
        // A large source tree takes longer than a lease.
        let longest = if self.random.chance(100) { 15_000 } else { 400 };
        let after = self.random.range(5..longest);
        let step = if self.disk_full {
            HolderStep::Killed(CauseKind::DiskFull)
        } else {
            HolderStep::Prepared
        };
        vec![
            self.plan(token, after, step),
            self.plan_deadline(now, token, deadline),
        ]
    }

    pub(super) fn extend_holder(
        &mut self,
        now: u64,
        token: AttemptToken,
        deadline: u64,
    ) -> Option<Effect> {
        let holder = self.holders.get_mut(&token)?;
        holder.deadline = holder.deadline.max(deadline);
        Some(self.plan_deadline(now, token, deadline))
    }

    pub(super) fn stop_holder(
        &mut self,
        token: AttemptToken,
        cause: CauseKind,
        grace: DurationMs,
    ) -> Vec<Effect> {
        let after = self.random.range(1..KILL_MS) + self.random.range(0..grace.0 + 1);
        vec![self.plan(token, after, HolderStep::Killed(cause))]
    }

    fn plan(&self, token: AttemptToken, after: u64, step: HolderStep) -> Effect {
        Effect::Timer(after, self.timer(TimerKind::Holder { token, step }))
    }

    fn plan_deadline(&self, now: u64, token: AttemptToken, deadline: u64) -> Effect {
        // On its own clock, to the millisecond: a drift of 1 % would cost the margin of a long lease.
        let left = deadline.saturating_sub(self.clock(now));
        let step = HolderStep::Deadline { planned: deadline };
        self.plan(token, (left - left / 100).max(1), step)
    }

    pub(super) fn holder_step(
        &mut self,
        now: u64,
        token: AttemptToken,
        step: HolderStep,
    ) -> Vec<Effect> {
        let clock = self.clock(now);
        let deaf = self.bugs.deaf_holder;
        let Some(holder) = self.holders.get_mut(&token) else {
            return Vec::new();
        };
        if holder.phase == AttemptPhase::Ended {
            return Vec::new();
        }
        match step {
            // The holder looks at the clock before it starts anything.
            HolderStep::Prepared if clock >= holder.deadline && !deaf => {
                self.end(now, token, Some(CauseKind::LeaseExpired))
            }
            HolderStep::Prepared => {
                holder.phase = AttemptPhase::Running;
                let work = holder.work_ms;
                let mut effects = vec![Effect::Started(token)];
                effects.push(self.plan(token, work, HolderStep::Finished));
                effects.extend(self.take(now, Input::Started { token }));
                effects
            }
            HolderStep::Finished if holder.phase == AttemptPhase::Running => {
                self.end(now, token, None)
            }
            HolderStep::Finished => Vec::new(),
            HolderStep::Deadline { planned } if planned != holder.deadline => Vec::new(),
            HolderStep::Deadline { planned } if clock < planned => {
                vec![self.plan_deadline(now, token, planned)]
            }
            HolderStep::Deadline { .. } if deaf => Vec::new(),
            HolderStep::Deadline { .. } => {
                let after = self.random.range(1..KILL_MS);
                vec![self.plan(token, after, HolderStep::Killed(CauseKind::LeaseExpired))]
            }
            HolderStep::Killed(_) if deaf => Vec::new(),
            HolderStep::Killed(cause) => self.end(now, token, Some(cause)),
        }
    }

    /// The process tree is gone, and its holder has stored why.
    fn end(&mut self, now: u64, token: AttemptToken, cause: Option<CauseKind>) -> Vec<Effect> {
        let Some(holder) = self.holders.get_mut(&token) else {
            return Vec::new();
        };
        holder.phase = AttemptPhase::Ended;
        holder.cause = cause.unwrap_or(holder.cause.clone());
        let mut effects = vec![Effect::Over(token)];
        effects.extend(self.take(now, Input::Ended { token }));
        effects
    }

    /// Everything on the machine dies at once.
    pub(super) fn end_all(&mut self, cause: &CauseKind) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (token, holder) in &mut self.holders {
            if holder.phase != AttemptPhase::Ended {
                holder.phase = AttemptPhase::Ended;
                holder.cause = cause.clone();
                effects.push(Effect::Over(*token));
            }
        }
        effects
    }

    /// At the end of a sleep: whose lease ended meanwhile is dying, and is fenced until it is dead.
    pub(super) fn note_oversleeping(&mut self, now: u64) {
        let clock = self.clock(now);
        for holder in self.holders.values_mut() {
            holder.overslept |= holder.deadline <= clock;
        }
    }

    /// Its machine sleeps or has overslept the end of its lease: the stated exception of invariant 11, of which only
    /// the reports matter, and they are fenced.
    #[must_use]
    pub fn is_fenced(&self, now: u64, token: &AttemptToken) -> bool {
        self.holders.get(token).is_some_and(|holder| {
            holder.overslept || (self.suspended && holder.deadline <= self.clock(now))
        })
    }

    pub(super) fn end_report(&self, now: u64, token: AttemptToken) -> AttemptReport {
        let holder = self.holders.get(&token);
        let kind = holder.map_or(CauseKind::HolderFailed, |holder| holder.cause.clone());
        self.ended(now, kind)
    }

    pub(super) fn ended(&self, now: u64, kind: CauseKind) -> AttemptReport {
        AttemptReport::Ended {
            end: AttemptEnd {
                cause: Cause::new(kind, vec!["seen by the simulated holder".to_owned()]),
                at: self.wall(now),
                peak_memory_bytes: 0,
                peak_vram_bytes: 0,
                cpu_ms: DurationMs(0),
                tree_kill_method: String::new(),
                outputs: None,
            },
            segments: Vec::new(),
            inline_records: Bytes::new(),
        }
    }
}
