//! Proposing, reading and leasing, as `consensus::Handle` and `service::Handle` do it.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use state_machine::{Command, LogEntry, Outcome};
use tokio::time::Instant;
use types::{AttemptToken, Author, RequestId, codec};

use crate::names::name;
use crate::network::{LeaseAnswer, Request, Response};
use crate::node::{ELECTION_MAX, Node};
use crate::plant::Plant;
use crate::raft_types::Proposal;

/// Time for a proposal to commit.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Time for a read before a lease is granted.
const LEASE_PATIENCE: Duration = Duration::from_secs(2);
/// Time for a person's read.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// Pause before asking again while the lease of a new leader is not there yet.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// Pause before another try when nobody leads.
const READ_PAUSE: Duration = Duration::from_millis(10);

/// Why a proposal has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotProposed {
    NotLeader(Option<u64>),
    /// It may commit yet.
    Unknown,
}

/// What a round of asking a majority said.
enum Round {
    Index(u64),
    NotLeader(Option<u64>),
    NoQuorum,
}

impl Node {
    /// Proposes here and waits until it is applied here.
    pub(crate) async fn propose(
        &self,
        author: Author,
        request: Option<RequestId>,
        command: Command,
    ) -> Result<(u64, Outcome), NotProposed> {
        let entry = LogEntry {
            time: self.world.wall(self.number),
            author,
            request,
            command,
        };
        let bytes = bytes::Bytes::from(codec::encode(&entry));
        let start = Instant::now();
        loop {
            let write = self.raft.client_write(Proposal(bytes.clone()));
            let error = match tokio::time::timeout_at(start + PROPOSE_DEADLINE, write).await {
                Ok(Ok(response)) => return Ok((response.data.index, response.data.outcome)),
                Ok(Err(error)) => error,
                Err(_elapsed) => return Err(NotProposed::Unknown),
            };
            match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                    let young = start.elapsed() < ELECTION_MAX * 2;
                    match forward.leader_id {
                        None if self.raft.is_leader() && young => {
                            tokio::time::sleep(RETRY_PAUSE).await;
                        }
                        leader => return Err(NotProposed::NotLeader(leader)),
                    }
                }
                _ => return Err(NotProposed::Unknown),
            }
        }
    }

    pub(crate) async fn propose_as_node(
        &self,
        command: Command,
    ) -> Result<(u64, Outcome), NotProposed> {
        self.propose(Author::node(name(self.number)), None, command)
            .await
    }

    pub(crate) async fn answer_propose(&self, from: u64, command: Command) -> Response {
        if !self.is_leader() {
            return self.not_leader();
        }
        proposed(self.propose(Author::node(name(from)), None, command).await)
    }

    /// A person's command: here, or at whoever leads.
    pub(crate) async fn answer_call(
        &self,
        from: u64,
        request: RequestId,
        command: Command,
    ) -> Response {
        if self.is_leader() {
            let author = Author::node(name(self.number));
            return proposed(self.propose(author, Some(request), command).await);
        }
        if from != crate::network::PERSON {
            return self.not_leader(); // Passed on once already.
        }
        let message = Request::Call(request, Box::new(command));
        self.ask_leader(message, PROPOSE_DEADLINE).await
    }

    fn not_leader(&self) -> Response {
        Response::NotLeader(self.leader().filter(|leader| *leader != self.number))
    }

    /// Asks whoever leads, or any node that may know.
    pub(crate) async fn ask_leader(&self, message: Request, deadline: Duration) -> Response {
        let to = self
            .leader()
            .filter(|to| *to != self.number)
            .unwrap_or_else(|| self.world.range(0..self.world.size()));
        let answer = self.world.call(self.number, to, message, deadline).await;
        let hint = match &answer {
            Ok(Response::NotLeader(leader)) => *leader,
            Ok(_) => Some(to),
            Err(_) => None,
        };
        *crate::runtime::lock(&self.hint) = hint;
        answer.unwrap_or(Response::Failed)
    }

    /// One round of `ReadIndex` on this node.
    async fn round(&self) -> Round {
        let asking = self.raft.get_read_log_id(ReadPolicy::ReadIndex);
        match tokio::time::timeout(ELECTION_MAX, asking).await {
            Ok(Ok((read, _applied))) => Round::Index(read.index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Round::NotLeader(forward.leader_id)
            }
            Ok(Err(_)) | Err(_) => Round::NoQuorum,
        }
    }

    pub(crate) async fn answer_read_index(&self) -> Response {
        match self.round().await {
            Round::Index(index) => Response::Index(index),
            Round::NotLeader(leader) => Response::NotLeader(leader),
            Round::NoQuorum => Response::Failed,
        }
    }

    /// An index that this node's state has reached on return, and that no acknowledged write is beyond.
    pub(crate) async fn read_index(&self, patience: Duration) -> Option<u64> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            let index = match self.round().await {
                Round::NotLeader(Some(leader)) if leader != self.number => {
                    let asked =
                        self.world
                            .call(self.number, leader, Request::ReadIndex, ELECTION_MAX);
                    match asked.await {
                        Ok(Response::Index(index)) => Some(index),
                        _ => None,
                    }
                }
                Round::Index(index) => Some(index),
                Round::NotLeader(_) | Round::NoQuorum => None,
            };
            if let Some(index) = index {
                let mut applied = self.published.applied();
                let reached = applied.wait_for(|applied| *applied >= index);
                if matches!(tokio::time::timeout_at(end, reached).await, Ok(Ok(_))) {
                    return Some(index);
                }
            }
            tokio::time::sleep(READ_PAUSE).await;
        }
        None
    }

    /// A person looks at the state: the answer carries its index.
    pub(crate) async fn answer_read(&self) -> Response {
        let asked = self.world.plant != Plant::LocalReads;
        if asked && self.read_index(READ_PATIENCE).await.is_none() {
            return Response::Failed;
        }
        Response::Index(self.state().applied().0)
    }

    /// Grants leases after a `ReadIndex` round begun now (invariant 11).
    pub(crate) async fn answer_lease(&self, from: u64, tokens: &[AttemptToken]) -> Response {
        if !self.is_leader() {
            return self.not_leader();
        }
        let term = self.leadership().borrow().term;
        if self.read_index(LEASE_PATIENCE).await.is_none() {
            return Response::Failed;
        }
        let now = *self.leadership().borrow();
        if !now.is_self || now.term != term {
            return self.not_leader();
        }
        let wanted = self.state().wanted_set(&name(from));
        let mut answer = LeaseAnswer {
            granted: Vec::new(),
            refused: Vec::new(),
            wanted,
        };
        for token in tokens {
            let mut attempts = answer.wanted.attempts.iter();
            let Some(attempt) = attempts.find(|attempt| attempt.token == *token) else {
                answer.refused.push((*token, "not to run here".to_owned()));
                continue;
            };
            let (leased, length) = ((*token, attempt.rank), attempt.lease_ms);
            if self.with_leases(|leases, now| leases.grant(leased, length, now)) {
                answer.granted.push((*token, length));
            } else {
                answer
                    .refused
                    .push((*token, "its lease is over".to_owned()));
            }
        }
        if !answer.granted.is_empty() {
            self.leases_changed.notify_one();
        }
        Response::Lease(Box::new(answer))
    }
}

fn proposed(result: Result<(u64, Outcome), NotProposed>) -> Response {
    match result {
        Ok((index, outcome)) => Response::Outcome(index, outcome),
        Err(NotProposed::NotLeader(leader)) => Response::NotLeader(leader),
        Err(NotProposed::Unknown) => Response::Failed,
    }
}
