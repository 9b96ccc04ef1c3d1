//! Writing down what was decided: on the leader, or through it.

use consensus::{Committed, ProposeError};
use state_machine::{Command, LogEntry, Outcome, RefusalCode};
use types::{Author, LogIndex, RequestId};

use crate::call::FORWARD_DEADLINE;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::peer_message::{PeerMessage, PeerReply};

impl Handle {
    /// Proposes a command on the leader; a refusal becomes an error.
    pub(crate) async fn propose(
        &self,
        author: &Author,
        request: Option<RequestId>,
        command: Command,
    ) -> Result<(LogIndex, Outcome), ServiceError> {
        let entry = self.entry(author, request, command);
        let committed = self.inner.consensus.propose(entry).await;
        self.outcome_of(committed)
    }

    /// Proposes for this node itself what is true only while it leads in `term`: another leader, and this node in a later
    /// term, may know better.
    ///
    /// # Errors
    /// The lead of that term is over, or the command was refused.
    pub async fn propose_in_term(
        &self,
        command: Command,
        term: u64,
    ) -> Result<Outcome, ServiceError> {
        let author = Author::node(self.node_id().clone());
        let entry = self.entry(&author, None, command);
        let committed = self.inner.consensus.propose_in_term(entry, term).await;
        self.outcome_of(committed).map(|(_, outcome)| outcome)
    }

    fn entry(&self, author: &Author, request: Option<RequestId>, command: Command) -> LogEntry {
        LogEntry {
            time: self.cluster_time(),
            author: author.clone(),
            request,
            command,
        }
    }

    /// A refusal becomes an error.
    fn outcome_of(
        &self,
        committed: Result<Committed, ProposeError>,
    ) -> Result<(LogIndex, Outcome), ServiceError> {
        let committed = committed.map_err(|error| self.propose_error(&error))?;
        match committed.outcome {
            Outcome::Refused(refusal) => {
                let (kind, code) = refusal_kind(refusal.code);
                Err(ServiceError::new(kind, code, refusal.message))
            }
            outcome @ (Outcome::Done
            | Outcome::Submitted(_)
            | Outcome::Placed(_)
            | Outcome::GroupSubmitted(_)) => Ok((committed.index, outcome)),
        }
    }

    /// Proposes for this node itself, here or through the leader.
    ///
    /// # Errors
    /// Nobody leads, or the command was refused.
    pub async fn propose_as_node(&self, command: Command) -> Result<Outcome, ServiceError> {
        if self.is_leader() {
            let author = Author::node(self.node_id().clone());
            return self
                .propose(&author, None, command)
                .await
                .map(|(_, outcome)| outcome);
        }
        match self
            .ask_leader(&PeerMessage::Propose(Box::new(command)), FORWARD_DEADLINE)
            .await?
        {
            PeerReply::Propose(Ok(outcome)) => Ok(outcome),
            PeerReply::Propose(Err(error)) => Err(self.follow_hint(error)),
            other => Err(ServiceError::new(
                ErrorKind::Internal,
                "bad-answer",
                format!("the leader answered {other:?}"),
            )),
        }
    }
}

fn refusal_kind(code: RefusalCode) -> (ErrorKind, &'static str) {
    match code {
        RefusalCode::AlreadyFounded => (ErrorKind::Conflict, "already-founded"),
        RefusalCode::UnknownExperiment => (ErrorKind::NotFound, "unknown-experiment"),
        RefusalCode::AlreadyEnded => (ErrorKind::Conflict, "already-ended"),
        RefusalCode::UnknownQueue => (ErrorKind::NotFound, "unknown-queue"),
        RefusalCode::UnknownNode => (ErrorKind::NotFound, "unknown-node"),
        RefusalCode::UnknownToken => (ErrorKind::NotFound, "unknown-token"),
        RefusalCode::TokenExpired => (ErrorKind::Forbidden, "token-expired"),
        RefusalCode::TokenUsedUp => (ErrorKind::Forbidden, "token-used-up"),
        RefusalCode::NameTaken => (ErrorKind::Conflict, "name-taken"),
        RefusalCode::NotWaiting => (ErrorKind::Conflict, "not-waiting"),
        RefusalCode::Stale => (ErrorKind::Conflict, "stale"),
        RefusalCode::DoesNotFit => (ErrorKind::Conflict, "does-not-fit"),
        RefusalCode::NotAllowed => (ErrorKind::Forbidden, "not-allowed"),
        RefusalCode::Invalid => (ErrorKind::Invalid, "invalid"),
        RefusalCode::Removed => (ErrorKind::Forbidden, "removed"),
        RefusalCode::UnknownGroup => (ErrorKind::NotFound, "unknown-group"),
    }
}
