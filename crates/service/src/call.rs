//! Requests of people: answered here when this node can, else by the leader.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use state_machine::Experiment;
use tokio::time::Instant;
use types::{Author, LogIndex, NodeId, RequestId, Role, TokenId};

use crate::again::Again;
use crate::author::{Caller, KnownUserToken, Vouched};
use crate::backup::session::BackupOpened;
use crate::error::{ErrorKind, ServiceError};
use crate::groups::{GroupAnswer, GroupAsk};
use crate::handle::{Handle, now};
use crate::members::NodeChange;
use crate::peer_message::{PeerMessage, PeerReply};
use crate::steer::{QueueChange, Steer};
use crate::view::{
    Answer, CreateJoinTokenRequest, CreateQueueRequest, CreateUserTokenRequest, ExperimentDetail,
    ExperimentFilter, ExperimentList, ExperimentSummary, JoinTokenView, LedgerEntryView,
    LedgerFilter, LedgerHead, LedgerPage, NodeChangeView, NodesView, QueueView, SubmitReply,
    SubmitRequest, TokenCreated, UserTokenView, WhyView,
};

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOptions {
    /// Whatever this replica has, with its age, instead of a linearizable read.
    pub stale: bool,
    /// Never older than this log index.
    pub min_index: u64,
}

/// Everything a person can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    Submit(Box<SubmitRequest>),
    Stop(String),
    Move {
        id: String,
        queue: String,
    },
    CreateQueue(CreateQueueRequest),
    CreateJoinToken(CreateJoinTokenRequest),
    CreateUserToken(CreateUserTokenRequest),
    RevokeToken(TokenId),
    RemoveUser(String),
    ChangeNode(String, NodeChange),
    Steer(String, Steer),
    ChangeQueue(String, QueueChange),
    WeighUser(String, u32),
    Experiments(ExperimentFilter, ReadOptions),
    Experiment(String, ReadOptions),
    Why(String, ReadOptions),
    Nodes(ReadOptions),
    Queues(ReadOptions),
    Ledger(LedgerFilter, ReadOptions),
    LedgerRecords {
        from: u64,
        limit: u64,
        read: ReadOptions,
    },
    LedgerHead(ReadOptions),
    Record(String, ReadOptions),
    UserToken(TokenId),
    UserTokens(ReadOptions),
    JoinTokens(ReadOptions),
    AcceptLate {
        id: String,
        attempt: Option<u32>,
    },
    NoteBackup {
        with_blobs: bool,
    },
    OpenBackup {
        with_blobs: bool,
        read: ReadOptions,
    },
    Again(String, Again),
    Group(Box<GroupAsk>),
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Submit(SubmitReply),
    Summary(Answer<ExperimentSummary>),
    Queue(Answer<QueueView>),
    Token(TokenCreated),
    Done,
    Experiments(Answer<ExperimentList>),
    Experiment(Box<Answer<ExperimentDetail>>),
    Why(Answer<WhyView>),
    Nodes(Answer<NodesView>),
    NodeChanged(Answer<NodeChangeView>),
    Queues(Answer<Vec<QueueView>>),
    Ledger(Answer<Vec<LedgerEntryView>>),
    LedgerRecords(Answer<LedgerPage>),
    LedgerHead(Answer<LedgerHead>),
    Record(Box<Answer<Experiment>>),
    UserToken(Option<Box<KnownUserToken>>),
    UserTokens(Answer<Vec<UserTokenView>>),
    JoinTokens(Answer<Vec<JoinTokenView>>),
    Noted(u64),
    Backup(Box<BackupOpened>),
    Group(Box<GroupAnswer>),
}

impl Request {
    fn is_read(&self) -> bool {
        match self {
            Self::Submit(_)
            | Self::Stop(_)
            | Self::Move { .. }
            | Self::AcceptLate { .. }
            | Self::CreateQueue(_)
            | Self::CreateJoinToken(_)
            | Self::CreateUserToken(_)
            | Self::RevokeToken(_)
            | Self::RemoveUser(_)
            | Self::ChangeNode(..)
            | Self::Steer(..)
            | Self::ChangeQueue(..)
            | Self::WeighUser(..)
            | Self::Again(..)
            | Self::NoteBackup { .. } => false,
            Self::Group(ask) => ask.is_read(),
            Self::Experiments(..)
            | Self::Experiment(..)
            | Self::Why(..)
            | Self::Nodes(_)
            | Self::Queues(_)
            | Self::Ledger(..)
            | Self::LedgerRecords { .. }
            | Self::LedgerHead(_)
            | Self::Record(..)
            | Self::UserToken(_)
            | Self::UserTokens(_)
            | Self::JoinTokens(_)
            | Self::OpenBackup { .. } => true,
        }
    }

    /// Least role that may ask it; `apply` checks again what changes the state.
    fn needed_role(&self) -> Role {
        match self {
            Self::CreateQueue(_)
            | Self::CreateJoinToken(_)
            | Self::CreateUserToken(_)
            | Self::RevokeToken(_)
            | Self::RemoveUser(_)
            | Self::ChangeNode(..)
            | Self::ChangeQueue(..)
            | Self::WeighUser(..)
            | Self::JoinTokens(_)
            | Self::NoteBackup { .. }
            | Self::OpenBackup { .. } => Role::Admin,
            Self::Submit(_)
            | Self::Stop(_)
            | Self::Move { .. }
            | Self::Steer(..)
            | Self::Again(..)
            | Self::AcceptLate { .. } => Role::Member,
            Self::Group(ask) => ask.needed_role(),
            Self::Experiments(..)
            | Self::Experiment(..)
            | Self::Why(..)
            | Self::Nodes(_)
            | Self::Queues(_)
            | Self::Ledger(..)
            | Self::LedgerRecords { .. }
            | Self::LedgerHead(_)
            | Self::Record(..)
            | Self::UserToken(_)
            | Self::UserTokens(_) => Role::Viewer,
        }
    }

    /// Refuses who may not ask it, before anything is proposed.
    pub(crate) fn check_role(&self, role: Role) -> Result<(), ServiceError> {
        let message = match self.needed_role() {
            needed if role >= needed => return Ok(()),
            Role::Admin => "only an administrator may do this",
            Role::Viewer | Role::Member => "a viewer may read but not change anything",
        };
        let error = ServiceError::new(ErrorKind::Forbidden, "not-allowed", message);
        Err(error.hint("`muster user` shows who you are; an administrator makes tokens with `muster user add NAME --role …`"))
    }
}

/// Time for one forwarded request; longer than any answer takes on a live node.
pub(crate) const FORWARD_DEADLINE: Duration = Duration::from_secs(5);

impl Handle {
    /// Answers a request of a caller at this node, here or by forwarding.
    pub(crate) async fn call(
        &self,
        caller: &Caller,
        request: Request,
        key: Option<&str>,
    ) -> Result<Reply, ServiceError> {
        request.check_role(caller.role)?;
        let request_id = match key {
            Some(key) => RequestId::from_key(&caller.user, key),
            None => RequestId {
                session: rand::random(),
                sequence: 0,
            },
        };
        let here = if request.is_read() {
            self.is_replica()
        } else {
            self.is_leader()
        };
        if here {
            let bytes = if matches!(caller.proof, crate::CallerProof::Socket) {
                json(&request)
            } else {
                Bytes::new()
            };
            let author = self.author_of(self.node_id(), &self.vouch(caller, request_id, bytes))?;
            match self.execute(&author, request_id, request.clone()).await {
                // Also one whose disk is full: it is about to hand leadership over, if anybody can take it.
                Err(error) if matches!(error.code.as_str(), "not-leader" | "disk-full") => {}
                answer => return answer,
            }
        }
        let vouched = self.vouch(caller, request_id, json(&request));
        self.forward(vouched, request).await
    }

    /// Sends a request to whoever leads until it is answered or the patience is over. Repeats carry the same id.
    async fn forward(&self, vouched: Vouched, request: Request) -> Result<Reply, ServiceError> {
        let deadline = Instant::now() + self.inner.config.write_patience;
        loop {
            match self.forward_once(&vouched, &request).await {
                Ok(reply) => return Ok(reply),
                Err(error) if error.kind != ErrorKind::Unavailable => return Err(error),
                Err(error) if !self.wait_for_leader(deadline).await => {
                    if error.code == "disk-full" {
                        return Err(error);
                    }
                    return Err(self.no_leader(&error.message));
                }
                Err(_) => {}
            }
        }
    }

    async fn forward_once(
        &self,
        vouched: &Vouched,
        request: &Request,
    ) -> Result<Reply, ServiceError> {
        if self.is_leader() {
            let author = self.author_of(self.node_id(), vouched)?;
            return self
                .execute(&author, vouched.request_id, request.clone())
                .await;
        }
        match self
            .ask_leader(&PeerMessage::Call(vouched.clone()), FORWARD_DEADLINE)
            .await?
        {
            PeerReply::Call(Ok(reply)) => serde_json::from_slice(&reply).map_err(|error| {
                let message =
                    format!("the leader answered what this version does not understand: {error}");
                ServiceError::new(ErrorKind::Internal, "bad-answer", message)
            }),
            PeerReply::Call(Err(error)) => Err(self.follow_hint(error)),
            other => Err(ServiceError::new(
                ErrorKind::Internal,
                "bad-answer",
                format!("the leader answered {other:?}"),
            )),
        }
    }

    /// A peer's forwarded request, answered as JSON.
    pub(crate) async fn answer_call(
        &self,
        from: &NodeId,
        vouched: Vouched,
    ) -> Result<Bytes, ServiceError> {
        let author = self.author_of(from, &vouched)?;
        let request: Request = serde_json::from_slice(&vouched.request).map_err(|error| {
            let message = format!("the request is not understood by this version: {error}");
            ServiceError::new(ErrorKind::Invalid, "bad-request", message)
        })?;
        request.check_role(author.role)?;
        if !(self.is_leader() || request.is_read() && self.is_replica()) {
            return Err(self.not_leader());
        }
        let reply = self.execute(&author, vouched.request_id, request).await?;
        Ok(json(&reply))
    }

    #[expect(clippy::too_many_lines, reason = "one arm per request")]
    async fn execute(
        &self,
        author: &Author,
        request: RequestId,
        what: Request,
    ) -> Result<Reply, ServiceError> {
        match what {
            Request::Submit(submit) => self
                .execute_submit(author, request, *submit)
                .await
                .map(Reply::Submit),
            Request::Group(ask) => self
                .execute_group(author, request, *ask)
                .await
                .map(|answer| Reply::Group(Box::new(answer))),
            Request::Again(id, again) => self
                .execute_again(author, request, &id, again)
                .await
                .map(Reply::Submit),
            Request::Stop(id) => self
                .execute_stop(author, request, &id)
                .await
                .map(Reply::Summary),
            Request::Move { id, queue } => self
                .execute_move(author, request, &id, &queue)
                .await
                .map(Reply::Summary),
            Request::AcceptLate { id, attempt } => self
                .execute_accept_late(author, request, &id, attempt)
                .await
                .map(Reply::Summary),
            Request::CreateQueue(queue) => self
                .execute_create_queue(author, request, &queue)
                .await
                .map(Reply::Queue),
            Request::CreateJoinToken(token) => self
                .execute_create_join_token(author, &token)
                .await
                .map(Reply::Token),
            Request::CreateUserToken(token) => self
                .execute_create_user_token(author, &token)
                .await
                .map(Reply::Token),
            Request::RevokeToken(id) => self
                .execute_revoke(author, request, id)
                .await
                .map(|()| Reply::Done),
            Request::NoteBackup { with_blobs } => self
                .execute_note_backup(author, request, with_blobs)
                .await
                .map(Reply::Noted),
            Request::OpenBackup { with_blobs, read } => self
                .execute_open_backup(author, with_blobs, read)
                .await
                .map(|opened| Reply::Backup(Box::new(opened))),
            Request::Experiments(filter, read) => self
                .read_experiments(&filter, read)
                .await
                .map(Reply::Experiments),
            Request::Experiment(id, read) => self
                .read_experiment(&id, read)
                .await
                .map(|answer| Reply::Experiment(Box::new(answer))),
            Request::Why(id, read) => self.read_why(&id, read).await.map(Reply::Why),
            Request::ChangeNode(node, change) => self
                .execute_change_node(author, request, &node, change)
                .await
                .map(Reply::NodeChanged),
            Request::Steer(id, steer) => self
                .execute_steer(author, request, &id, steer)
                .await
                .map(Reply::Summary),
            Request::ChangeQueue(queue, change) => self
                .execute_change_queue(author, request, &queue, change)
                .await
                .map(Reply::Queue),
            Request::WeighUser(user, weight) => self
                .execute_weigh_user(author, request, user, weight)
                .await
                .map(|()| Reply::Done),
            Request::Nodes(read) => self.read_nodes(read).await.map(Reply::Nodes),
            Request::Queues(read) => self.read_queues(read).await.map(Reply::Queues),
            Request::Ledger(filter, read) => {
                self.read_ledger(&filter, read).await.map(Reply::Ledger)
            }
            Request::LedgerRecords { from, limit, read } => self
                .read_ledger_records(from, limit, read)
                .await
                .map(Reply::LedgerRecords),
            Request::LedgerHead(read) => self.read_ledger_head(read).await.map(Reply::LedgerHead),
            Request::Record(id, read) => self
                .read_record(&id, read)
                .await
                .map(|answer| Reply::Record(Box::new(answer))),
            Request::UserToken(id) => Ok(Reply::UserToken(self.user_token_here(&id).map(Box::new))),
            Request::UserTokens(read) => self
                .read_user_tokens(author, read)
                .await
                .map(Reply::UserTokens),
            Request::JoinTokens(read) => self.read_join_tokens(read).await.map(Reply::JoinTokens),
            Request::RemoveUser(user) => self
                .execute_remove_user(author, request, user)
                .await
                .map(|()| Reply::Done),
        }
    }

    /// Makes the local state as fresh as asked and says how old it is.
    pub(crate) async fn freshen(&self, read: ReadOptions) -> Result<u64, ServiceError> {
        let patience = self.inner.config.write_patience;
        let consensus = &self.inner.consensus;
        let age_ms = if read.stale {
            // Current only on a leader that a quorum has confirmed lately; elsewhere at most as old as its newest entry.
            if self.is_leader() {
                0
            } else {
                now().since(consensus.state().time()).0
            }
        } else {
            consensus
                .read_index(patience)
                .await
                .map_err(|error| self.no_leader(&error.to_string()))?;
            // All that was ever acknowledged is here now, so no answer can have carried a higher one.
            let applied = consensus.state().applied().0;
            if read.min_index > applied {
                let message = format!(
                    "no answer of this history carried the index {}: it has reached {applied}",
                    read.min_index
                );
                let error = ServiceError::new(ErrorKind::Invalid, "future-index", message);
                return Err(error.hint("leave X-Muster-Index out once: it may be of another cluster, or of the time before a restore"));
            }
            0
        };
        if read.min_index > 0 {
            let waited = consensus
                .wait_applied(LogIndex(read.min_index), patience)
                .await;
            waited.map_err(|error| self.no_leader(&error.to_string()))?;
        }
        Ok(age_ms)
    }
}

fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value)
        .expect("requests and replies have text keys only")
        .into()
}
