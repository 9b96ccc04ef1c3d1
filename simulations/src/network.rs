//! Messages: late, lost, twice, much later once more, or not at all across a cut.

use agent::Input;
use state_machine::ReportAttempt;
use types::{AttemptToken, LogIndex, NodeReport, WantedSet};

use crate::host::LeaseAnswers;
use crate::world::{Event, World};

/// Messages that are remembered to be sent once more.
const MAX_KEPT: usize = 64;

/// What nodes say to each other.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    LeaseRequest {
        tokens: Vec<AttemptToken>,
        sent_at: u64,
        start: u64,
    },
    LeaseAnswer {
        sent_at: u64,
        start: u64,
        answers: LeaseAnswers,
    },
    WantedRequest,
    Wanted {
        set: WantedSet,
        confirmed: bool,
    },
    Report(Box<ReportAttempt>),
    ReportDone {
        token: AttemptToken,
        start: bool,
    },
    NodeReport(Box<NodeReport>),
    /// A person's read, with the newest index that anybody had been told when it was asked.
    Read {
        floor: LogIndex,
    },
}

/// How bad the network is.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) loss_permille: u64,
    pub(crate) repeat_permille: u64,
    pub(crate) longest_delay_ms: u64,
}

impl Weather {
    pub(crate) fn fair() -> Self {
        Self {
            loss_permille: 2,
            repeat_permille: 2,
            longest_delay_ms: 10,
        }
    }
}

impl World {
    pub(crate) fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.random.chance(self.weather.loss_permille) {
            return;
        }
        if self.random.chance(self.weather.repeat_permille) {
            self.send_once(from, to, message.clone());
        }
        if self.random.chance(20) && self.kept.len() < MAX_KEPT {
            self.kept.push((from, to, message.clone()));
        }
        self.send_once(from, to, message);
    }

    fn send_once(&mut self, from: usize, to: usize, message: Message) {
        let longest = self.weather.longest_delay_ms;
        let delay = if from == to {
            0
        } else {
            self.random.range(1..longest + 1)
        };
        self.after(delay, Event::Deliver { from, to, message });
    }

    /// To whoever leads; a lease request also through a member that reaches both.
    pub(crate) fn send_to_leader(&mut self, node: usize, message: Message) {
        if let Some(to) = self.believed_leader(node) {
            return self.send(node, to, message);
        }
        if let (Some(leader), Message::LeaseRequest { .. }) = (&self.leader, &message) {
            let leader = leader.node;
            if self.relay(node, leader).is_some() {
                let delay = self.random.range(2..2 * self.weather.longest_delay_ms + 2);
                let event = Event::Confirm {
                    leader,
                    asker: node,
                    message,
                };
                self.after(delay, event);
            }
        }
    }

    /// Directly, or through whoever brought the question.
    pub(crate) fn send_relayed(&mut self, from: usize, to: usize, message: Message) {
        if self.connected(from, to) {
            return self.send(from, to, message);
        }
        if let Some(relay) = self.relay(from, to) {
            let delay = self.random.range(1..self.weather.longest_delay_ms + 1);
            let event = Event::Deliver {
                from: relay,
                to,
                message,
            };
            self.after(delay, event);
        }
    }

    fn relay(&self, one: usize, other: usize) -> Option<usize> {
        let both = |a: usize, b: usize| self.connected(a, b) && self.connected(b, a);
        (0..self.hosts.len())
            .find(|third| self.hosts[*third].is_up() && both(one, *third) && both(*third, other))
    }

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

    /// Whether messages pass from `one` to `other`.
    pub(crate) fn connected(&self, one: usize, other: usize) -> bool {
        one == other || (self.groups[one] == self.groups[other] && !self.muted[one])
    }

    pub(crate) fn deliver(&mut self, from: usize, to: usize, message: Message) {
        if !self.connected(from, to) || !self.hosts[to].is_up() {
            return;
        }
        let input = match message {
            Message::LeaseRequest { .. } | Message::WantedRequest | Message::Read { .. } => {
                return self.ask(to, from, message);
            }
            Message::Report(report) => return self.take_report(to, from, *report),
            Message::NodeReport(report) => return self.observe(to, *report),
            Message::LeaseAnswer {
                sent_at,
                start,
                answers,
            } => {
                return self.on_host(to, |host, now| {
                    host.take_leases(now, (sent_at, start), answers)
                });
            }
            Message::Wanted { set, confirmed } => Input::Wanted(set, confirmed),
            Message::ReportDone { token, start: true } => Input::StartCommitted { token },
            Message::ReportDone {
                token,
                start: false,
            } => Input::ReportCommitted { token },
        };
        self.on_host(to, |host, now| host.take(now, input));
    }

    /// Starts the node process and its rounds.
    pub(crate) fn start_node(&mut self, node: usize) {
        let before = self.hosts[node].start;
        self.on_host(node, super::host::Host::start_node);
        self.begin_rounds(node, before);
    }

    /// The rounds of a node process that has just been started.
    pub(crate) fn begin_rounds(&mut self, node: usize, before: u64) {
        let start = self.hosts[node].start;
        if start != before {
            self.views[node] = membership::View::default();
            self.after(0, Event::Gossip { node, start });
            self.after(1, Event::Poll { node, start });
        }
    }

    pub(crate) fn gossip(&mut self, node: usize, start: u64) {
        if self.hosts[node].start != start || !self.hosts[node].powered {
            return;
        }
        let delay = self.random.range(2_000..5_000);
        self.after(delay, Event::Gossip { node, start });
        if !self.hosts[node].is_up() {
            return;
        }
        let report = self.hosts[node].node_report(self.now);
        for other in 0..self.hosts.len() {
            self.send(node, other, Message::NodeReport(Box::new(report.clone())));
        }
    }

    pub(crate) fn poll_wanted(&mut self, node: usize, start: u64) {
        if self.hosts[node].start != start || !self.hosts[node].powered {
            return;
        }
        let delay = self.random.range(1_000..3_000);
        self.after(delay, Event::Poll { node, start });
        if !self.hosts[node].is_up() {
            return;
        }
        let to = match self.believed_leader(node) {
            Some(leader) if self.random.chance(500) => leader,
            _ => self.random.index(3),
        };
        self.send(node, to, Message::WantedRequest);
    }
}
