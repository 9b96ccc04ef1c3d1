//! One machine: its clock, its node process with the agent, and the processes that its holders keep.

use std::collections::BTreeMap;

use agent::{Action, Agent, AgentConfig, AttemptPhase, Input, LocalAttempt};
use membership::View;
use state_machine::{AttemptReport, ReportAttempt};
use types::{AttemptToken, DurationMs, NodeId, NodeReport, Timestamp};

use crate::executor::Process;
use crate::network::Message;
use crate::random::Random;
use crate::world::{Event, Plant, World};

/// The first nodes vote, three of them or five.
pub(crate) fn voters(machines: usize) -> usize {
    if machines >= 5 { 5 } else { 3 }
}

/// A machine and whatever survives its node process.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) number: usize,
    pub(crate) id: NodeId,
    /// Speed of its clock over true time, in millionths: any two are within 1 %.
    drift_ppm: i64,
    /// Its wall clock minus true time.
    wall_offset_ms: u64,
    /// Raised by each start of the machine.
    pub(crate) boot: u64,
    /// Raised by each start of the node process.
    pub(crate) start: u64,
    /// None: the node process is down.
    pub(crate) agent: Option<Agent>,
    pub(crate) view: View,
    pub(crate) processes: BTreeMap<AttemptToken, Process>,
    pub(crate) machine_up: bool,
    reports: u64,
    /// When the agent's next wake is planned, so that wakes do not pile up.
    wake_at: Option<u64>,
}

impl Machine {
    pub(crate) fn new(number: usize, random: &mut Random) -> Self {
        let names = [
            "nodea", "nodeb", "nodec", "noded", "nodee", "nodef", "nodeg",
        ];
        let drift = i64::try_from(random.range(0..9_900)).expect("small");
        Self {
            number,
            id: names[number].parse().expect("the names are base58"),
            drift_ppm: drift - 4_950,
            wall_offset_ms: random.range(0..4_000),
            boot: 1,
            start: 0,
            agent: None,
            view: View::default(),
            processes: BTreeMap::new(),
            machine_up: true,
            reports: 0,
            wake_at: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.agent.is_some()
    }

    /// Its clock since boot (it goes on over restarts here: nothing compares across them).
    pub(crate) fn clock(&self, now: u64) -> u64 {
        let now = i64::try_from(now).expect("a few hours");
        u64::try_from(now + now * self.drift_ppm / 1_000_000).expect("drift is small")
    }

    pub(crate) fn wall(&self, now: u64) -> Timestamp {
        Timestamp(1_000_000 + now + self.wall_offset_ms)
    }

    /// True milliseconds from `now` until its clock shows `clock`.
    pub(crate) fn until(&self, now: u64, clock: u64) -> u64 {
        let left = clock.saturating_sub(self.clock(now));
        // One per cent more and a bit, so that the clock has surely come there.
        if left == 0 { 0 } else { left + left / 100 + 1 }
    }

    fn list(&self) -> Vec<LocalAttempt> {
        let local = |(token, process): (&AttemptToken, &Process)| LocalAttempt {
            token: *token,
            rank: 0,
            phase: process.phase,
        };
        self.processes.iter().map(local).collect()
    }

    fn report(&mut self, now: u64) -> NodeReport {
        self.reports += 1;
        NodeReport {
            node: self.id.clone(),
            node_started_at: Timestamp(self.start),
            sequence: self.reports,
            taken_at: self.wall(now),
            boot_id: self.boot,
            cpu_milli: 4_000,
            cpu_busy_milli: 0,
            memory_bytes: 8 << 30,
            memory_used_bytes: 0,
            disk_free_bytes: 100 << 30,
            gpus: Vec::new(),
            declared: Vec::new(),
            warnings: Vec::new(),
            refuses_work: false,
        }
    }
}

impl World {
    /// Starts the node process: it adopts what its holders have.
    pub(crate) fn start_process(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if !machine.machine_up || machine.is_up() {
            return;
        }
        machine.start += 1;
        machine.wake_at = None;
        machine.view = View::default();
        machine.agent = Some(Agent::new(AgentConfig::default()));
        let (start, list) = (machine.start, machine.list());
        self.tell_agent(node, Input::Running(list));
        self.after(0, Event::Gossip { node, start });
        self.after(1, Event::Poll { node, start });
    }

    pub(crate) fn tell_agent(&mut self, node: usize, input: Input) {
        let machine = &mut self.machines[node];
        let clock = machine.clock(self.now);
        let Some(agent) = &mut machine.agent else {
            return;
        };
        let actions = agent.step(clock, input);
        for action in actions {
            self.act(node, action);
        }
        self.plan_wake(node);
    }

    fn plan_wake(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let Some(wake) = machine.agent.as_ref().and_then(Agent::next_wake) else {
            return;
        };
        let delay = machine.until(self.now, wake).max(1);
        let at = self.now + delay;
        if machine
            .wake_at
            .is_none_or(|planned| planned > at || planned <= self.now)
        {
            machine.wake_at = Some(at);
            self.after(delay, Event::AgentWake { node });
        }
    }

    pub(crate) fn wake_agent(&mut self, node: usize) {
        if self.machines[node].wake_at == Some(self.now) {
            self.machines[node].wake_at = None;
            self.tell_agent(node, Input::Tick);
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        match action {
            Action::RequestLease { tokens } => {
                let sent_at = self.machines[node].clock(self.now);
                if let Some(to) = self.believed_leader(node) {
                    self.send(node, to, Message::LeaseRequest { tokens, sent_at });
                }
            }
            Action::Start(wanted, deadline) => self.start_attempt(node, &wanted, deadline),
            Action::Extend {
                token,
                deadline_boottime_ms,
            } => self.extend_process(node, token, deadline_boottime_ms),
            Action::Stop {
                token,
                reason,
                grace,
            } => {
                self.check_stop(token, &reason);
                self.stop_process(node, token, reason.cause(), grace);
            }
            Action::ReportStarted { token, rank } => {
                let at = self.machines[node].wall(self.now);
                self.report(node, token, rank, AttemptReport::Started { at });
            }
            Action::ReportEnded { token, rank } => {
                let report = self.end_report(node, token);
                self.report(node, token, rank, report);
            }
            Action::ReportNeverStarted { token, rank, by } => {
                let report = self.never_started(node, by);
                self.report(node, token, rank, report);
            }
            Action::Release { token } => {
                self.machines[node].processes.remove(&token);
            }
        }
    }

    fn report(&mut self, node: usize, token: AttemptToken, rank: u32, report: AttemptReport) {
        let Some(to) = self.believed_leader(node) else {
            return;
        };
        let report = ReportAttempt {
            token,
            node: self.machines[node].id.clone(),
            rank,
            report,
        };
        self.send(node, to, Message::Report(Box::new(report)));
    }

    pub(crate) fn take_leases(
        &mut self,
        node: usize,
        sent_at: u64,
        answers: Vec<(AttemptToken, Result<DurationMs, String>)>,
    ) {
        let sent_at = match self.plant {
            Plant::CountFromAnswer => self.machines[node].clock(self.now),
            _ => sent_at,
        };
        for (token, answer) in answers {
            let input = match answer {
                Ok(length) => Input::LeaseGranted {
                    token,
                    sent_at_boottime_ms: sent_at,
                    length,
                },
                Err(why) => Input::LeaseRefused { token, why },
            };
            self.tell_agent(node, input);
        }
    }

    pub(crate) fn gossip(&mut self, node: usize, start: u64) {
        let machine = &mut self.machines[node];
        if !machine.is_up() || machine.start != start {
            return;
        }
        let report = machine.report(self.now);
        for voter in 0..voters(self.machines.len()) {
            self.send(node, voter, Message::NodeReport(Box::new(report.clone())));
        }
        let delay = self.random.range(2_000..5_000);
        self.after(delay, Event::Gossip { node, start });
    }

    pub(crate) fn poll_wanted(&mut self, node: usize, start: u64) {
        if !self.machines[node].is_up() || self.machines[node].start != start {
            return;
        }
        let to = match self.believed_leader(node) {
            Some(leader) if self.random.chance(500) => leader,
            _ => self.random.index(voters(self.machines.len())),
        };
        self.send(node, to, Message::WantedRequest);
        let delay = self.random.range(1_000..3_000);
        self.after(delay, Event::Poll { node, start });
    }

    /// Ended for the agent's ears.
    pub(crate) fn tell_phase(&mut self, node: usize, token: AttemptToken, phase: AttemptPhase) {
        let input = match phase {
            AttemptPhase::Preparing => return,
            AttemptPhase::Running => Input::Started { token },
            AttemptPhase::Ended => Input::Ended { token },
        };
        self.tell_agent(node, input);
    }
}
