//! The leader's hands: what its brain wants goes to the log, and answers that a majority confirmed to the nodes.

use std::collections::{BTreeMap, BTreeSet};

use state_machine::{
    Applied, AttemptReport, ClusterState, Command, Event as Change, ReportAttempt,
};
use types::{LogIndex, NodeReport, Timestamp};

use crate::brain::{Brain, BrainBugs};
use crate::consensus::Then;
use crate::invariants::Fact;
use crate::log::EntryId;
use crate::network::Message;
use crate::world::{Event, Plant, World};

/// A node that leads, or thinks so.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) node: usize,
    pub(crate) term: u64,
    pub(crate) brain: Brain,
    /// It has committed an entry of its own term: before that it does not know all that is committed.
    pub(crate) ready: bool,
    /// What it has applied.
    pub(crate) applied: LogIndex,
    /// The state that it was elected with, until it is ready.
    pub(crate) first_state: ClusterState,
    /// Who is told when an entry is applied.
    pub(crate) waiting: BTreeMap<EntryId, Then>,
    /// Gets the log without a vote.
    pub(crate) standby: BTreeSet<usize>,
    /// It watches the others since then, on its clock.
    pub(crate) since: Timestamp,
    /// Next planned wake.
    wake_at: Option<u64>,
}

impl Leader {
    pub(crate) fn elected(
        node: usize,
        term: u64,
        state: &ClusterState,
        clock: u64,
        plant: Plant,
    ) -> Self {
        let bugs = BrainBugs {
            no_hold: plant == Plant::NoHold,
        };
        Self {
            node,
            term,
            brain: Brain::elected(state, clock, bugs),
            ready: false,
            applied: state.applied(),
            first_state: state.clone(),
            waiting: BTreeMap::new(),
            standby: BTreeSet::new(),
            since: Timestamp(clock),
            wake_at: None,
        }
    }
}

impl World {
    fn leads(&self, node: usize) -> bool {
        self.leader
            .as_ref()
            .is_some_and(|leader| leader.node == node)
    }

    pub(crate) fn wake_leader(&mut self, term: u64) {
        if self
            .leader
            .as_ref()
            .is_some_and(|leader| leader.term == term)
        {
            self.drive_leader();
        }
    }

    /// Does whatever state, leases and view call for now.
    pub(crate) fn drive_leader(&mut self) {
        let Some(leader) = &mut self.leader else {
            return;
        };
        let host = &self.hosts[leader.node];
        let clocks = (host.clock(self.now), host.wall(self.now));
        let state = if leader.ready {
            &self.state
        } else {
            &leader.first_state
        };
        let proposals = leader.brain.drive(state, &self.views[leader.node], clocks);
        if let Some(end) = leader.brain.next_expiry() {
            let at = self.now + host.until(self.now, end).max(1);
            let planned = leader.wake_at;
            if planned.is_none_or(|planned| planned > at || planned <= self.now) {
                leader.wake_at = Some(at);
                let term = leader.term;
                self.after(at - self.now, Event::LeaderWake { term });
            }
        }
        for (command, purpose) in proposals {
            self.propose(None, command, Then::Brain(purpose));
        }
    }

    /// A question that only a confirmed leader answers; any other voter answers a wanted request from its own state.
    pub(crate) fn ask(&mut self, to: usize, asker: usize, message: Message) {
        if self.leads(to) || self.deposed.contains_key(&to) {
            let delay = self.random.range(1..8);
            let event = Event::Confirm {
                leader: to,
                asker,
                message,
            };
            self.after(delay, event);
        } else if matches!(message, Message::WantedRequest) && to < 3 {
            let lag = self.random.index(self.history.len() + 1);
            let mut set = self.lagging(lag).wanted_set(&self.hosts[asker].id);
            let confirmed = self.plant == Plant::WrongIndex;
            if confirmed {
                set.index = self.state.applied();
            }
            self.send(to, asker, Message::Wanted { set, confirmed });
        }
    }

    /// The round of confirmation is over: a leader that was deposed meanwhile cannot answer, nor one that does not
    /// know yet what is committed.
    pub(crate) fn confirmed(&mut self, node: usize, asker: usize, message: Message) {
        let actual = self.leads(node);
        let ready = self.leader.as_ref().is_some_and(|leader| leader.ready);
        match message {
            Message::LeaseRequest {
                tokens,
                sent_at,
                start,
            } => {
                let clock = self.hosts[node].clock(self.now);
                let leader = if actual {
                    self.leader.as_mut().filter(|leader| leader.ready)
                } else if self.plant == Plant::UnconfirmedGrant {
                    self.deposed.get_mut(&node)
                } else {
                    None
                };
                let Some(leader) = leader else { return };
                let id = &self.hosts[asker].id;
                let answers = leader.brain.grant(&self.state, id, &tokens, clock);
                let answer = Message::LeaseAnswer {
                    sent_at,
                    start,
                    answers,
                };
                self.send_relayed(node, asker, answer);
            }
            Message::WantedRequest if actual && ready => {
                let set = self.state.wanted_set(&self.hosts[asker].id);
                let confirmed = true;
                self.send(node, asker, Message::Wanted { set, confirmed });
            }
            Message::Read { floor } if actual && ready => {
                self.answer_read(floor, self.state.applied());
            }
            Message::Read { floor } if self.plant == Plant::StaleRead => {
                let applied = self.deposed.get(&node).map(|leader| leader.applied);
                self.answer_read(floor, applied.unwrap_or(self.state.applied()));
            }
            _ => {}
        }
    }

    fn answer_read(&mut self, floor: LogIndex, index: LogIndex) {
        self.note(&Fact::Read { floor, index });
        self.told = self.told.max(index);
    }

    pub(crate) fn take_report(&mut self, to: usize, from: usize, report: ReportAttempt) {
        if !self.leads(to) {
            return;
        }
        let start = matches!(report.report, AttemptReport::Started { .. });
        let then = Then::Reporter {
            node: from,
            token: report.token,
            start,
        };
        self.propose(None, Command::ReportAttempt(Box::new(report)), then);
    }

    pub(crate) fn observe(&mut self, to: usize, report: NodeReport) {
        let clock = Timestamp(self.hosts[to].clock(self.now));
        let changed = self.views[to].observe(report, clock);
        if changed && self.leads(to) {
            self.drive_leader();
        }
    }

    /// Tells the nodes that an entry concerns what they should run.
    pub(crate) fn push_wanted(&mut self, applied: &Applied) {
        let Some(leader) = self.leader.as_ref().map(|leader| leader.node) else {
            return;
        };
        let mut concerned = BTreeSet::new();
        for event in &applied.events {
            let (Change::AttemptPlaced { token, .. }
            | Change::AttemptStarted(token)
            | Change::AttemptChanged(token)
            | Change::RankEnded(token)
            | Change::AttemptEnded(token)) = event
            else {
                continue;
            };
            let experiment = self.state.experiment(token.experiment);
            let attempts = experiment
                .into_iter()
                .flat_map(|experiment| &experiment.attempts);
            let attempt = attempts.filter(|attempt| attempt.token == *token);
            concerned.extend(
                attempt.flat_map(|attempt| {
                    attempt.ranks.iter().map(|rank| rank.placement.node.clone())
                }),
            );
        }
        for id in concerned {
            let Some(node) = self.hosts.iter().position(|host| host.id == id) else {
                continue;
            };
            let set = self.state.wanted_set(&id);
            let confirmed = false;
            self.send(leader, node, Message::Wanted { set, confirmed });
        }
    }
}
