//! Tokens: to join as a node, to act as a person; and their end.

use serde::{Deserialize, Serialize};
use types::{DurationMs, Role, Timestamp, TokenId};

use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{JoinToken, UserToken};
use crate::state::{ClusterState, Context};

const DAY: DurationMs = DurationMs::from_secs(86_400);

/// Makes a join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateJoinToken {
    /// Public half, chosen at random by the entry node.
    pub id: TokenId,
    /// Key that checks proofs.
    pub verifier: [u8; 32],
    /// Admissions that it is good for.
    pub uses: u32,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl CreateJoinToken {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        if state.join_tokens.contains_key(&self.id) {
            return Outcome::refused(
                RefusalCode::NameTaken,
                format!("there is a token {} already", self.id),
            );
        }
        if self.uses == 0 || self.expires_at <= context.now {
            let message = "a join token needs at least one use and an end in the future";
            return Outcome::refused(RefusalCode::Invalid, message);
        }
        let token = JoinToken {
            id: self.id.clone(),
            verifier: self.verifier,
            uses_left: self.uses,
            expires_at: self.expires_at,
            created_by: context.author.to_string(),
        };
        // Dead tokens are kept for a day, so that their holders read why they are refused.
        let old = state
            .join_tokens
            .values()
            .filter(|old| old.expires_at + DAY <= context.now);
        let dead: Vec<_> = old.map(|old| old.id.clone()).collect();
        for id in dead {
            state.join_tokens.remove(&id);
        }
        state.join_tokens.insert(self.id.clone(), token);
        let detail = format!(
            "{}: {} uses, for {}",
            self.id,
            self.uses,
            self.expires_at.since(context.now)
        );
        state.record(context, Action::JoinTokenCreated, None, detail);
        context.events.push(Event::TokensChanged);
        Outcome::Done
    }
}

/// Makes a token for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateUserToken {
    /// Public half.
    pub id: TokenId,
    /// BLAKE3 of the secret.
    pub secret_hash: [u8; 32],
    /// Person.
    pub user: String,
    /// What the bearer may do.
    pub role: Role,
}

impl CreateUserToken {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        if state.user_tokens.contains_key(&self.id) {
            return Outcome::refused(
                RefusalCode::NameTaken,
                format!("there is a token {} already", self.id),
            );
        }
        let token = UserToken {
            id: self.id.clone(),
            secret_hash: self.secret_hash,
            user: self.user.clone(),
            role: self.role,
            created_at: context.now,
        };
        state.user_tokens.insert(self.id.clone(), token);
        let detail = format!("{} for {} as {:?}", self.id, self.user, self.role);
        state.record(context, Action::UserTokenCreated, None, detail);
        context.events.push(Event::TokensChanged);
        Outcome::Done
    }
}

/// Ends a token of either kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeToken {
    /// Which.
    pub id: TokenId,
}

impl RevokeToken {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let join = state.join_tokens.remove(&self.id).is_some();
        let user = state.user_tokens.remove(&self.id).is_some();
        state.user_token_terms.remove(&self.id);
        if !join && !user {
            return Outcome::refused(
                RefusalCode::UnknownToken,
                format!("there is no token {}", self.id),
            );
        }
        state.record(context, Action::TokenRevoked, None, self.id.to_string());
        context.events.push(Event::TokensChanged);
        Outcome::Done
    }
}
