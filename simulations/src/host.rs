//! One machine: its clocks, its node process with the real agent, and the holders that outlive it.
//!
//! Knows nothing of the log or the network: inputs and timers in, [`Effect`]s out.

mod holder;

use std::collections::BTreeMap;

use agent::{Action, Agent, AgentConfig, AttemptPhase, Input, LocalAttempt, StopReason};
use state_machine::{AttemptReport, ReportAttempt};
use types::{AttemptToken, DurationMs, NodeId, NodeReport, Timestamp};

pub use holder::HolderStep;

use crate::random::Random;
use holder::Holder;

/// What a machine gives to attempts.
pub const HOST_CPU_MILLI: u64 = 4_000;
/// What a machine gives to attempts.
pub const HOST_MEMORY_BYTES: u64 = 8 << 30;

/// Bugs on purpose.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostBugs {
    /// The node counts its lease from the answer instead of the request.
    pub count_from_answer: bool,
    /// The holder does not end its process tree at the deadline.
    pub deaf_holder: bool,
}

/// What a machine wants of the world, and what happened on it.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Ask whoever leads, directly or through any member. The answer goes to [`Host::take_leases`].
    AskLeases {
        /// For these.
        tokens: Vec<AttemptToken>,
        /// When, on this machine's clock since boot.
        sent_at: u64,
        /// Start of the node process: an answer for another one is lost with it.
        start: u64,
    },
    /// Tell whoever leads.
    Report(Box<ReportAttempt>),
    /// Call [`Host::fire`] after so many true milliseconds.
    Timer(u64, Timer),
    /// Its process runs from now on.
    Started(AttemptToken),
    /// Its process tree is gone.
    Over(AttemptToken),
    /// The agent ends it, and says why.
    Stopped(AttemptToken, StopReason),
    /// The agent took a grant in.
    Granted(AttemptToken),
}

/// Something that is due on a machine.
#[derive(Clone, Debug)]
pub struct Timer {
    boot: u64,
    kind: TimerKind,
}

#[derive(Clone, Debug)]
enum TimerKind {
    Agent {
        start: u64,
        due: u64,
    },
    Holder {
        token: AttemptToken,
        step: HolderStep,
    },
}

/// Answers to a lease request: granted with the length, or refused with the reason.
pub type LeaseAnswers = Vec<(AttemptToken, Result<DurationMs, String>)>;

/// A machine and whatever survives its node process.
#[derive(Debug)]
pub struct Host {
    /// Place in the world.
    pub number: usize,
    /// Who it is to the others.
    pub id: NodeId,
    /// Speed of its clock over true time, in millionths: any two are within 1 %.
    drift_ppm: i64,
    /// Its wall clock minus true time; may jump.
    pub wall_offset_ms: i64,
    /// Raised by each start of the machine.
    pub boot: u64,
    booted_at: u64,
    /// Raised by each start of the node process.
    pub start: u64,
    /// The machine is on.
    pub powered: bool,
    /// Asleep: nothing runs, the clock since boot goes on.
    pub suspended: bool,
    /// Starts nothing new: no room.
    pub disk_full: bool,
    agent: Option<Agent>,
    holders: BTreeMap<AttemptToken, Holder>,
    reports: u64,
    /// True time of the agent's next planned wake, so that wakes do not pile up.
    wake_at: Option<u64>,
    /// Was due while it slept.
    slept_through: Vec<Timer>,
    bugs: HostBugs,
    random: Random,
}

impl Host {
    /// A machine that is on, without a node process yet.
    ///
    /// # Panics
    /// There are names for sixteen.
    #[must_use]
    pub fn new(number: usize, bugs: HostBugs, random: &mut Random) -> Self {
        let letter = char::from(b"abcdefghijkmnopq"[number]);
        let drift = i64::try_from(random.range(0..9_900)).expect("small");
        let wall = i64::try_from(random.range(0..4_000)).expect("small");
        Self {
            number,
            id: format!("node{letter}")
                .parse()
                .expect("the names are base58"),
            drift_ppm: drift - 4_950,
            wall_offset_ms: wall,
            boot: 1,
            booted_at: 0,
            start: 0,
            powered: true,
            suspended: false,
            disk_full: false,
            agent: None,
            holders: BTreeMap::new(),
            reports: 0,
            wake_at: None,
            slept_through: Vec::new(),
            bugs,
            random: random.fork(),
        }
    }

    /// Its node process runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.agent.is_some() && !self.suspended
    }

    /// Its clock since boot.
    ///
    /// # Panics
    /// After a few million years.
    #[must_use]
    pub fn clock(&self, now: u64) -> u64 {
        let since = i64::try_from(now - self.booted_at).expect("a few hours");
        u64::try_from(since + since * self.drift_ppm / 1_000_000).expect("drift is small")
    }

    /// Its wall clock.
    #[must_use]
    pub fn wall(&self, now: u64) -> Timestamp {
        Timestamp((10_000_000 + now).saturating_add_signed(self.wall_offset_ms))
    }

    /// True milliseconds from `now` until its clock shows `clock`, surely.
    #[must_use]
    pub fn until(&self, now: u64, clock: u64) -> u64 {
        let left = clock.saturating_sub(self.clock(now));
        // One per cent more and a bit, so that the clock has surely come there.
        if left == 0 { 0 } else { left + left / 100 + 1 }
    }

    /// Its gossip.
    pub fn node_report(&mut self, now: u64) -> NodeReport {
        self.reports += 1;
        NodeReport {
            node: self.id.clone(),
            node_started_at: Timestamp(self.start),
            sequence: self.reports,
            taken_at: self.wall(now),
            boot_id: self.boot,
            cpu_milli: HOST_CPU_MILLI,
            cpu_busy_milli: 0,
            memory_bytes: HOST_MEMORY_BYTES,
            memory_used_bytes: 0,
            disk_free_bytes: if self.disk_full { 0 } else { 100 << 30 },
            gpus: Vec::new(),
            declared: Vec::new(),
            warnings: Vec::new(),
            refuses_work: self.disk_full,
        }
    }

    /// Starts the node process: it adopts what its holders have. Does nothing if it runs or the machine is off.
    pub fn start_node(&mut self, now: u64) -> Vec<Effect> {
        if !self.powered || self.suspended || self.agent.is_some() {
            return Vec::new();
        }
        self.start += 1;
        self.wake_at = None;
        self.agent = Some(Agent::new(AgentConfig::default()));
        let local = |(token, holder): (&AttemptToken, &Holder)| LocalAttempt {
            token: *token,
            rank: holder.rank,
            phase: holder.phase,
        };
        let list = self.holders.iter().map(local).collect();
        self.take(now, Input::Running(list))
    }

    /// The node process dies; its holders do not.
    pub fn stop_node(&mut self) {
        self.agent = None;
    }

    /// The power goes, with everything on the machine.
    pub fn power_off(&mut self, now: u64) -> Vec<Effect> {
        self.agent = None;
        self.powered = false;
        self.suspended = false;
        self.slept_through.clear();
        self.boot += 1;
        self.booted_at = now;
        self.end_all(&types::CauseKind::NodeRestarted)
    }

    /// The power is back; the clock since boot begins anew.
    pub fn power_on(&mut self, now: u64) -> Vec<Effect> {
        if self.powered {
            return Vec::new();
        }
        self.powered = true;
        self.booted_at = now;
        self.start_node(now)
    }

    /// Puts the machine to sleep.
    pub fn suspend(&mut self) {
        self.suspended = self.powered;
    }

    /// Wakes it: all that was due happens now.
    pub fn resume(&mut self, now: u64) -> Vec<Effect> {
        self.suspended = false;
        self.note_oversleeping(now);
        let due = std::mem::take(&mut self.slept_through);
        let due = due.into_iter().map(|timer| Effect::Timer(1, timer));
        let mut effects: Vec<_> = due.collect();
        // Somebody may have wanted to start it meanwhile.
        effects.extend(self.start_node(now));
        effects
    }

    /// Something is due.
    pub fn fire(&mut self, now: u64, timer: Timer) -> Vec<Effect> {
        if timer.boot != self.boot {
            return Vec::new();
        }
        if self.suspended {
            self.slept_through.push(timer);
            return Vec::new();
        }
        match timer.kind {
            TimerKind::Agent { start, due } => {
                if self.wake_at != Some(due) || start != self.start {
                    return Vec::new();
                }
                self.wake_at = None;
                self.take(now, Input::Tick)
            }
            TimerKind::Holder { token, step } => self.holder_step(now, token, step),
        }
    }

    /// The answer to [`Effect::AskLeases`].
    pub fn take_leases(
        &mut self,
        now: u64,
        (sent_at, start): (u64, u64),
        answers: LeaseAnswers,
    ) -> Vec<Effect> {
        if start != self.start || !self.is_up() {
            return Vec::new();
        }
        let sent_at_boottime_ms = if self.bugs.count_from_answer {
            self.clock(now)
        } else {
            sent_at
        };
        let mut effects = Vec::new();
        for (token, answer) in answers {
            let input = match answer {
                Ok(length) => {
                    effects.push(Effect::Granted(token));
                    Input::LeaseGranted {
                        token,
                        sent_at_boottime_ms,
                        length,
                    }
                }
                Err(why) => Input::LeaseRefused { token, why },
            };
            effects.extend(self.take(now, input));
        }
        effects
    }

    /// Tells the agent, if the node process runs.
    pub fn take(&mut self, now: u64, input: Input) -> Vec<Effect> {
        let clock = self.clock(now);
        if self.suspended {
            return Vec::new();
        }
        let Some(agent) = &mut self.agent else {
            return Vec::new();
        };
        let actions = agent.step(clock, input);
        let mut effects = Vec::new();
        for action in actions {
            self.act(now, action, &mut effects);
        }
        effects.extend(self.plan_wake(now));
        effects
    }

    fn plan_wake(&mut self, now: u64) -> Option<Effect> {
        let wake = self.agent.as_ref().and_then(Agent::next_wake)?;
        let after = self.until(now, wake).max(1);
        let at = now + after;
        if self
            .wake_at
            .is_some_and(|planned| planned <= at && planned > now)
        {
            return None;
        }
        self.wake_at = Some(at);
        let kind = TimerKind::Agent {
            start: self.start,
            due: at,
        };
        Some(Effect::Timer(after, self.timer(kind)))
    }

    fn timer(&self, kind: TimerKind) -> Timer {
        Timer {
            boot: self.boot,
            kind,
        }
    }

    fn act(&mut self, now: u64, action: Action, effects: &mut Vec<Effect>) {
        match action {
            Action::RequestLease { tokens } => effects.push(Effect::AskLeases {
                tokens,
                sent_at: self.clock(now),
                start: self.start,
            }),
            Action::Start(wanted, deadline) => {
                effects.extend(self.start_holder(now, (wanted.token, wanted.rank), deadline));
            }
            Action::Extend {
                token,
                deadline_boottime_ms,
            } => effects.extend(self.extend_holder(now, token, deadline_boottime_ms)),
            Action::Stop {
                token,
                reason,
                grace,
            } => {
                effects.push(Effect::Stopped(token, reason.clone()));
                effects.extend(self.stop_holder(token, reason.cause(), grace));
            }
            Action::ReportStarted { token, rank } => {
                let at = self.wall(now);
                effects.push(self.report(token, rank, AttemptReport::Started { at }));
            }
            Action::ReportEnded { token, rank } => {
                let report = self.end_report(now, token);
                effects.push(self.report(token, rank, report));
            }
            Action::ReportNeverStarted { token, rank, by } => {
                let report = self.ended(now, types::CauseKind::Stopped { by });
                effects.push(self.report(token, rank, report));
            }
            Action::Release { token } => drop(self.holders.remove(&token)),
        }
    }

    fn report(&self, token: AttemptToken, rank: u32, report: AttemptReport) -> Effect {
        Effect::Report(Box::new(ReportAttempt {
            token,
            node: self.id.clone(),
            rank,
            report,
        }))
    }

    /// The rank of an attempt that it holds.
    pub fn rank_of(&self, token: &AttemptToken) -> Option<u32> {
        self.holders.get(token).map(|holder| holder.rank)
    }

    /// What its holders have, ended ones too until they are reported.
    pub fn held(&self) -> impl Iterator<Item = (AttemptToken, AttemptPhase)> {
        self.holders
            .iter()
            .map(|(token, holder)| (*token, holder.phase))
    }
}
