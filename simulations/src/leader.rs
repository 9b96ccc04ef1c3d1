//! What the leader does: leases, placements, giving up, and answers that a majority confirmed.

use std::collections::{BTreeMap, BTreeSet};

use agent::leases::{LeaseTable, lease_length};
use scheduler::{SchedulerConfig, place_next};
use state_machine::{
    Applied, AttemptReport, ClusterState, Command, Event as Change, ExtendLease, LoseAttempt,
    ReportAttempt,
};
use types::{AttemptToken, Cause, CauseKind, DurationMs, NodeReport, Timestamp};

use crate::consensus::Then;
use crate::machine::voters;
use crate::network::Message;
use crate::world::{Event, Plant, World};

/// The leader's soft state.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) node: usize,
    pub(crate) term: u64,
    pub(crate) table: LeaseTable,
    /// Placements that are proposed and not applied.
    pub(crate) placing: usize,
    /// Attempts about which something is proposed and not applied.
    pub(crate) in_flight: BTreeSet<AttemptToken>,
    /// Next planned wake.
    wake_at: Option<u64>,
}

impl Leader {
    pub(crate) fn new(node: usize, term: u64) -> Self {
        Self {
            node,
            term,
            table: LeaseTable::new(),
            placing: 0,
            in_flight: BTreeSet::new(),
            wake_at: None,
        }
    }
}

impl World {
    /// Where a node sends what is for the leader: mostly rightly, sometimes to one that was deposed.
    pub(crate) fn believed_leader(&mut self, node: usize) -> Option<usize> {
        let old: Vec<_> = self
            .deposed
            .keys()
            .copied()
            .filter(|old| self.connected(node, *old))
            .collect();
        let actual = self
            .leader
            .as_ref()
            .map(|leader| leader.node)
            .filter(|leader| self.connected(node, *leader));
        if !old.is_empty() && (actual.is_none() || self.random.chance(200)) {
            return Some(old[self.random.index(old.len())]);
        }
        actual
    }

    /// At election.
    pub(crate) fn start_leader(&mut self) {
        let Some(leader) = &mut self.leader else {
            return;
        };
        let clock = self.machines[leader.node].clock(self.now);
        leader.table.hold_all(&self.state, clock);
        leader.placing = 0;
        if self.plant == Plant::NoHold {
            for (_, attempt) in self.state.active() {
                leader.table.expire(attempt.token);
            }
        }
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
        let machine = &self.machines[leader.node];
        let clock = machine.clock(self.now);
        let wall = machine.wall(self.now);
        leader.table.refresh(&self.state, clock);
        let mut proposals = Vec::new();
        for token in leader.table.expired(clock) {
            if leader.in_flight.insert(token) {
                proposals.push((lose(token), Then::Loser { token }));
            }
        }
        for extend in extensions(&self.state, wall) {
            let token = extend.token;
            if leader.in_flight.insert(token) {
                proposals.push((Command::ExtendLease(extend), Then::Extender { token }));
            }
        }
        if leader.placing == 0 {
            let config = SchedulerConfig::default();
            for placement in place_next(&self.state, &machine.view, Timestamp(clock), &config) {
                leader.placing += 1;
                proposals.push((Command::PlaceAttempt(placement), Then::Placer));
            }
        }
        if let Some(end) = leader.table.next_expiry() {
            let at = self.now + machine.until(self.now, end).max(1);
            if leader
                .wake_at
                .is_none_or(|planned| planned > at || planned <= self.now)
            {
                leader.wake_at = Some(at);
                let term = leader.term;
                self.after(at - self.now, Event::LeaderWake { term });
            }
        }
        for (command, then) in proposals {
            self.propose(None, command, then);
        }
    }

    /// A question that only a confirmed leader answers; any other voter answers a wanted request from its own state.
    pub(crate) fn ask(&mut self, to: usize, asker: usize, message: Message) {
        let leads = self.leader.as_ref().is_some_and(|leader| leader.node == to)
            || self.deposed.contains_key(&to);
        if leads {
            let delay = self.random.range(1..8);
            self.after(
                delay,
                Event::Confirm {
                    leader: to,
                    asker,
                    message,
                },
            );
        } else if matches!(message, Message::WantedRequest) && to < voters(self.machines.len()) {
            let lag = self.random.index(self.history.len() + 1);
            let state = self.history.get(lag).unwrap_or(&self.state);
            let mut set = state.wanted_set(&self.machines[asker].id);
            let confirmed = self.plant == Plant::WrongIndex;
            if confirmed {
                set.index = self.state.applied();
            }
            self.send(to, asker, Message::Wanted { set, confirmed });
        }
    }

    /// The round of confirmation is over: a leader that was deposed meanwhile cannot answer.
    pub(crate) fn confirmed(&mut self, leader: usize, asker: usize, message: Message) {
        let clock = self.machines[leader].clock(self.now);
        let actual = self
            .leader
            .as_ref()
            .is_some_and(|actual| actual.node == leader);
        let table = if actual {
            self.leader.as_mut().map(|leader| &mut leader.table)
        } else if self.plant == Plant::UnconfirmedGrant {
            self.deposed
                .get_mut(&leader)
                .map(|leader| &mut leader.table)
        } else {
            None
        };
        let Some(table) = table else { return };
        match message {
            Message::LeaseRequest { tokens, sent_at } => {
                let lengths: BTreeMap<_, _> = self
                    .state
                    .active()
                    .map(|(_, attempt)| (attempt.token, attempt.lease_ms))
                    .collect();
                let mut answer = |token: AttemptToken| {
                    let length = lengths
                        .get(&token)
                        .copied()
                        .unwrap_or(DurationMs::from_secs(5));
                    let granted = table.grant(token, length, clock);
                    (
                        token,
                        if granted {
                            Ok(length)
                        } else {
                            Err("not current".to_owned())
                        },
                    )
                };
                let answers = tokens.into_iter().map(&mut answer).collect();
                self.send(leader, asker, Message::LeaseAnswer { sent_at, answers });
            }
            Message::WantedRequest if actual => {
                let set = self.state.wanted_set(&self.machines[asker].id);
                self.send(
                    leader,
                    asker,
                    Message::Wanted {
                        set,
                        confirmed: true,
                    },
                );
            }
            _ => {}
        }
    }

    pub(crate) fn take_report(&mut self, to: usize, from: usize, report: ReportAttempt) {
        if self.leader.as_ref().is_none_or(|leader| leader.node != to) {
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
        let clock = Timestamp(self.machines[to].clock(self.now));
        let changed = self.machines[to].view.observe(report, clock);
        if changed && self.leader.as_ref().is_some_and(|leader| leader.node == to) {
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
            match event {
                Change::AttemptPlaced { token, .. }
                | Change::AttemptStarted(token)
                | Change::AttemptChanged(token)
                | Change::AttemptEnded(token) => {
                    let experiment = self.state.experiment(token.experiment);
                    let attempts = experiment
                        .into_iter()
                        .flat_map(|experiment| &experiment.attempts);
                    let attempt = attempts.filter(|attempt| attempt.token == *token);
                    concerned.extend(attempt.flat_map(|attempt| {
                        attempt.ranks.iter().map(|rank| rank.placement.node.clone())
                    }));
                }
                Change::ExperimentQueued(_)
                | Change::ExperimentEnded(_)
                | Change::MembersChanged
                | Change::QueuesChanged
                | Change::TokensChanged => {}
            }
        }
        for id in concerned {
            let Some(node) = self.machines.iter().position(|machine| machine.id == id) else {
                continue;
            };
            let set = self.state.wanted_set(&id);
            self.send(
                leader,
                node,
                Message::Wanted {
                    set,
                    confirmed: false,
                },
            );
        }
    }
}

fn lose(token: AttemptToken) -> Command {
    Command::LoseAttempt(LoseAttempt {
        token,
        cause: Cause::new(CauseKind::NodeLost, vec!["its lease ran out".to_owned()]),
        segments: Vec::new(),
    })
}

/// Leases that have become too short for the work that they guard.
fn extensions(state: &ClusterState, now: Timestamp) -> Vec<ExtendLease> {
    let mut found = Vec::new();
    for (experiment, attempt) in state.active() {
        let since = attempt.ranks.first().and_then(|rank| rank.started_at);
        let length = lease_length(&experiment.spec.policy, since, now);
        if length > attempt.lease_ms {
            let reason = "10 min of work".to_owned();
            found.push(ExtendLease {
                token: attempt.token,
                lease_ms: length,
                reason,
            });
        }
    }
    found
}
