//! Tokens of people: made with an end, noted when used, ended with their user.

use serde::{Deserialize, Serialize};
use types::{DurationMs, Role, Timestamp, TokenId};

use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{UserToken, UserTokenTerms};
use crate::state::{ClusterState, Context};

/// Expired tokens are kept so long, that their holders read why they are refused.
const KEEP_EXPIRED: DurationMs = DurationMs::from_secs(7 * 86_400);
/// Tokens of people at once: a thousand people with four each.
const MAX_USER_TOKENS: usize = 4_096;
/// Uses that one command notes: what a node saw in an hour.
const MAX_USES: usize = 1_024;

/// Makes a token for a person that may end by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueUserToken {
    /// Public half.
    pub id: TokenId,
    /// BLAKE3 of the secret.
    pub secret_hash: [u8; 32],
    /// Person.
    pub user: String,
    /// What the bearer may do.
    pub role: Role,
    /// When it ends; none: it is good until it is revoked.
    pub expires_at: Option<Timestamp>,
}

impl IssueUserToken {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        if state.user_tokens.contains_key(&self.id) {
            return Outcome::refused(
                RefusalCode::NameTaken,
                format!("there is a token {} already", self.id),
            );
        }
        if self.expires_at.is_some_and(|end| end <= context.now) {
            let message = "a user token needs an end in the future";
            return Outcome::refused(RefusalCode::Invalid, message);
        }
        forget_expired(state, context.now);
        if state.user_tokens.len() >= MAX_USER_TOKENS {
            let message = format!(
                "there are {MAX_USER_TOKENS} user tokens already: revoke some, `muster user` lists them"
            );
            return Outcome::refused(RefusalCode::Invalid, message);
        }
        let token = UserToken {
            id: self.id.clone(),
            secret_hash: self.secret_hash,
            user: self.user.clone(),
            role: self.role,
            created_at: context.now,
        };
        let terms = UserTokenTerms {
            expires_at: self.expires_at,
            last_used_at: None,
            created_by: context.author.to_string(),
        };
        state.user_tokens.insert(self.id.clone(), token);
        state.user_token_terms.insert(self.id.clone(), terms);
        let life = self.expires_at.map_or_else(
            || "until revoked".to_owned(),
            |end| format!("for {}", end.since(context.now)),
        );
        let detail = format!("{} for {} as {:?}, {life}", self.id, self.user, self.role);
        state.record(context, Action::UserTokenCreated, None, detail);
        context.events.push(Event::TokensChanged);
        Outcome::Done
    }
}

fn forget_expired(state: &mut ClusterState, now: Timestamp) {
    let ended = |terms: &UserTokenTerms| {
        let end = terms.expires_at;
        end.is_some_and(|end| end + KEEP_EXPIRED <= now)
    };
    let terms = state.user_token_terms.iter();
    let old: Vec<_> = terms
        .filter(|(_, terms)| ended(terms))
        .map(|(id, _)| id.clone())
        .collect();
    for id in old {
        state.user_tokens.remove(&id);
        state.user_token_terms.remove(&id);
    }
}

/// Ends all tokens of a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveUser {
    /// Who.
    pub user: String,
}

impl RemoveUser {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let tokens = state.user_tokens.values();
        let ids: Vec<_> = tokens
            .filter(|token| token.user == self.user)
            .map(|token| token.id.clone())
            .collect();
        if ids.is_empty() {
            let message = format!("{} has no token: `muster user` lists who has", self.user);
            return Outcome::refused(RefusalCode::UnknownToken, message);
        }
        for id in &ids {
            state.user_tokens.remove(id);
            state.user_token_terms.remove(id);
        }
        let names: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let detail = format!("{}: {}", self.user, names.join(", "));
        state.record(context, Action::UserRemoved, None, detail);
        context.events.push(Event::TokensChanged);
        Outcome::Done
    }
}

/// A node says which tokens were used at its door, and when last; at most one word an hour for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteTokenUses {
    /// Token and time.
    pub uses: Vec<(TokenId, Timestamp)>,
}

impl NoteTokenUses {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        if self.uses.len() > MAX_USES {
            let message = format!("at most {MAX_USES} uses are noted at once");
            return Outcome::refused(RefusalCode::Invalid, message);
        }
        for (id, at) in &self.uses {
            // A node's clock may run ahead of the leader's: never later than now.
            let at = Some((*at).min(context.now));
            if let Some(terms) = state.user_token_terms.get_mut(id) {
                terms.last_used_at = terms.last_used_at.max(at);
            }
        }
        Outcome::Done
    }
}
