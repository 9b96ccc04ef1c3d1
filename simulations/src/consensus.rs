//! Who leads, what is committed, and what apply does to those who wait.

use std::rc::Rc;

use state_machine::{
    AdmitNode, Applied, Command, CreateJoinToken, FoundCluster, LogEntry, Outcome,
};
use types::{
    AttemptToken, Author, ClusterId, LogIndex, NodeFacts, NodeId, RequestId, Timestamp, codec,
};

use crate::brain::Purpose;
use crate::invariants::Fact;
use crate::leader::Leader;
use crate::log::{EntryId, Payload};
use crate::network::Message;
use crate::world::{Event, Plant, World};

/// Older states that lagging nodes may answer from.
const LAGGING_STATES: usize = 8;
/// Time between two sendings of what somebody lacks.
const HEARTBEAT_MS: u64 = 200;
/// Entries that a lying disk forgets.
const LIED_ENTRIES: usize = 4;

/// Whom to tell when a proposal is applied.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    Nobody,
    Client {
        number: usize,
    },
    Reporter {
        node: usize,
        token: AttemptToken,
        start: bool,
    },
    Brain(Purpose),
}

impl World {
    /// The first entries, on all disks: most nodes are members from the start.
    pub(crate) fn found(&mut self) {
        let ids: Vec<_> = self.hosts.iter().map(|host| host.id.clone()).collect();
        let facts: Vec<_> = ids
            .iter()
            .enumerate()
            .map(|(number, id)| self.facts(id, number))
            .collect();
        let token = || "t-1".parse().expect("a token id");
        let mut commands = vec![
            Command::FoundCluster(FoundCluster {
                cluster: ClusterId([1; 32]),
                public_key: Vec::new(),
                founder: ids[0].clone(),
                facts: facts[0].clone(),
                timing: "lan".to_owned(),
            }),
            Command::CreateJoinToken(CreateJoinToken {
                id: token(),
                verifier: [0; 32],
                uses: 100,
                expires_at: Timestamp(u64::MAX),
            }),
        ];
        commands.extend(ids.iter().zip(facts).skip(1).map(|(node, facts)| {
            Command::AdmitNode(AdmitNode {
                token: token(),
                node: node.clone(),
                facts,
            })
        }));
        let voters = Rc::new(vec![0, 1, 2]);
        for command in commands {
            let entry = self.entry(0, None, command);
            let payload = Payload::Command(Box::new(entry));
            self.log.append(0, 0, payload, Rc::clone(&voters));
        }
        self.log.replicas[0].durable = self.log.replicas[0].entries.len();
        for other in 1..self.hosts.len() {
            self.log.replicas[other] = self.log.replicas[0].clone();
        }
        for id in self.log.replicas[0].entries.clone() {
            self.log.committed.push(id);
            self.note(&Fact::Committed {
                index: self.log.committed.len() as u64,
                on_disk: 3,
                voters: 3,
            });
            self.apply(id);
        }
    }

    /// Some nodes only work, some only vote, one keeps no blobs.
    fn facts(&mut self, id: &NodeId, number: usize) -> NodeFacts {
        NodeFacts {
            name: id.to_string(),
            version: String::new(),
            control_addresses: Vec::new(),
            bulk_addresses: Vec::new(),
            takes_work: number == 1 || number > 2 || self.random.chance(800),
            may_vote: number < 3 || self.random.chance(600),
            keeps_blobs: number != 1,
            labels: Vec::new(),
        }
    }

    fn entry(&self, proposer: usize, request: Option<RequestId>, command: Command) -> LogEntry {
        let host = &self.hosts[proposer];
        LogEntry {
            time: host.wall(self.now),
            author: Author::node(host.id.clone()),
            request,
            command,
        }
    }

    /// Proposes on the leader; without one it is lost, as a request that nobody takes.
    pub(crate) fn propose(&mut self, request: Option<RequestId>, command: Command, then: Then) {
        let Some((node, term)) = self
            .leader
            .as_ref()
            .map(|leader| (leader.node, leader.term))
        else {
            return;
        };
        let payload = Payload::Command(Box::new(self.entry(node, request, command)));
        let voters = self.log.voters_of(node);
        let id = self.log.append(node, term, payload, voters);
        if let Some(leader) = &mut self.leader {
            leader.waiting.insert(id, then);
        }
        self.replicate();
    }

    /// Sends the leader's log to everybody who shall have it, and to its own disk.
    pub(crate) fn replicate(&mut self) {
        let Some(leader) = &self.leader else { return };
        let (node, term) = (leader.node, leader.term);
        let mut targets = leader.standby.clone();
        targets.extend(self.log.voters_of(node).iter().copied());
        targets.insert(node);
        let length = self.log.replicas[node].entries.len();
        for target in targets {
            let reached = target == node
                || (self.hosts[target].is_up()
                    && self.connected(node, target)
                    && self.connected(target, node)
                    && !self.random.chance(self.weather.loss_permille));
            if !reached || self.log.shared(node, target) == length {
                continue;
            }
            let network = if target == node {
                0
            } else {
                self.random.range(1..self.weather.longest_delay_ms + 1)
            };
            let disk = if self.slow[target] {
                self.random.range(200..5_000)
            } else {
                self.random.range(1..4)
            };
            let event = Event::Persist {
                term,
                node: target,
                length,
            };
            self.after(network + disk, event);
        }
    }

    pub(crate) fn persist(&mut self, term: u64, node: usize, length: usize) {
        let Some(leader) = self
            .leader
            .as_ref()
            .filter(|leader| leader.term == term)
            .map(|leader| leader.node)
        else {
            return;
        };
        if node == leader {
            let replica = &mut self.log.replicas[node];
            replica.durable = replica.durable.max(length);
        } else if self.hosts[node].is_up() && self.connected(leader, node) {
            self.log.follow(leader, node, length);
        }
        self.advance(leader, term);
    }

    /// Commits what a majority has, and applies it.
    fn advance(&mut self, leader: usize, term: u64) {
        let length = if self.plant == Plant::AckEarly {
            self.log.replicas[leader].durable
        } else {
            self.log.majority(leader, term)
        };
        let voters = self.log.voters_of(leader);
        let mut advanced = false;
        while self.log.committed.len() < length {
            let id = self.log.replicas[leader].entries[self.log.committed.len()];
            self.log.committed.push(id);
            let index = self.log.committed.len();
            let on_disk = voters
                .iter()
                .filter(|voter| self.log.shared(leader, **voter) >= index)
                .count();
            self.note(&Fact::Committed {
                index: index as u64,
                on_disk,
                voters: voters.len(),
            });
            self.apply(id);
            advanced = true;
        }
        if let Some(leader) = self.leader.as_mut().filter(|_| advanced) {
            leader.applied = self.state.applied();
            leader.ready = true;
        }
        if advanced {
            self.take_removed_out();
            self.drive_leader();
        }
    }

    fn apply(&mut self, id: EntryId) {
        let index = LogIndex(self.log.committed.len() as u64);
        self.history.push_back(self.state.clone());
        if self.history.len() > LAGGING_STATES {
            self.history.pop_front();
        }
        let Payload::Command(entry) = self.log.slot(id).payload.clone() else {
            self.state.skip(index);
            self.twin.skip(index);
            return;
        };
        let applied = self.state.apply(index, &entry);
        if self.random.chance(20) {
            let bytes = codec::encode(&self.twin);
            self.twin = codec::decode(&bytes, usize::MAX).expect("a snapshot reads back");
        }
        let twin = self.twin.apply(index, &entry);
        self.note(&Fact::Applied {
            index,
            entry: &entry,
            applied: &applied,
            twin: &twin,
        });
        self.push_wanted(&applied);
        let then = self
            .leader
            .as_mut()
            .and_then(|leader| leader.waiting.remove(&id));
        self.answer(then.unwrap_or(Then::Nobody), index, &applied);
    }

    fn answer(&mut self, then: Then, index: LogIndex, applied: &Applied) {
        match then {
            Then::Nobody => {}
            Then::Client { number } => self.acknowledge(number, index, &applied.outcome),
            Then::Reporter { node, token, start } => {
                if let Some(leader) = self.leader.as_ref().map(|leader| leader.node) {
                    self.send(leader, node, Message::ReportDone { token, start });
                }
            }
            Then::Brain(purpose) => {
                if let Some(leader) = &mut self.leader {
                    leader.brain.settled(&purpose);
                }
                if let (Purpose::Place, Outcome::Refused(_)) = (purpose, &applied.outcome) {
                    let term = self.term;
                    self.after(200, Event::LeaderWake { term });
                }
            }
        }
    }

    /// Whether the node is up and exchanges messages with a majority of the voters that it knows.
    pub(crate) fn has_majority(&self, node: usize) -> bool {
        let voters = self.log.voters_of(node);
        let seen = voters.iter().filter(|voter| self.exchanges(node, **voter));
        self.hosts[node].is_up() && voters.contains(&node) && 2 * seen.count() > voters.len()
    }

    fn exchanges(&self, node: usize, other: usize) -> bool {
        self.hosts[other].is_up() && self.connected(node, other) && self.connected(other, node)
    }

    /// A majority of its voters would vote for it: none of them has a more up-to-date log.
    fn is_electable(&self, node: usize) -> bool {
        let voters = self.log.voters_of(node);
        let votes = voters.iter().filter(|voter| {
            self.exchanges(node, **voter) && self.log.rank(**voter) <= self.log.rank(node)
        });
        self.has_majority(node) && 2 * votes.count() > voters.len()
    }

    /// Takes the lead from a leader that is down or cut off; it may not know.
    pub(crate) fn review_leader(&mut self) {
        let lost = self.leader.as_ref().map(|leader| leader.node);
        if lost.is_some_and(|node| !self.has_majority(node)) {
            self.depose();
        }
        let hosts = &self.hosts;
        self.deposed.retain(|node, _| hosts[*node].is_up());
        if let Some(leader) = self.leader.as_ref().map(|leader| leader.node) {
            let told: Vec<_> = self
                .deposed
                .keys()
                .copied()
                .filter(|node| self.connected(leader, *node))
                .collect();
            for node in told {
                self.deposed.remove(&node);
            }
        }
    }

    pub(crate) fn depose(&mut self) {
        let Some(mut leader) = self.leader.take() else {
            return;
        };
        leader.waiting.clear();
        // A machine that sleeps does not know it when it wakes.
        if self.hosts[leader.node].is_up() || self.hosts[leader.node].suspended {
            self.deposed.insert(leader.node, leader);
        }
        let delay = self.random.range(300..1_500);
        self.after(delay, Event::Elect);
    }

    pub(crate) fn elect(&mut self) {
        if self.leader.is_some() {
            return;
        }
        let electable: Vec<_> = (0..self.hosts.len())
            .filter(|node| self.is_electable(*node))
            .collect();
        if electable.is_empty() {
            return self.after(500, Event::Elect);
        }
        let any = electable[self.random.index(electable.len())];
        let heir = self.heir.take().filter(|heir| electable.contains(heir));
        let node = heir.unwrap_or(any);
        self.term += 1;
        self.deposed.remove(&node);
        self.note(&Fact::Elected {
            holds: self.log.committed_in(node),
            committed: self.log.committed.len(),
        });
        // It has the entries; that they are committed it may have yet to learn.
        let lag = self.random.index(self.history.len() + 1);
        let state = self.lagging(lag).clone();
        let clock = self.hosts[node].clock(self.now);
        let leader = Leader::elected(node, self.term, &state, clock, self.plant);
        self.leader = Some(leader);
        let voters = self.log.voters_of(node);
        self.log.append(node, self.term, Payload::Blank, voters);
        let term = self.term;
        self.after(HEARTBEAT_MS, Event::Heartbeat { term });
        self.after(1_000, Event::Membership { term });
        self.replicate();
        self.review_leader();
        self.drive_leader();
    }

    pub(crate) fn heartbeat(&mut self, term: u64) {
        if self
            .leader
            .as_ref()
            .is_none_or(|leader| leader.term != term)
        {
            return;
        }
        self.replicate();
        self.after(HEARTBEAT_MS, Event::Heartbeat { term });
    }

    /// A node process dies; what its disk has not, is gone.
    pub(crate) fn lose_memory(&mut self, node: usize) {
        if self.plant == Plant::LyingDisk {
            self.log.forget(node, LIED_ENTRIES);
        } else {
            self.log.crash(node);
        }
    }

    /// The state as it was some entries ago.
    pub(crate) fn lagging(&self, lag: usize) -> &state_machine::ClusterState {
        let at = self.history.len().checked_sub(lag);
        at.and_then(|at| self.history.get(at))
            .unwrap_or(&self.state)
    }
}
