//! Writing: a proposal is answered after a majority has it on disk and it is applied here.

use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, Fatal, ForwardToLeader, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResponse;
use state_machine::{Command, LogEntry};
use tokio::time::Instant;
use types::{AuthorProof, codec};

use super::{Committed, Handle};
use crate::error::ProposeError;
use crate::log_store::MAX_ENTRY_BYTES;
use crate::raft_types::{Proposal, Types};
use crate::reserve::DiskRoom;

/// Time for a proposal to commit: longer than any election, short enough for a person.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause before asking again while the lease of a new leader is not there yet.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// What to do about a refused write.
enum Refused {
    Retry,
    Answer(ProposeError),
}

impl Handle {
    /// Appends `entry`, waits until it is durable on a majority and applied here, and returns its
    /// outcome. Only on the leader.
    ///
    /// # Errors
    /// Not the leader, no majority, too large, or storage failed; [`ProposeError::Unknown`] if it may
    /// have been committed.
    pub async fn propose(&self, entry: LogEntry) -> Result<Committed, ProposeError> {
        self.propose_in(entry, None).await
    }

    /// The same, for what is true in this term only: nothing is appended once the lead of `term` is over, also if this
    /// node leads again.
    ///
    /// # Errors
    /// The same; [`ProposeError::NotLeader`] in another term.
    pub async fn propose_in_term(
        &self,
        entry: LogEntry,
        term: u64,
    ) -> Result<Committed, ProposeError> {
        self.propose_in(entry, Some(term)).await
    }

    async fn propose_in(
        &self,
        entry: LogEntry,
        term: Option<u64>,
    ) -> Result<Committed, ProposeError> {
        let bytes = Bytes::from(codec::encode(&entry));
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(ProposeError::TooLarge {
                bytes: bytes.len(),
                limit: MAX_ENTRY_BYTES,
            });
        }
        if let Some(why) = self.inner.receiver.stores.failure.why() {
            return Err(ProposeError::Stopped { why });
        }
        self.check_room(&entry)?;
        let start = Instant::now();
        loop {
            let write = self.write(Proposal(bytes.clone()), term);
            let result = match tokio::time::timeout_at(start + DEADLINE, write).await {
                Ok(result) => result,
                Err(_elapsed) => {
                    let why = format!("no majority confirmed it within {DEADLINE:?}");
                    return Err(ProposeError::Unknown { why });
                }
            };
            let error = match result {
                Ok(response) => {
                    let reply = response.data;
                    return Ok(Committed {
                        index: reply.index,
                        outcome: reply.outcome,
                    });
                }
                Err(error) => error,
            };
            match self.refused(error) {
                Refused::Retry if start.elapsed() < self.inner.config.timing.election_max() * 2 => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Refused::Retry => {
                    let why = "this node leads, but reaches no majority of the voters".to_owned();
                    return Err(ProposeError::Unavailable { why });
                }
                Refused::Answer(error) => return Err(error),
            }
        }
    }

    /// One try. openraft compares the term where it appends, so that nothing comes between.
    async fn write(
        &self,
        proposal: Proposal,
        term: Option<u64>,
    ) -> Result<ClientWriteResponse<Types>, RaftError<Types, ClientWriteError<Types>>> {
        let raft = &self.inner.raft;
        let Some(term) = term else {
            return raft.client_write(proposal).await;
        };
        let (responder, answer) = ProgressResponder::complete_only();
        let write = raft.write(proposal).with_leader(term).responder(responder);
        write.await.map_err(RaftError::Fatal)?;
        match answer.await {
            Ok(result) => result.map_err(RaftError::APIError),
            Err(_dropped) => Err(RaftError::Fatal(Fatal::Stopped)),
        }
    }

    /// While room is low, what nodes report and what a person stops still goes in: it lets things end.
    fn check_room(&self, entry: &LogEntry) -> Result<(), ProposeError> {
        let is_needed = entry.author.proof == AuthorProof::Node
            || matches!(entry.command, Command::StopExperiment(_));
        let room = self.inner.reserve.room();
        let refused = match room {
            DiskRoom::Enough => false,
            DiskRoom::Low { .. } => !is_needed,
            DiskRoom::Full { .. } => true,
        };
        match room.problem(self.inner.reserve.directory()) {
            Some(problem) if refused => Err(ProposeError::DiskFull { problem }),
            Some(_) | None => Ok(()),
        }
    }

    fn refused(&self, error: RaftError<Types, ClientWriteError<Types>>) -> Refused {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                self.forwarded(forward)
            }
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
                let why = "another leader took over before it was confirmed".to_owned();
                Refused::Answer(ProposeError::Unknown { why })
            }
            RaftError::APIError(other) => Refused::Answer(ProposeError::Unavailable {
                why: other.to_string(),
            }),
            RaftError::Fatal(fatal) => Refused::Answer(ProposeError::Stopped {
                why: self.why_stopped(&fatal),
            }),
        }
    }

    /// Right after an election or a transfer openraft refuses with an empty forward, although this
    /// node leads, until a majority has answered it once.
    fn forwarded(&self, forward: ForwardToLeader<Types>) -> Refused {
        match forward.leader_id {
            None if self.inner.raft.is_leader() => Refused::Retry,
            leader => Refused::Answer(ProposeError::NotLeader {
                leader: leader.map(|replica| replica.0),
            }),
        }
    }
}
