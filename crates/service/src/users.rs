//! People: their tokens made, listed, ended; and who somebody is.

use state_machine::{Command, IssueUserToken, RemoveUser};
use types::{Author, DurationMs, RequestId, Role, TokenId};

use crate::author::{Caller, CallerProof, KnownUserToken};
use crate::call::{ReadOptions, Reply, Request};
use crate::doorkeeper::refuse_wrong_clock;
use crate::error::ServiceError;
use crate::handle::{Handle, now};
use crate::submit::{invalid, unexpected};
use crate::tokens::random_token_id;
use crate::view::{Answer, CallerView, CreateUserTokenRequest, TokenCreated, UserTokenView};

/// Life of a user token unless told otherwise: a forgotten one ends within a season.
const DEFAULT_LIFE: DurationMs = DurationMs::from_secs(90 * 86_400);
/// Longest life of one that ends: two years.
const LONGEST_LIFE: DurationMs = DurationMs::from_secs(2 * 366 * 86_400);
/// Longest name of a user.
const MAX_USER_BYTES: usize = 64;

impl Handle {
    /// Makes a token for a person.
    ///
    /// # Errors
    /// The caller is no admin, the role is unknown, or no majority answers.
    pub async fn create_user_token(
        &self,
        caller: &Caller,
        request: CreateUserTokenRequest,
    ) -> Result<TokenCreated, ServiceError> {
        match self
            .call(caller, Request::CreateUserToken(request), None)
            .await?
        {
            Reply::Token(token) => Ok(token),
            other => Err(unexpected(&other)),
        }
    }

    /// Lists the tokens of people: all of them to an admin, the own ones to others.
    ///
    /// # Errors
    /// No majority answers.
    pub async fn user_tokens(
        &self,
        caller: &Caller,
        read: ReadOptions,
    ) -> Result<Answer<Vec<UserTokenView>>, ServiceError> {
        match self.call(caller, Request::UserTokens(read), None).await? {
            Reply::UserTokens(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends all tokens of a person.
    ///
    /// # Errors
    /// The caller is no admin, the person has none, or no majority answers.
    pub async fn remove_user(&self, caller: &Caller, user: &str) -> Result<(), ServiceError> {
        check_name(user)?;
        let request = Request::RemoveUser(user.to_owned());
        self.call(caller, request, None).await.map(drop)
    }

    /// Who the caller is to this node; `reason` is the surface's, which knew them.
    #[must_use]
    pub fn caller_view(&self, caller: &Caller, reason: &str) -> CallerView {
        let token = match &caller.proof {
            CallerProof::Socket => None,
            CallerProof::Token { id, .. } => Some(id.to_string()),
        };
        CallerView {
            user: caller.user.clone(),
            role: role_word(caller.role).to_owned(),
            token,
            node: self.inner.config.node_name.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Without a request id, like a join token.
    pub(crate) async fn execute_create_user_token(
        &self,
        author: &Author,
        request: &CreateUserTokenRequest,
    ) -> Result<TokenCreated, ServiceError> {
        refuse_wrong_clock()?;
        let role = read_role(&request.role)?;
        check_name(&request.user)?;
        let life = request.expires_in_ms.map_or(DEFAULT_LIFE, DurationMs);
        if request.never_expires && request.expires_in_ms.is_some() {
            return Err(invalid(
                "a token either expires or never does: give one of both",
            ));
        }
        if life.0 == 0 || life > LONGEST_LIFE {
            return Err(invalid(&format!(
                "a user token lives at most {LONGEST_LIFE}, or until it is revoked (never_expires)"
            )));
        }
        let expires_at = (!request.never_expires).then(|| now() + life);
        let id = random_token_id()?;
        let secret: String = rand::random::<[u8; 32]>()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let command = IssueUserToken {
            id: id.clone(),
            secret_hash: *blake3::hash(secret.as_bytes()).as_bytes(),
            user: request.user.clone(),
            role,
            expires_at,
        };
        self.propose(author, None, Command::IssueUserToken(command))
            .await?;
        Ok(TokenCreated {
            token: format!("mt1.{id}.{secret}"),
            id: id.to_string(),
            expires_at: expires_at.map(|at| at.0),
        })
    }

    pub(crate) async fn execute_remove_user(
        &self,
        author: &Author,
        request_id: RequestId,
        user: String,
    ) -> Result<(), ServiceError> {
        let command = Command::RemoveUser(RemoveUser { user });
        self.propose(author, Some(request_id), command)
            .await
            .map(drop)
    }

    pub(crate) async fn read_user_tokens(
        &self,
        author: &Author,
        read: ReadOptions,
    ) -> Result<Answer<Vec<UserTokenView>>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        let state = self.inner.consensus.state();
        let seen = |user: &str| author.role == Role::Admin || author.user == user;
        let tokens = state.user_tokens().filter(|token| seen(&token.user));
        let mut body: Vec<_> = tokens
            .map(|token| {
                view(&KnownUserToken {
                    token: token.clone(),
                    terms: state.user_token_terms(&token.id),
                })
            })
            .collect();
        body.sort_by(|a, b| (&a.user, a.created_at, &a.id).cmp(&(&b.user, b.created_at, &b.id)));
        Ok(Answer {
            index: state.applied().0,
            age_ms,
            body,
        })
    }

    /// Whether anybody could come in by a token; none: this node cannot know it now.
    pub async fn has_user_token(&self) -> Option<bool> {
        if self.is_replica() {
            let read = ReadOptions::default();
            self.freshen(read).await.ok()?; // no majority: it cannot know
            let state = self.inner.consensus.state();
            return Some(state.user_tokens().next().is_some());
        }
        let known = self.ask_any_user_token().await;
        known.ok() // nobody leads
    }

    async fn ask_any_user_token(&self) -> Result<bool, ServiceError> {
        let caller = Caller {
            user: "node".to_owned(),
            role: Role::Admin,
            proof: CallerProof::Socket,
        };
        let tokens = self.user_tokens(&caller, ReadOptions::default()).await?;
        Ok(!tokens.body.is_empty())
    }

    /// A user token, asked of the leader by a node without state.
    pub(crate) async fn ask_user_token(
        &self,
        id: &TokenId,
    ) -> Result<Option<KnownUserToken>, ServiceError> {
        let caller = Caller {
            user: "node".to_owned(),
            role: Role::Viewer,
            proof: CallerProof::Socket,
        };
        let request = Request::UserToken(id.clone());
        match self.call(&caller, request, None).await? {
            Reply::UserToken(token) => Ok(token.map(|known| *known)),
            other => Err(unexpected(&other)),
        }
    }
}

fn view(known: &KnownUserToken) -> UserTokenView {
    let KnownUserToken { token, terms } = known;
    UserTokenView {
        id: token.id.to_string(),
        user: token.user.clone(),
        role: role_word(token.role).to_owned(),
        created_at: token.created_at.0,
        created_by: terms.created_by.clone(),
        expires_at: terms.expires_at.map(|at| at.0),
        last_used_at: terms.last_used_at.map(|at| at.0),
        expired: terms.expires_at.is_some_and(|at| now() >= at),
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Member => "member",
        Role::Admin => "admin",
    }
}

fn read_role(text: &str) -> Result<Role, ServiceError> {
    match text {
        "viewer" => Ok(Role::Viewer),
        "member" => Ok(Role::Member),
        "admin" => Ok(Role::Admin),
        other => {
            let other: String = other.chars().take(MAX_USER_BYTES).collect();
            Err(invalid(&format!(
                "{other:?} is no role: viewer, member or admin"
            )))
        }
    }
}

fn check_name(user: &str) -> Result<(), ServiceError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if user.is_empty() || user.len() > MAX_USER_BYTES || !user.chars().all(plain) {
        return Err(invalid("a user has 1 to 64 letters, digits, -, _, . or @"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_roles_are_plain_words() {
        for good in ["ada", "ada.l@lab-1", &"x".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for role in [Role::Viewer, Role::Member, Role::Admin] {
            assert_eq!(read_role(role_word(role)), Ok(role));
        }
        let error = read_role(&"x".repeat(10_000)).unwrap_err();
        assert!(error.message.len() < 200 && error.message.contains("member"));
    }
}
