//! Wanted and running in, actions out.

use std::collections::{BTreeMap, BTreeSet};

use types::{AttemptToken, DurationMs, Incarnation, LogIndex, WantedSet};

use crate::action::{Action, AttemptPhase, Input, LocalAttempt};
use crate::local::Local;

/// Times of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Taken off each lease, so that the process tree is gone when the lease ends; default 200 ms, four times
    /// what killing a tree of a hundred processes took.
    pub lease_margin: DurationMs,
    /// Time between two requests for the same lease; default 500 ms: six tries in a lease of 5 s.
    pub lease_retry: DurationMs,
    /// Time between two proposals of the same report; default 2 s, longer than an election.
    pub report_retry: DurationMs,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            lease_margin: DurationMs(200),
            lease_retry: DurationMs(500),
            report_retry: DurationMs(2_000),
        }
    }
}

/// The node's side of running attempts. Events wake it, state decides.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    config: AgentConfig,
    /// Highest wanted set seen.
    seen: Option<(Incarnation, LogIndex)>,
    /// The executor has said what it has.
    knows_running: bool,
    attempts: BTreeMap<AttemptToken, Local>,
}

impl Agent {
    /// An agent that knows nothing yet.
    #[must_use]
    pub fn new(config: AgentConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// Takes `input` in at `now_boottime_ms` (this node's clock since boot, which counts sleep) and says what to do.
    pub fn step(&mut self, now_boottime_ms: u64, input: Input) -> Vec<Action> {
        let mut actions = self.take(now_boottime_ms, input);
        let mut asks = Vec::new();
        for local in self.attempts.values_mut() {
            let config = &self.config;
            let may_start = self.knows_running;
            actions.extend(local.reconcile(now_boottime_ms, config, may_start, &mut asks));
        }
        if !asks.is_empty() {
            // First, since everything else can wait for a round trip more easily than a lease.
            actions.insert(0, Action::RequestLease { tokens: asks });
        }
        actions
    }

    /// When to call [`Agent::step`] with [`Input::Tick`] if nothing happens before.
    #[must_use]
    pub fn next_wake(&self) -> Option<u64> {
        self.attempts.values().filter_map(Local::next_wake).min()
    }

    /// The highest (incarnation, index) of a wanted set that was seen.
    #[must_use]
    pub fn seen(&self) -> Option<(Incarnation, LogIndex)> {
        self.seen
    }

    fn take(&mut self, now: u64, input: Input) -> Vec<Action> {
        match input {
            Input::Wanted(set, confirmed) => self.take_wanted(set, confirmed),
            Input::Running(list) => self.take_running(list),
            Input::LeaseGranted {
                token,
                sent_at_boottime_ms,
                length,
            } => self.take_grant(now, token, sent_at_boottime_ms, length),
            Input::LeaseRefused { token, why } => self.take_refusal(token, why),
            Input::Started { token } => self.advance(token, AttemptPhase::Running),
            Input::Ended { token } => self.advance(token, AttemptPhase::Ended),
            Input::StartCommitted { token } => {
                if let Some(local) = self.attempts.get_mut(&token) {
                    local.start_committed = true;
                }
            }
            Input::ReportCommitted { token } => return self.take_committed(token),
            Input::Tick => {}
        }
        Vec::new()
    }

    fn take_wanted(&mut self, set: WantedSet, confirmed: bool) {
        let position = (set.incarnation, set.index);
        if self.seen.is_some_and(|seen| position < seen) {
            return;
        }
        self.seen = Some(position);
        let present: BTreeSet<_> = set.attempts.iter().map(|wanted| wanted.token).collect();
        for wanted in set.attempts {
            let (token, rank) = (wanted.token, wanted.rank);
            let local = self
                .attempts
                .entry(token)
                .or_insert_with(|| Local::new(token, rank));
            local.wanted = Some(wanted);
        }
        for (token, local) in &mut self.attempts {
            // A set from before the placement (an answer that outlived a restart of this process) says nothing of it.
            let is_older = position < (token.incarnation, token.placed_at);
            if present.contains(token) || is_older {
                continue;
            }
            local.wanted = None;
            if confirmed {
                local.stale = Some("the leader does not want it here any more".to_owned());
            } else if local.phase.is_some() && !local.done && local.deadline.is_some() {
                // Absence proves nothing; the leader's answer to a request for the lease does.
                local.ask_at = None;
            }
        }
        self.attempts.retain(|token, local| {
            present.contains(token) || (local.phase.is_some() && !local.done)
        });
    }

    fn take_running(&mut self, list: Vec<LocalAttempt>) {
        self.knows_running = true;
        let present: BTreeSet<_> = list.iter().map(|attempt| attempt.token).collect();
        for attempt in list {
            let local = self
                .attempts
                .entry(attempt.token)
                .or_insert_with(|| Local::new(attempt.token, attempt.rank));
            if !local.done {
                local.named = true;
                local.advance(attempt.phase);
            }
        }
        for local in self.attempts.values_mut() {
            if local.named && !local.done && !present.contains(&local.token) {
                local.advance(AttemptPhase::Ended);
            }
        }
    }

    fn take_grant(&mut self, now: u64, token: AttemptToken, sent_at: u64, length: DurationMs) {
        let Some(local) = self.attempts.get_mut(&token) else {
            return;
        };
        let over = local.deadline.is_some_and(|deadline| deadline <= now) && local.phase.is_some();
        let dead = local.done || local.must_die() || local.stale.is_some();
        if !over && !dead && sent_at <= now {
            local.grant(sent_at, length, &self.config);
        }
    }

    fn take_refusal(&mut self, token: AttemptToken, why: String) {
        if let Some(local) = self.attempts.get_mut(&token) {
            // Not started: never will be. It is kept until the wanted set drops it, so that it is not asked for again.
            local.done |= local.phase.is_none();
            local.stale = Some(why);
        }
    }

    fn advance(&mut self, token: AttemptToken, phase: AttemptPhase) {
        if let Some(local) = self.attempts.get_mut(&token) {
            local.named = true;
            local.advance(phase);
        }
    }

    fn take_committed(&mut self, token: AttemptToken) -> Vec<Action> {
        let Some(local) = self.attempts.get_mut(&token) else {
            return Vec::new();
        };
        // One that could not be prepared is reported by the caller without ever having run.
        let was_here = local.phase.is_some();
        if local.done || local.phase == Some(AttemptPhase::Running) {
            return Vec::new();
        }
        local.done = true;
        if local.wanted.is_none() {
            self.attempts.remove(&token);
        }
        if was_here {
            vec![Action::Release { token }]
        } else {
            Vec::new()
        }
    }
}
