//! Checking the ledger: by anybody who can read it, from a node or from a file, without trusting either.
//!
//! Each entry's hash covers its predecessor's, so one edit breaks the chain from there on. What a chain cannot show is
//! a cut at its end or a second, equally consistent history; for that each replica signs the head that it has itself.

mod read;

use state_machine::LedgerEntry;
use types::{BlobHash, ClusterId, ExperimentId, LogIndex, NodeId, Timestamp, codec};

use crate::view::{Attestation, LedgerHead, LedgerRecord};

/// What a replica signs begins with this, so that no other signature of a node's key can be taken for it.
const HEAD_PURPOSE: &str = "muster ledger head 1";

/// Why a ledger is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A record is missing, or stands twice, or at the wrong place.
    #[error("record {expected} is missing: record {found} stands in its place")]
    Order {
        /// Number that should follow.
        expected: u64,
        /// Number that does.
        found: u64,
    },
    /// A field does not have its form.
    #[error("record {sequence} is unreadable: {what}")]
    Unreadable {
        /// Which record.
        sequence: u64,
        /// What is wrong.
        what: String,
    },
    /// The hash does not follow from the fields and the predecessor.
    #[error(
        "record {sequence} was changed: its hash does not follow from its content and its predecessor"
    )]
    Changed {
        /// Which record.
        sequence: u64,
    },
    /// The chain ends elsewhere than its head says.
    #[error(
        "the ledger has {head} records, but {found} are here: its end is missing or was replaced"
    )]
    End {
        /// Length of the head.
        head: u64,
        /// Records that were checked.
        found: u64,
    },
    /// As many records as the head says, with another hash.
    #[error("the newest record is not the one that the replicas signed")]
    OtherHead,
    /// Nobody has signed the head, so that nothing ties the records to a cluster.
    #[error(
        "nobody has signed the head: the records follow each other, but whoever wrote them may have rewritten them all"
    )]
    Unsigned,
    /// A signature under the head is not the named node's.
    #[error("the signature of {name} ({node}) under the head is not valid")]
    Signature {
        /// Host name.
        name: String,
        /// Node id.
        node: String,
    },
}

/// Follows the chain record by record.
#[derive(Clone, Debug, Default)]
pub struct ChainCheck {
    next: u64,
    head: [u8; 32],
}

impl ChainCheck {
    /// How many records followed each other so far.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.next
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// It does not follow.
    pub fn take(&mut self, record: &LedgerRecord) -> Result<(), Broken> {
        if record.sequence != self.next {
            return Err(Broken::Order {
                expected: self.next,
                found: record.sequence,
            });
        }
        let entry = entry_of(record).map_err(|what| Broken::Unreadable {
            sequence: record.sequence,
            what,
        })?;
        if entry.chain_hash(&self.head) != entry.hash {
            return Err(Broken::Changed {
                sequence: record.sequence,
            });
        }
        self.head = entry.hash;
        self.next += 1;
        Ok(())
    }

    /// Checks that the records end where `head` says, and every signature under it; there must be one.
    ///
    /// # Errors
    /// They end elsewhere, a signature is false, or nobody has signed.
    pub fn finish(&self, head: &LedgerHead) -> Result<(), Broken> {
        if head.length != self.next {
            return Err(Broken::End {
                head: head.length,
                found: self.next,
            });
        }
        if head.hash != BlobHash(self.head).to_string() {
            return Err(Broken::OtherHead);
        }
        if head.attestations.is_empty() {
            return Err(Broken::Unsigned);
        }
        match head.attestations.iter().find(|one| !is_signed(head, one)) {
            None => Ok(()),
            Some(one) => Err(Broken::Signature {
                name: one.name.clone(),
                node: one.node.clone(),
            }),
        }
    }
}

fn is_signed(head: &LedgerHead, attestation: &Attestation) -> bool {
    let (Ok(cluster), Ok(hash)) = (head.cluster.parse(), head.hash.parse::<BlobHash>()) else {
        return false;
    };
    let (Ok(node), Some(signature)) = (
        attestation.node.parse::<NodeId>(),
        from_hex(&attestation.signature),
    ) else {
        return false;
    };
    network::verify(
        &node,
        &head_bytes(cluster, head.length, &hash.0),
        &signature,
    )
}

/// What a replica signs.
pub(crate) fn head_bytes(cluster: ClusterId, length: u64, hash: &[u8; 32]) -> Vec<u8> {
    codec::encode(&(HEAD_PURPOSE, cluster, length, hash))
}

pub(crate) fn record_of(entry: &LedgerEntry) -> LedgerRecord {
    LedgerRecord {
        sequence: entry.sequence,
        index: entry.index.0,
        at: entry.at.0,
        author: entry.author.clone(),
        action: format!("{:?}", entry.action),
        experiment: entry.experiment.map(|id| id.to_string()),
        detail: entry.detail.clone(),
        hash: BlobHash(entry.hash).to_string(),
    }
}

fn entry_of(record: &LedgerRecord) -> Result<LedgerEntry, String> {
    let action = serde_json::Value::String(record.action.clone());
    let action = serde_json::from_value(action).map_err(|_unknown| {
        format!("this version of muster knows no action {:?}", record.action)
    })?;
    let experiment = record.experiment.as_deref().map(str::parse::<ExperimentId>);
    Ok(LedgerEntry {
        sequence: record.sequence,
        index: LogIndex(record.index),
        at: Timestamp(record.at),
        author: record.author.clone(),
        action,
        experiment: experiment.transpose().map_err(|error| error.to_string())?,
        detail: record.detail.clone(),
        hash: record
            .hash
            .parse::<BlobHash>()
            .map_err(|error| error.to_string())?
            .0,
    })
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests;
