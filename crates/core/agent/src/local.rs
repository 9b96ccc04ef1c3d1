//! What the agent remembers of one attempt.

use types::{AttemptToken, DurationMs, WantedAttempt};

use crate::action::{Action, AttemptPhase, StopReason};
use crate::agent::AgentConfig;

/// A lease of 5 min is renewed after this, long before a third of it: whenever the majority is lost, four minutes and
/// the election after them fit into what is left.
const LONGEST_UNRENEWED: DurationMs = DurationMs::from_secs(20);

/// An attempt that is wanted here, or here, or both.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) token: AttemptToken,
    pub(crate) rank: u32,
    /// What the newest wanted set says of it.
    pub(crate) wanted: Option<WantedAttempt>,
    /// None: the executor does not have it.
    pub(crate) phase: Option<AttemptPhase>,
    /// The executor has named it; until then its absence from a list says nothing.
    pub(crate) named: bool,
    /// End of the lease on this node's clock since boot.
    pub(crate) deadline: Option<u64>,
    /// When to ask for the lease (again); none: at once.
    pub(crate) ask_at: Option<u64>,
    /// Why it must go, by the leader's word.
    pub(crate) stale: Option<String>,
    /// The hardest stop that was said.
    pub(crate) stopped: Option<StopReason>,
    pub(crate) start_committed: bool,
    /// The deadline that was said with the start.
    pub(crate) started_with: Option<u64>,
    /// The deadline that was said last.
    pub(crate) told: Option<u64>,
    /// When to report (again); none: at once.
    pub(crate) report_at: Option<u64>,
    /// Its end is in the log, or the leader refused it before it started: nothing more to do for it.
    pub(crate) done: bool,
}

impl Local {
    pub(crate) fn new(token: AttemptToken, rank: u32) -> Self {
        Self {
            token,
            rank,
            wanted: None,
            phase: None,
            named: false,
            deadline: None,
            ask_at: None,
            stale: None,
            stopped: None,
            start_committed: false,
            started_with: None,
            told: None,
            report_at: None,
            done: false,
        }
    }

    /// Takes over what the executor says; a phase never goes back.
    pub(crate) fn advance(&mut self, phase: AttemptPhase) {
        let order = |phase: AttemptPhase| match phase {
            AttemptPhase::Preparing => 0,
            AttemptPhase::Running => 1,
            AttemptPhase::Ended => 2,
        };
        if self.phase.is_none_or(|known| order(known) < order(phase)) {
            self.phase = Some(phase);
            self.report_at = None;
            // What was said while it was being prepared may have met no process: it is said again.
            self.stopped = None;
            self.told = self.started_with;
        }
    }

    /// Takes a grant in: the deadline only moves forward, and the next request is due after a third of the length, or
    /// earlier.
    pub(crate) fn grant(&mut self, sent_at: u64, length: DurationMs, config: &AgentConfig) {
        let deadline = (sent_at.saturating_add(length.0)).saturating_sub(config.lease_margin.0);
        if self.deadline.is_none_or(|known| known < deadline) {
            self.deadline = Some(deadline);
            let renewal = (length.0 / 3).min(LONGEST_UNRENEWED.0);
            self.ask_at = Some(sent_at.saturating_add(renewal));
        }
    }

    /// Does what is due at `now`; tokens to ask leases for go to `asks`.
    pub(crate) fn reconcile(
        &mut self,
        now: u64,
        config: &AgentConfig,
        may_start: bool,
        asks: &mut Vec<AttemptToken>,
    ) -> Vec<Action> {
        if self.done {
            return Vec::new();
        }
        match self.phase {
            None => self.reconcile_absent(now, config, may_start, asks),
            Some(AttemptPhase::Preparing | AttemptPhase::Running) => {
                self.reconcile_live(now, config, asks)
            }
            Some(AttemptPhase::Ended) => {
                let report = Action::ReportEnded {
                    token: self.token,
                    rank: self.rank,
                };
                // Storing the records may take long: until the report is in the log, the lease keeps the attempt from
                // being given up and run again.
                if !self.must_die() {
                    self.ask(now, config, asks);
                }
                self.report(now, config, report).into_iter().collect()
            }
        }
    }

    fn reconcile_absent(
        &mut self,
        now: u64,
        config: &AgentConfig,
        may_start: bool,
        asks: &mut Vec<AttemptToken>,
    ) -> Vec<Action> {
        let Some(wanted) = &self.wanted else {
            return Vec::new();
        };
        if !may_start {
            return Vec::new();
        }
        if let Some(by) = wanted.stop_requested_by.clone() {
            let report = Action::ReportNeverStarted {
                token: self.token,
                rank: self.rank,
                by,
            };
            return self.report(now, config, report).into_iter().collect();
        }
        if let Some(deadline) = self.deadline.filter(|deadline| *deadline > now) {
            let wanted = Box::new(wanted.clone());
            self.phase = Some(AttemptPhase::Preparing);
            (self.started_with, self.told) = (self.deadline, self.deadline);
            self.ask(now, config, asks); // A slow answer may have eaten a third of the lease.
            return vec![Action::Start(wanted, deadline)];
        }
        self.ask(now, config, asks);
        Vec::new()
    }

    fn reconcile_live(
        &mut self,
        now: u64,
        config: &AgentConfig,
        asks: &mut Vec<AttemptToken>,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            actions.extend(self.stop(StopReason::LeaseExpired, DurationMs(0)));
        } else if let Some(why) = self.stale.clone() {
            actions.extend(self.stop(StopReason::Stale { why }, DurationMs(0)));
        } else {
            let wanted = self.wanted.as_ref();
            let request = wanted.and_then(|wanted| {
                let by = wanted.stop_requested_by.clone()?;
                Some((by, wanted.spec.policy.stop_grace_ms))
            });
            if let Some((by, grace)) = request {
                actions.extend(self.stop(StopReason::Requested { by }, grace));
            }
        }
        if self.must_die() {
            return actions;
        }
        if let Some(deadline_boottime_ms) = self.deadline.filter(|_| self.told != self.deadline) {
            self.told = self.deadline;
            actions.push(Action::Extend {
                token: self.token,
                deadline_boottime_ms,
            });
        }
        self.ask(now, config, asks);
        if self.phase == Some(AttemptPhase::Running) && !self.start_committed {
            let report = Action::ReportStarted {
                token: self.token,
                rank: self.rank,
            };
            actions.extend(self.report(now, config, report));
        }
        actions
    }

    /// Stopped for a reason after which no lease helps.
    pub(crate) fn must_die(&self) -> bool {
        matches!(
            self.stopped,
            Some(StopReason::Stale { .. } | StopReason::LeaseExpired)
        )
    }

    fn stop(&mut self, reason: StopReason, grace: DurationMs) -> Option<Action> {
        if self.stopped.is_some() && (self.must_die() || grace.0 > 0 || !is_hard(&reason)) {
            return None;
        }
        self.stopped = Some(reason.clone());
        Some(Action::Stop {
            token: self.token,
            reason,
            grace,
        })
    }

    fn ask(&mut self, now: u64, config: &AgentConfig, asks: &mut Vec<AttemptToken>) {
        if self.ask_at.is_none_or(|at| at <= now) {
            self.ask_at = Some(now.saturating_add(config.lease_retry.0));
            asks.push(self.token);
        }
    }

    fn report(&mut self, now: u64, config: &AgentConfig, action: Action) -> Option<Action> {
        if self.report_at.is_some_and(|at| at > now) {
            return None;
        }
        self.report_at = Some(now.saturating_add(config.report_retry.0));
        Some(action)
    }

    /// When this attempt needs a step by time alone.
    pub(crate) fn next_wake(&self) -> Option<u64> {
        let reports = match self.phase {
            _ if self.done => return None,
            None => self
                .wanted
                .as_ref()
                .is_some_and(|wanted| wanted.stop_requested_by.is_some()),
            Some(AttemptPhase::Preparing) => false,
            Some(AttemptPhase::Running) => !self.start_committed && !self.must_die(),
            Some(AttemptPhase::Ended) => true,
        };
        let leases = match self.phase {
            None => !reports, // A stop before the start needs no lease.
            Some(_) => !self.must_die(),
        };
        let report_at = self.report_at.filter(|_| reports);
        let lives = matches!(
            self.phase,
            Some(AttemptPhase::Preparing | AttemptPhase::Running)
        );
        let deadline = self.deadline.filter(|_| leases && lives);
        let ask_at = self.ask_at.filter(|_| leases);
        [report_at, deadline, ask_at].into_iter().flatten().min()
    }
}

fn is_hard(reason: &StopReason) -> bool {
    match reason {
        StopReason::Requested { .. } => false,
        StopReason::Stale { .. } | StopReason::LeaseExpired => true,
    }
}
