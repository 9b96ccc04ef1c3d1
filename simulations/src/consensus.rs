//! One log: who may append, what becomes of proposals when the leader changes, and what apply must do.

use state_machine::{AdmitNode, Applied, Command, CreateJoinToken, FoundCluster, LogEntry};
use types::{AttemptToken, Author, ClusterId, LogIndex, NodeFacts, RequestId, Timestamp, codec};

use crate::leader::Leader;
use crate::machine::voters;
use crate::network::Message;
use crate::world::{Event, World};

/// Older states that lagging voters may answer from.
const LAGGING_STATES: usize = 8;

/// A proposal that is not committed yet.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) entry: LogEntry,
    pub(crate) then: Then,
}

/// Whom to tell when it is committed.
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
    Placer,
    Loser {
        token: AttemptToken,
    },
    Extender {
        token: AttemptToken,
    },
}

impl World {
    /// The first entries: all nodes are members from the start.
    pub(crate) fn found(&mut self) {
        let facts = |name: &str, number: usize| NodeFacts {
            name: name.to_owned(),
            version: String::new(),
            control_addresses: Vec::new(),
            bulk_addresses: Vec::new(),
            takes_work: true,
            may_vote: true,
            keeps_blobs: number != 1,
            labels: Vec::new(),
        };
        let ids: Vec<_> = self
            .machines
            .iter()
            .map(|machine| machine.id.clone())
            .collect();
        let token = || "t-1".parse().expect("a token id");
        let mut commands = vec![
            Command::FoundCluster(FoundCluster {
                cluster: ClusterId([1; 32]),
                public_key: Vec::new(),
                founder: ids[0].clone(),
                facts: facts(ids[0].as_str(), 0),
                timing: "lan".to_owned(),
            }),
            Command::CreateJoinToken(CreateJoinToken {
                id: token(),
                verifier: [0; 32],
                uses: 100,
                expires_at: Timestamp(u64::MAX),
            }),
        ];
        commands.extend(ids.iter().enumerate().skip(1).map(|(number, node)| {
            Command::AdmitNode(AdmitNode {
                token: token(),
                node: node.clone(),
                facts: facts(node.as_str(), number),
            })
        }));
        for command in commands {
            let entry = self.entry(0, None, command);
            let index = LogIndex(self.state.applied().0 + 1);
            self.state.apply(index, &entry);
            self.replica.apply(index, &entry);
        }
    }

    fn entry(&self, proposer: usize, request: Option<RequestId>, command: Command) -> LogEntry {
        let machine = &self.machines[proposer];
        LogEntry {
            time: machine.wall(self.now),
            author: Author::node(machine.id.clone()),
            request,
            command,
        }
    }

    /// Proposes on the leader. What it proposed commits in order, or a prefix of it does if it loses its majority before.
    pub(crate) fn propose(&mut self, request: Option<RequestId>, command: Command, then: Then) {
        let Some(leader) = &self.leader else { return };
        let entry = self.entry(leader.node, request, command);
        self.proposals += 1;
        let proposal = self.proposals;
        self.pending.insert(proposal, Pending { entry, then });
        let at = (self.now + self.random.range(1..20)).max(self.last_commit_at);
        self.last_commit_at = at;
        self.after(at - self.now, Event::Commit { proposal });
    }

    pub(crate) fn commit(&mut self, proposal: u64) -> Result<(), String> {
        // Without a leader its fate is open until the next election decides it.
        if self.leader.is_none() {
            return Ok(());
        }
        let Some(pending) = self.pending.remove(&proposal) else {
            return Ok(());
        };
        self.apply(&pending)?;
        self.drive_leader();
        Ok(())
    }

    fn apply(&mut self, pending: &Pending) -> Result<(), String> {
        let index = LogIndex(self.state.applied().0 + 1);
        self.history.push_back(self.state.clone());
        if self.history.len() > LAGGING_STATES {
            self.history.pop_front();
        }
        let applied = self.state.apply(index, &pending.entry);
        if self.random.chance(20) {
            let bytes = codec::encode(&self.replica);
            self.replica = codec::decode(&bytes, usize::MAX)
                .map_err(|error| format!("a snapshot does not decode: {error}"))?;
        }
        let followed = self.replica.apply(index, &pending.entry);
        if followed != applied {
            return Err(format!(
                "replicas disagree on entry {index}: {applied:?} and {followed:?}"
            ));
        }
        self.check_state()?;
        self.push_wanted(&applied);
        self.answer(&pending.then, &applied);
        Ok(())
    }

    fn answer(&mut self, then: &Then, applied: &Applied) {
        match then {
            Then::Nobody => {}
            Then::Client { number } => self.acknowledge(*number, &applied.outcome),
            Then::Reporter { node, token, start } => {
                if let Some(leader) = self.leader.as_ref().map(|leader| leader.node) {
                    let done = Message::ReportDone {
                        token: *token,
                        start: *start,
                    };
                    self.send(leader, *node, done);
                }
            }
            Then::Placer => {
                if let Some(leader) = &mut self.leader {
                    leader.placing = leader.placing.saturating_sub(1);
                }
            }
            Then::Loser { token } | Then::Extender { token } => {
                if let Some(leader) = &mut self.leader {
                    leader.in_flight.remove(token);
                }
            }
        }
    }

    /// Whether the node is up and exchanges messages with a majority of the voters.
    fn has_majority(&self, node: usize) -> bool {
        let voters = voters(self.machines.len());
        let both_ways = |voter: &usize| {
            self.machines[*voter].is_up()
                && self.connected(node, *voter)
                && self.connected(*voter, node)
        };
        let seen = (0..voters).filter(both_ways).count();
        node < voters && self.machines[node].is_up() && 2 * seen > voters
    }

    /// Takes the lead from a leader that is down or cut off; it may not know.
    pub(crate) fn review_leader(&mut self) {
        let lost = self.leader.as_ref().map(|leader| leader.node);
        if lost.is_some_and(|node| !self.has_majority(node))
            && let Some(leader) = self.leader.take()
        {
            self.depose(leader);
        }
        self.deposed.retain(|node, _| self.machines[*node].is_up());
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

    pub(crate) fn depose(&mut self, leader: Leader) {
        if self.machines[leader.node].is_up() {
            self.deposed.insert(leader.node, leader);
        }
        let delay = self.random.range(300..1_500);
        self.after(delay, Event::Elect);
    }

    pub(crate) fn elect(&mut self) -> Result<(), String> {
        if self.leader.is_some() {
            return Ok(());
        }
        let electable: Vec<_> = (0..self.machines.len())
            .filter(|node| self.has_majority(*node))
            .collect();
        if electable.is_empty() {
            self.after(500, Event::Elect);
            return Ok(());
        }
        let node = electable[self.random.index(electable.len())];
        self.term += 1;
        self.deposed.remove(&node);
        self.leader = Some(Leader::new(node, self.term));
        // Of what the old leader proposed, the new one has some prefix; it commits, the rest is gone.
        let mut open: Vec<_> = std::mem::take(&mut self.pending).into_values().collect();
        let kept = self.random.index(open.len() + 1);
        open.truncate(kept);
        for pending in open {
            self.apply(&pending)?;
        }
        self.start_leader();
        self.review_leader();
        self.drive_leader();
        Ok(())
    }
}
