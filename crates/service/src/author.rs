//! Who asks, and how the leader knows.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use state_machine::{Entrance, UserToken, UserTokenTerms};
use types::{Author, AuthorProof, NodeId, RequestId, Role, TokenId, codec};

use crate::doorkeeper::refuse_wrong_clock;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, now};

/// How the entry node knew the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallerProof {
    /// By the user id on its Unix socket.
    Socket,
    /// By a token; the leader checks the hash of the secret again.
    Token {
        /// Public half.
        id: TokenId,
        /// BLAKE3 of the secret.
        secret_hash: [u8; 32],
    },
}

/// A person who asks for something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Login name or the token's user.
    pub user: String,
    /// What they may do.
    pub role: Role,
    /// How that is known.
    pub proof: CallerProof,
}

/// A caller's request on its way to the leader, vouched for by the entry node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouched {
    /// Who.
    pub caller: Caller,
    /// The client's name for the request.
    pub request_id: RequestId,
    /// Entry node's signature over (user, role, request id, request); empty for token callers.
    pub signature: Vec<u8>,
    /// JSON of the [`crate::call::Request`].
    pub request: Bytes,
}

/// A user token and what it is bound to, as one node tells another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownUserToken {
    pub(crate) token: UserToken,
    pub(crate) terms: UserTokenTerms,
}

/// What the entry node keeps of a bearer token: never the secret.
struct Bearer {
    id: TokenId,
    secret_hash: [u8; 32],
}

impl Bearer {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (Some("mt1"), Some(id), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        Some(Self {
            id: id.parse().ok()?, // the reason does not matter: it is no token
            secret_hash: *blake3::hash(secret.as_bytes()).as_bytes(),
        })
    }
}

impl Handle {
    /// The person behind a bearer token `mt1.<id>.<secret>` that came from `source`, an address.
    ///
    /// # Errors
    /// The text is no token, no such token is good, or too many bad ones came from there.
    pub async fn authenticate(&self, bearer: &str, source: &str) -> Result<Caller, ServiceError> {
        let key = *blake3::hash(bearer.as_bytes()).as_bytes();
        self.refuse_locked_out(Entrance::Http, source, &key)?;
        match self.check_bearer(bearer).await {
            Ok(caller) => {
                if let CallerProof::Token { id, .. } = &caller.proof {
                    self.note_good_token(id, key);
                }
                Ok(caller)
            }
            Err(error) => {
                if error.kind == ErrorKind::Unauthenticated {
                    tracing::debug!(%source, code = %error.code, "bad user token");
                    self.note_bad_token(Entrance::Http, source);
                }
                Err(error)
            }
        }
    }

    async fn check_bearer(&self, bearer: &str) -> Result<Caller, ServiceError> {
        let refused = |code: &str, message: &str| {
            ServiceError::new(ErrorKind::Unauthenticated, code, message)
                .hint("make a token on a machine of the cluster with `muster user add NAME` and send it as `Authorization: Bearer …`")
        };
        refuse_wrong_clock()?;
        let given = Bearer::read(bearer).ok_or_else(|| {
            refused(
                "unauthenticated",
                "the bearer token has not the form mt1.<id>.<secret>",
            )
        })?;
        let unknown = || refused("unauthenticated", "this token is unknown or was revoked");
        let known = match self.user_token_here(&given.id) {
            Some(token) => token,
            None if self.is_replica() => return Err(unknown()),
            None => self.ask_user_token(&given.id).await?.ok_or_else(unknown)?,
        };
        let known_hash = blake3::Hash::from_bytes(known.token.secret_hash);
        // In constant time.
        if known_hash != blake3::Hash::from_bytes(given.secret_hash) {
            return Err(unknown());
        }
        if known.terms.expires_at.is_some_and(|end| now() >= end) {
            return Err(refused(
                "token-expired",
                "this token has expired: ask an administrator for another",
            ));
        }
        Ok(Caller {
            user: known.token.user,
            role: known.token.role,
            proof: CallerProof::Token {
                id: given.id,
                secret_hash: given.secret_hash,
            },
        })
    }

    /// A user token as this node's state knows it.
    pub(crate) fn user_token_here(&self, id: &TokenId) -> Option<KnownUserToken> {
        let state = self.inner.consensus.state();
        let token = state.user_token(id)?.clone();
        let terms = state.user_token_terms(id);
        Some(KnownUserToken { token, terms })
    }

    /// Signs a socket caller's request as its entry node.
    pub(crate) fn vouch(&self, caller: &Caller, request_id: RequestId, request: Bytes) -> Vouched {
        let signature = match caller.proof {
            CallerProof::Socket => {
                self.inner
                    .network
                    .sign(&signed_bytes(caller, &request_id, &request))
            }
            CallerProof::Token { .. } => Vec::new(),
        };
        Vouched {
            caller: caller.clone(),
            request_id,
            signature,
            request,
        }
    }

    /// The author of a request that came through `entry`.
    pub(crate) fn author_of(
        &self,
        entry: &NodeId,
        vouched: &Vouched,
    ) -> Result<Author, ServiceError> {
        let forbidden =
            |code: &str, message: &str| ServiceError::new(ErrorKind::Forbidden, code, message);
        let proof = match &vouched.caller.proof {
            CallerProof::Socket => {
                let signed = signed_bytes(&vouched.caller, &vouched.request_id, &vouched.request);
                if entry != self.node_id() && !network::verify(entry, &signed, &vouched.signature) {
                    return Err(forbidden(
                        "bad-signature",
                        "the entry node's signature does not fit the request",
                    ));
                }
                AuthorProof::EntryNode {
                    signature: vouched.signature.clone(),
                }
            }
            CallerProof::Token { id, secret_hash } => {
                let state = self.inner.consensus.state();
                let known = state
                    .user_token(id)
                    .filter(|token| token.secret_hash == *secret_hash);
                let known = known.ok_or_else(|| forbidden("revoked", "the token was revoked"))?;
                if known.user != vouched.caller.user || known.role != vouched.caller.role {
                    return Err(forbidden("revoked", "the token belongs to somebody else"));
                }
                let end = state.user_token_terms(id).expires_at;
                if end.is_some_and(|end| now() >= end) {
                    return Err(forbidden("token-expired", "the token has expired"));
                }
                AuthorProof::Token { token: id.clone() }
            }
        };
        Ok(Author {
            user: vouched.caller.user.clone(),
            entry_node: entry.clone(),
            role: vouched.caller.role,
            proof,
        })
    }
}

fn signed_bytes(caller: &Caller, request_id: &RequestId, request: &Bytes) -> Vec<u8> {
    codec::encode(&(&caller.user, caller.role, request_id, request))
}
