//! Who did it.

use serde::{Deserialize, Serialize};

use crate::{NodeId, TokenId};

/// What a person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads, submits and steers own experiments.
    Member,
    /// Everything, including tokens and nodes.
    Admin,
}

/// How the leader knows that the author is the author.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorProof {
    /// The entry node saw the user's id on its Unix socket and signed the request.
    EntryNode {
        /// Ed25519 signature of the entry node over (request id, encoded command).
        signature: Vec<u8>,
    },
    /// The bearer of this user token, whose hash the leader checked.
    Token {
        /// Public half of the token.
        token: TokenId,
    },
    /// The node itself, known by its connection.
    Node,
}

/// The author of a command: user@entry-node and what vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// Login name on the entry node, name of the token's user, or `node`.
    pub user: String,
    /// Node through which it came.
    pub entry_node: NodeId,
    /// What the user may do.
    pub role: Role,
    /// Who vouches.
    pub proof: AuthorProof,
}

impl Author {
    /// The node acting for itself: reports, placements, membership.
    #[must_use]
    pub fn node(node: NodeId) -> Self {
        Self {
            user: "node".to_owned(),
            entry_node: node,
            role: Role::Admin,
            proof: AuthorProof::Node,
        }
    }
}

impl std::fmt::Display for Author {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.user, self.entry_node.short())
    }
}
