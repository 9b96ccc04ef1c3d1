//! Names of things. Each id is its own type; text forms are what people type and read.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The text is not such an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a valid {what}: {hint}")]
pub struct IdError {
    /// Kind of id, as people call it.
    pub what: &'static str,
    /// What was given.
    pub text: String,
    /// What a valid one looks like.
    pub hint: &'static str,
}

/// A node: the base58 text of its libp2p `PeerId` (the hash of its public key). Also its Raft id; never reused.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// The whole base58 text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last eight characters: enough to tell nodes apart on a screen.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[self.0.len().saturating_sub(8)..]
    }
}

impl FromStr for NodeId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let base58 = |c: char| c.is_ascii_alphanumeric() && !matches!(c, '0' | 'O' | 'I' | 'l');
        if text.is_empty() || text.len() > 128 || !text.chars().all(base58) {
            return Err(IdError {
                what: "node id",
                text: text.to_owned(),
                hint: "1 to 128 base58 characters",
            });
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for NodeId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId(..{})", self.short())
    }
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}..)"), &self.to_string()[..12])
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let error = || IdError { what: $what, text: text.to_owned(), hint: "64 hexadecimal digits" };
                if text.len() != 64 || !text.is_ascii() {
                    return Err(error());
                }
                let mut bytes = [0; 32];
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_not_hex| error())?;
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

hash_id!(
    /// A cluster: BLAKE3 hash of its first public key, made once, at `muster up` on the first node.
    ClusterId,
    "cluster id"
);
hash_id!(
    /// Bytes named by their BLAKE3 hash.
    BlobHash,
    "blob hash"
);

impl BlobHash {
    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// An experiment: 40 bits, written as eight characters of Crockford base32, unique in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExperimentId(u64);

const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl ExperimentId {
    /// Takes the low 40 bits of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << 40) - 1))
    }

    /// The 40 bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ExperimentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = |i: u32| usize::try_from(self.0 >> (5 * i) & 31).expect("31 fits");
        let text: String = (0..8).rev().map(|i| char::from(BASE32[digit(i)])).collect();
        f.write_str(&text)
    }
}

impl fmt::Debug for ExperimentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExperimentId({self})")
    }
}

impl FromStr for ExperimentId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError {
            what: "experiment id",
            text: text.to_owned(),
            hint: "eight characters of 0-9 and a-z without i, l, o and u, as `muster ls` prints them",
        };
        if text.len() != 8 {
            return Err(error());
        }
        text.bytes()
            .try_fold(0_u64, |bits, byte| {
                let digit = BASE32.iter().position(|&c| c == byte).ok_or_else(error)?;
                Ok(bits << 5 | digit as u64)
            })
            .map(Self)
    }
}

impl Serialize for ExperimentId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for ExperimentId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?
                .parse()
                .map_err(serde::de::Error::custom)
        } else {
            let bits = u64::deserialize(deserializer)?;
            let id = Self::from_bits(bits);
            // Two texts of one id would be two names of one thing.
            if id.0 == bits {
                Ok(id)
            } else {
                Err(serde::de::Error::custom("an experiment id has 40 bits"))
            }
        }
    }
}

/// Number of the cluster's history: 1, raised by restore and by recovery from a lost majority.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Incarnation(pub u64);

/// Position in the Raft log.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogIndex(pub u64);

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fencing token of one execution: no report without the current one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptToken {
    /// The cluster's history that placed it.
    pub incarnation: Incarnation,
    /// The experiment.
    pub experiment: ExperimentId,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Log index of its `PlaceAttempt`.
    pub placed_at: LogIndex,
}

impl AttemptToken {
    /// Name of this attempt's directory on a node: digits, letters and dashes only.
    #[must_use]
    pub fn directory_name(&self) -> String {
        format!(
            "{}-{}-{}-{}",
            self.experiment, self.attempt, self.incarnation.0, self.placed_at.0
        )
    }
}

impl fmt::Display for AttemptToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.experiment, self.attempt)
    }
}

/// A client's name for one request: repeats of it get the first outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// Random 128 bits of the client's session (or a hash of its idempotency key).
    pub session: [u8; 16],
    /// Number of the request inside the session.
    pub sequence: u64,
}

impl RequestId {
    /// The request that a user's idempotency key names: the same key is the same request.
    #[must_use]
    pub fn from_key(user: &str, key: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026 idempotency key");
        hasher
            .update(&(user.len() as u64).to_le_bytes())
            .update(user.as_bytes())
            .update(key.as_bytes());
        let mut session = [0; 16];
        session.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self {
            session,
            sequence: 0,
        }
    }
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                if text.is_empty() || text.len() > 64 || text.starts_with('-') || !text.chars().all(good) {
                    return Err(IdError { what: $what, text: text.to_owned(), hint: "1 to 64 of a-z, 0-9 and -, not starting with -" });
                }
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_id!(
    /// Name of a queue.
    QueueName,
    "queue name"
);
name_id!(
    /// Public half of a token: names it in the ledger; the secret half is never stored.
    TokenId,
    "token id"
);

impl Default for QueueName {
    /// The queue that every cluster has.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experiment_id_text_round_trips_and_refuses_others() {
        let id = ExperimentId::from_bits(0x12_3456_789a);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "short", "UPPERCAS", "ilouilou", "../../..", "123456789"] {
            assert!(bad.parse::<ExperimentId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_become_paths_are_validated() {
        for bad in ["", "-a", "a/b", "..", "A", "a b", "\0", &"x".repeat(65)] {
            assert!(bad.parse::<QueueName>().is_err(), "{bad:?}");
        }
        for bad in ["", "../x", "O0", "a b"] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hash_is_text_in_json_and_bytes_in_bincode() {
        let hash = BlobHash::of(b"muster");
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(json.len(), 66);
        assert_eq!(serde_json::from_str::<BlobHash>(&json).unwrap(), hash);
        assert_eq!(
            crate::codec::encode(&hash).len(),
            crate::codec::HEADER_BYTES + 32
        );
    }

    #[test]
    fn an_experiment_id_with_more_than_forty_bits_is_refused() {
        let id = ExperimentId::from_bits(u64::MAX);
        let bytes = crate::codec::encode(&id);
        assert_eq!(
            crate::codec::decode::<ExperimentId>(&bytes, 100).unwrap(),
            id
        );
        let wide = crate::codec::encode(&(1_u64 << 40));
        assert!(crate::codec::decode::<ExperimentId>(&wide, 100).is_err());
    }
}
