//! Tokens as they are listed, and who asks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A token of a person, without its secret, which nobody keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserTokenView {
    /// Public half.
    pub id: String,
    /// Person.
    pub user: String,
    /// `viewer`, `member` or `admin`.
    pub role: String,
    /// When it was made.
    pub created_at: u64,
    /// By whom; empty for tokens of the first version.
    pub created_by: String,
    /// When it ends; none: it is good until it is revoked.
    pub expires_at: Option<u64>,
    /// When it was last used, to within an hour; none: never.
    pub last_used_at: Option<u64>,
    /// Its time is over.
    pub expired: bool,
}

/// A join token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenView {
    /// Public half.
    pub id: String,
    /// Machines that may still join with it.
    pub uses_left: u32,
    /// When it ends.
    pub expires_at: u64,
    /// By whom it was made.
    pub created_by: String,
    /// `good`, `used-up` or `expired`.
    pub state: String,
}

/// Who asks, as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallerView {
    /// Login name, or the token's user.
    pub user: String,
    /// `viewer`, `member` or `admin`.
    pub role: String,
    /// Public half of the token; none: known by the user id on the node's Unix socket.
    pub token: Option<String>,
    /// Name of the node that was asked.
    pub node: String,
    /// What decides the role, in a sentence.
    pub reason: String,
}
