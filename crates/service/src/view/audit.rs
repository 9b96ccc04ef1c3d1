//! The ledger with everything that its hashes cover, so that a reader can check the chain without trusting the node.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which lines of history a person wants to see. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerFilter {
    /// Only about this experiment: id, the start of one, or a name.
    pub experiment: Option<String>,
    /// Only by this user, node, or user@node.
    pub by: Option<String>,
    /// Only this action, as `attempt-placed`.
    pub action: Option<String>,
    /// Only from this time on, in milliseconds since the epoch.
    pub since: Option<u64>,
    /// The newest so many; 0 is the default number.
    pub limit: u64,
}

/// A ledger entry as it is stored: nothing is replaced by a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LedgerRecord {
    /// Number from 0, without holes.
    pub sequence: u64,
    /// Log index of the command that caused it.
    pub index: u64,
    /// State time.
    pub at: u64,
    /// user@node, with the node's id.
    pub author: String,
    /// What was done, as `AttemptPlaced`.
    pub action: String,
    /// About which experiment.
    pub experiment: Option<String>,
    /// Reason or content.
    pub detail: String,
    /// BLAKE3 over the predecessor's hash and the fields above, as 64 hexadecimal digits.
    pub hash: String,
}

/// A run of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerPage {
    /// In order, without holes, from the number that was asked for.
    pub records: Vec<LedgerRecord>,
    /// How many the ledger holds in all.
    pub length: u64,
}

/// The end of the ledger and who vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LedgerHead {
    /// The cluster.
    pub cluster: String,
    /// How many records there are.
    pub length: u64,
    /// Hash of the newest, as 64 hexadecimal digits.
    pub hash: String,
    /// Replicas that have the same.
    pub attestations: Vec<Attestation>,
    /// Replicas that do not vouch for it, and why.
    pub silent: Vec<SilentReplica>,
}

/// A replica's signature under a head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// Id of the node; its public key is inside it.
    pub node: String,
    /// Its host name.
    pub name: String,
    /// Ed25519 signature in hexadecimal digits.
    pub signature: String,
}

/// A replica that did not sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SilentReplica {
    /// Host name.
    pub name: String,
    /// What it said, or that it said nothing.
    pub why: String,
}
