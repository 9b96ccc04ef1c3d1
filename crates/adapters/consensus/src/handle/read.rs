//! Linearizable reads: the index that a state must have reached (`ReadIndex`, Raft thesis §6.4). One
//! quorum round serves all reads that were waiting when it began.

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use types::{LogIndex, NodeId};

use super::Handle;
use crate::error::ReadError;
use crate::failure::Failure;
use crate::raft_types::Raft;
use crate::transport::Transport;
use crate::wire::{Request, Response};

/// Reads that may wait for a round; beyond it callers wait for a place.
const QUEUE: usize = 1_024;
/// Pause before another try when nobody leads.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// What a round said.
#[derive(Clone, Debug)]
enum Round {
    Index(LogIndex),
    NotLeader(Option<NodeId>),
    /// Worth another try.
    NoQuorum(String),
    Stopped(String),
}

struct Read {
    /// Asked by another replica: must be answered here, not passed on.
    local: bool,
    answer: oneshot::Sender<Round>,
}

/// Where reads wait.
#[derive(Clone, Debug)]
pub(crate) struct ReadQueue(mpsc::Sender<Read>);

/// The task's end of the queue.
#[derive(Debug)]
pub(crate) struct Reads(mpsc::Receiver<Read>);

impl ReadQueue {
    pub(crate) fn new() -> (Self, Reads) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), Reads(receiver))
    }

    async fn ask(&self, local: bool) -> Round {
        let (answer, answered) = oneshot::channel();
        let stopped = || Round::Stopped("it was shut down".to_owned());
        if self.0.send(Read { local, answer }).await.is_err() {
            return stopped();
        }
        answered.await.unwrap_or_else(|_closed| stopped())
    }
}

/// What a round needs.
pub(crate) struct Asker {
    pub(crate) raft: Raft,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) failure: Failure,
    /// Time for one round.
    pub(crate) deadline: Duration,
}

/// Answers reads, batch by batch, until the queue closes.
pub(crate) async fn serve_reads(asker: Asker, mut reads: Reads) {
    let mut batch = Vec::new();
    while reads.0.recv_many(&mut batch, QUEUE).await > 0 {
        let round = asker.ask_here().await;
        let passed_on = match &round {
            Round::NotLeader(Some(leader)) if batch.iter().any(|read| !read.local) => {
                Some(asker.ask_leader(leader).await)
            }
            _ => None,
        };
        for read in batch.drain(..) {
            let answer = match &passed_on {
                Some(answer) if !read.local => answer.clone(),
                _ => round.clone(),
            };
            // Whoever asked may have given up.
            drop(read.answer.send(answer));
        }
    }
}

impl Asker {
    async fn ask_here(&self) -> Round {
        let asking = self.raft.get_read_log_id(ReadPolicy::ReadIndex);
        let result = match tokio::time::timeout(self.deadline, asking).await {
            Ok(result) => result,
            Err(_elapsed) => return Round::NoQuorum("no majority answered the leader".to_owned()),
        };
        match result {
            Ok((read, _applied)) => Round::Index(LogIndex(read.index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Round::NotLeader(forward.leader_id.map(|replica| replica.0))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(error))) => {
                Round::NoQuorum(error.to_string())
            }
            Err(RaftError::Fatal(fatal)) => {
                Round::Stopped(self.failure.why().unwrap_or_else(|| fatal.to_string()))
            }
        }
    }

    async fn ask_leader(&self, leader: &NodeId) -> Round {
        let answer = self
            .transport
            .call(leader.clone(), Request::ReadIndex.encode(), self.deadline)
            .await;
        match answer.map(|bytes| Response::decode(&bytes)) {
            Ok(Ok(Response::ReadIndex(index))) => Round::Index(index),
            Ok(Ok(Response::NotLeader { .. })) => Round::NotLeader(None),
            Ok(Ok(Response::Failed(why))) => Round::NoQuorum(format!("the leader {leader}: {why}")),
            Ok(Ok(other)) => Round::NoQuorum(format!(
                "the leader {leader} answered with {:?}",
                other.name()
            )),
            Ok(Err(error)) => {
                Round::NoQuorum(format!("the answer of the leader {leader}: {error}"))
            }
            Err(error) => Round::NoQuorum(format!("the leader {leader}: {error}")),
        }
    }
}

impl Handle {
    /// Returns an index such that a state which has applied it, as this node's has on return, shows
    /// every write acknowledged before the call.
    ///
    /// # Errors
    /// No leader or no majority within `deadline`, or consensus has stopped.
    pub async fn read_index(&self, deadline: Duration) -> Result<LogIndex, ReadError> {
        self.read(false, deadline).await
    }

    /// The same, but only while this node itself leads: for what a leader promises in its own name. A read that another
    /// leader has confirmed says that this node's state is new, not that its word binds anybody.
    ///
    /// # Errors
    /// This node does not lead, no majority within `deadline`, or consensus has stopped.
    pub async fn read_index_as_leader(&self, deadline: Duration) -> Result<LogIndex, ReadError> {
        self.read(true, deadline).await
    }

    async fn read(&self, local: bool, deadline: Duration) -> Result<LogIndex, ReadError> {
        let start = Instant::now();
        let mut why = "no leader is known".to_owned();
        while start.elapsed() < deadline {
            let rest = deadline.saturating_sub(start.elapsed());
            match tokio::time::timeout(rest, self.inner.reads.ask(local)).await {
                Ok(Round::Index(index)) => {
                    let rest = deadline.saturating_sub(start.elapsed());
                    match self.wait_applied(index, rest).await {
                        Ok(()) => return Ok(index),
                        Err(error) => why = error.to_string(),
                    }
                }
                Ok(Round::NotLeader(_)) if local => {
                    return Err(ReadError::Unavailable {
                        waited: start.elapsed(),
                        why: "this node does not lead".to_owned(),
                    });
                }
                Ok(Round::NotLeader(_)) => "no leader is known".clone_into(&mut why),
                Ok(Round::NoQuorum(missing)) => why = missing,
                Ok(Round::Stopped(why)) => return Err(ReadError::Stopped { why }),
                Err(_elapsed) => break,
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Err(ReadError::Unavailable {
            waited: deadline,
            why,
        })
    }

    /// Answers a read that another replica passed on to this one as the leader.
    pub(crate) async fn answer_read(&self, from: &NodeId) -> Response {
        match self.inner.reads.ask(true).await {
            Round::Index(index) => Response::ReadIndex(index),
            Round::NotLeader(leader) => Response::NotLeader { leader },
            Round::NoQuorum(why) | Round::Stopped(why) => {
                tracing::debug!(node_id = %from, error = why, "a passed-on read failed");
                Response::Failed(why)
            }
        }
    }
}
