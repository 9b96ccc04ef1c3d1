//! Who asks, and how the leader knows.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::{Author, AuthorProof, NodeId, RequestId, Role, TokenId, codec};

use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;

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
    /// Entry node's signature over (request id, request); empty for token callers.
    pub signature: Vec<u8>,
    /// JSON of the [`crate::call::Request`].
    pub request: Bytes,
}

impl Handle {
    /// The person behind a bearer token `mt1.<id>.<secret>`.
    ///
    /// # Errors
    /// The text is no token, or no such token is known here.
    pub async fn authenticate(&self, bearer: &str) -> Result<Caller, ServiceError> {
        let refused = |message: &str| {
            ServiceError::new(ErrorKind::Unauthenticated, "unauthenticated", message)
                .hint("make a token on a machine of the cluster with `muster user token NAME` and send it as `Authorization: Bearer …`")
        };
        let mut parts = bearer.split('.');
        let (Some("mt1"), Some(id), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refused(
                "the bearer token has not the form mt1.<id>.<secret>",
            ));
        };
        let id: TokenId = id
            .parse()
            .map_err(|_bad_id| refused("the bearer token is damaged"))?;
        let secret_hash = *blake3::hash(secret.as_bytes()).as_bytes();
        let known = self.inner.consensus.state().user_token(&id).cloned();
        let known = match known {
            Some(token) => token,
            None if self.is_replica() => {
                return Err(refused("this token is unknown or was revoked"));
            }
            None => self
                .ask_user_token(&id)
                .await?
                .ok_or_else(|| refused("this token is unknown or was revoked"))?,
        };
        if blake3::Hash::from_bytes(known.secret_hash) != blake3::Hash::from_bytes(secret_hash) {
            return Err(refused("this token is unknown or was revoked"));
        }
        Ok(Caller {
            user: known.user,
            role: known.role,
            proof: CallerProof::Token { id, secret_hash },
        })
    }

    /// Signs a socket caller's request as its entry node.
    pub(crate) fn vouch(&self, caller: &Caller, request_id: RequestId, request: Bytes) -> Vouched {
        let signature = match caller.proof {
            CallerProof::Socket => self
                .inner
                .network
                .sign(&signed_bytes(&request_id, &request)),
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
                let signed = signed_bytes(&vouched.request_id, &vouched.request);
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

fn signed_bytes(request_id: &RequestId, request: &Bytes) -> Vec<u8> {
    codec::encode(&(request_id, request))
}
