//! Queues and tokens: made, listed, ended.

use state_machine::{Command, CreateJoinToken, CreateQueue, JoinToken, RevokeToken};
use types::{Author, DurationMs, JoinTokenText, LogIndex, QueueName, RequestId, TokenId};

use crate::author::Caller;
use crate::call::{ReadOptions, Reply, Request};
use crate::doorkeeper::refuse_wrong_clock;
use crate::error::{ErrorKind, ServiceError};
use crate::experiment_views::with_names;
use crate::handle::{Handle, now};
use crate::steer::limits_view;
use crate::submit::{invalid, unexpected};
use crate::view::{
    Answer, CreateJoinTokenRequest, CreateQueueRequest, JoinTokenView, QueueView, TokenCreated,
};

/// Life of a join token unless told otherwise.
const DEFAULT_TOKEN_LIFE: DurationMs = DurationMs::from_secs(3_600);
/// Longest life of a join token: a forgotten one must not open the cluster next year.
const MAX_TOKEN_LIFE: DurationMs = DurationMs::from_secs(30 * 86_400);
/// Most uses of one join token.
const MAX_TOKEN_USES: u32 = 1_000;

impl Handle {
    /// Makes a queue or changes its priority.
    ///
    /// # Errors
    /// The name is invalid or no majority answers.
    pub async fn create_queue(
        &self,
        caller: &Caller,
        request: CreateQueueRequest,
    ) -> Result<Answer<QueueView>, ServiceError> {
        match self
            .call(caller, Request::CreateQueue(request), None)
            .await?
        {
            Reply::Queue(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// The caller is no admin, the values make no sense, or no majority answers.
    pub async fn create_join_token(
        &self,
        caller: &Caller,
        request: CreateJoinTokenRequest,
    ) -> Result<TokenCreated, ServiceError> {
        match self
            .call(caller, Request::CreateJoinToken(request), None)
            .await?
        {
            Reply::Token(token) => Ok(token),
            other => Err(unexpected(&other)),
        }
    }

    /// Lists the join tokens that are not yet forgotten.
    ///
    /// # Errors
    /// The caller is no admin, or no majority answers.
    pub async fn join_tokens(
        &self,
        caller: &Caller,
        read: ReadOptions,
    ) -> Result<Answer<Vec<JoinTokenView>>, ServiceError> {
        match self.call(caller, Request::JoinTokens(read), None).await? {
            Reply::JoinTokens(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a token of either kind.
    ///
    /// # Errors
    /// It is unknown, or the caller is no admin.
    pub async fn revoke_token(&self, caller: &Caller, id: &str) -> Result<(), ServiceError> {
        let id: TokenId = id
            .parse()
            .map_err(|error: types::IdError| invalid(&error.to_string()))?;
        self.call(caller, Request::RevokeToken(id), None)
            .await
            .map(drop)
    }

    pub(crate) async fn execute_create_queue(
        &self,
        author: &Author,
        request_id: RequestId,
        request: &CreateQueueRequest,
    ) -> Result<Answer<QueueView>, ServiceError> {
        let name: QueueName = request
            .name
            .parse()
            .map_err(|error: types::IdError| invalid(&error.to_string()))?;
        let command = Command::CreateQueue(CreateQueue {
            name: name.clone(),
            priority: request.priority,
        });
        let (index, _) = self.propose(author, Some(request_id), command).await?;
        self.queue_at(&name, index)
    }

    /// A queue as of a log index that this node has applied.
    pub(crate) fn queue_at(
        &self,
        name: &QueueName,
        index: LogIndex,
    ) -> Result<Answer<QueueView>, ServiceError> {
        let queues = self.queue_views();
        let body = queues.into_iter().find(|queue| queue.name == name.as_str());
        let body = body.ok_or_else(|| {
            ServiceError::new(ErrorKind::NotFound, "unknown-queue", "the queue is gone")
        })?;
        Ok(Answer {
            index: index.0,
            age_ms: 0,
            body,
        })
    }

    /// Without a request id: a repeat makes another token with its own secret, and the one whose answer was lost is
    /// never used.
    pub(crate) async fn execute_create_join_token(
        &self,
        author: &Author,
        request: &CreateJoinTokenRequest,
    ) -> Result<TokenCreated, ServiceError> {
        refuse_wrong_clock()?;
        let uses = request.uses.unwrap_or(1);
        let life = request.expires_in_ms.map_or(DEFAULT_TOKEN_LIFE, DurationMs);
        if uses == 0 || uses > MAX_TOKEN_USES || life.0 == 0 || life > MAX_TOKEN_LIFE {
            return Err(invalid(&format!(
                "a join token has 1 to {MAX_TOKEN_USES} uses and lives at most {MAX_TOKEN_LIFE}"
            )));
        }
        let state = self.inner.consensus.state();
        let cluster = state
            .cluster()
            .ok_or_else(|| self.no_leader("the cluster is not founded yet"))?;
        let facts = self.member_facts();
        let voters = self.inner.consensus.voters();
        let own = self.node_id();
        // The leader first (it made the token), then the other voters: any of them can admit.
        let mut order: Vec<_> = voters.iter().filter(|node| *node != own).collect();
        order.insert(0, own);
        let addresses = order
            .into_iter()
            .filter_map(|node| facts.get(node))
            .flat_map(|facts| &facts.control_addresses);
        let text = JoinTokenText {
            cluster,
            token: random_token_id()?,
            secret: rand::random(),
            addresses: addresses.take(MAX_TOKEN_ADDRESSES).cloned().collect(),
        };
        let expires_at = now() + life;
        let command = CreateJoinToken {
            id: text.token.clone(),
            verifier: text.verifier(),
            uses,
            expires_at,
        };
        self.propose(author, None, Command::CreateJoinToken(command))
            .await?;
        Ok(TokenCreated {
            id: text.token.to_string(),
            token: text.to_string(),
            expires_at: Some(expires_at.0),
        })
    }

    pub(crate) async fn read_join_tokens(
        &self,
        read: ReadOptions,
    ) -> Result<Answer<Vec<JoinTokenView>>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        let state = self.inner.consensus.state();
        let view = |token: &JoinToken| {
            let word = if now() >= token.expires_at {
                "expired"
            } else if token.uses_left == 0 {
                "used-up"
            } else {
                "good"
            };
            JoinTokenView {
                id: token.id.to_string(),
                uses_left: token.uses_left,
                expires_at: token.expires_at.0,
                created_by: token.created_by.clone(),
                state: word.to_owned(),
            }
        };
        let mut body: Vec<_> = state.join_tokens().map(view).collect();
        body.sort_by(|a, b| (a.expires_at, &a.id).cmp(&(b.expires_at, &b.id)));
        Ok(Answer {
            index: state.applied().0,
            age_ms,
            body,
        })
    }

    pub(crate) async fn execute_revoke(
        &self,
        author: &Author,
        request_id: RequestId,
        id: TokenId,
    ) -> Result<(), ServiceError> {
        self.propose(
            author,
            Some(request_id),
            Command::RevokeToken(RevokeToken { id }),
        )
        .await
        .map(drop)
    }

    pub(crate) async fn read_queues(
        &self,
        read: ReadOptions,
    ) -> Result<Answer<Vec<QueueView>>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        Ok(Answer {
            index: self.inner.consensus.state().applied().0,
            age_ms,
            body: self.queue_views(),
        })
    }

    fn queue_views(&self) -> Vec<QueueView> {
        let state = self.inner.consensus.state();
        let count = |name: &QueueName, waits: bool| {
            let in_queue = |queue: &QueueName| queue == name;
            let found = if waits {
                state.waiting().filter(|one| in_queue(&one.queue)).count()
            } else {
                state
                    .active()
                    .filter(|(one, _)| in_queue(&one.queue))
                    .count()
            };
            found as u64
        };
        let queues = state.queues();
        queues
            .map(|queue| QueueView {
                name: queue.name.to_string(),
                priority: queue.priority,
                weight: queue.weight,
                paused: queue
                    .paused
                    .as_ref()
                    .map(|word| with_names(&state, &word.to_string())),
                limits: limits_view(queue.limits),
                user_limits: limits_view(queue.user_limits),
                waiting: count(&queue.name, true),
                active: count(&queue.name, false),
                created_by: with_names(&state, &queue.created_by),
            })
            .collect()
    }
}

/// Addresses that a token carries: a few members' are enough to find the cluster, and the text stays copyable.
const MAX_TOKEN_ADDRESSES: usize = 6;

pub(crate) fn random_token_id() -> Result<TokenId, ServiceError> {
    let bits: u32 = rand::random();
    format!("t-{bits:08x}")
        .parse()
        .map_err(|error: types::IdError| invalid(&error.to_string()))
}
