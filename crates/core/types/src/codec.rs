//! The one codec for what is stored and what is sent: format version, checksum, bincode.
//!
//! Layout: `version: u8 | crc32 of the payload: u32 LE | payload` with bincode 1.3, fixed-width
//! integers, a size limit, trailing bytes refused. bincode has no schema evolution: a stored or sent
//! type changes only by appending an enum variant, never by adding a field (decision 003).

use serde::Serialize;
use serde::de::DeserializeOwned;

use bincode::Options as _;

/// Version of the layout that this build writes.
pub const FORMAT_VERSION: u8 = 1;
/// Level of everything that is stored: one more whenever a stored enum gets a variant. A data directory remembers the
/// highest level that used it, since an older program cannot tell a new variant from damage.
pub const DATA_LEVEL: u32 = 2;
/// The oldest level that this build reads: before the first release stored forms changed in place (decision 018).
pub const OLDEST_LEVEL: u32 = 2;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 5;
/// Largest message that any decoder accepts unless told less: what a Raft frame may hold.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Why bytes were refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fewer bytes than a header.
    #[error("{length} bytes are too few for a record")]
    Short {
        /// Bytes given.
        length: usize,
    },
    /// More bytes than the reader accepts.
    #[error("{length} bytes are over the limit of {limit}")]
    TooLong {
        /// Bytes given.
        length: usize,
        /// Bytes accepted.
        limit: usize,
    },
    /// Written by another format version.
    #[error(
        "format version {found} is unknown to this build (it knows {FORMAT_VERSION}): use the muster that wrote it, or a newer one"
    )]
    Version {
        /// Version byte found.
        found: u8,
    },
    /// The bytes are not those that were written.
    #[error("checksum {found:08x} does not match the stored {stored:08x}: the bytes are damaged")]
    Checksum {
        /// Of the bytes.
        found: u32,
        /// As written.
        stored: u32,
    },
    /// The payload is no such value.
    #[error("the payload does not decode")]
    Payload(#[source] bincode::Error),
}

fn options() -> impl bincode::Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .reject_trailing_bytes()
}

/// Encodes `value` with header.
///
/// # Panics
/// If `value` holds a type that bincode cannot write (a sequence of unknown length, a flattened
/// field): a mistake in the type, met by its first test.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = vec![FORMAT_VERSION, 0, 0, 0, 0];
    options()
        .serialize_into(&mut bytes, value)
        .expect("stored types have only plain fields of known length");
    let checksum = crc32fast::hash(&bytes[HEADER_BYTES..]);
    bytes[1..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Decodes what [`encode`] wrote, refusing more than `limit` bytes.
///
/// # Errors
/// Too short, too long, another version, damaged, or not a `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, Error> {
    if bytes.len() > limit {
        return Err(Error::TooLong {
            length: bytes.len(),
            limit,
        });
    }
    let Some((header, payload)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(Error::Short {
            length: bytes.len(),
        });
    };
    if header[0] != FORMAT_VERSION {
        return Err(Error::Version { found: header[0] });
    }
    let stored = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    let found = crc32fast::hash(payload);
    // A fuzzer does not find checksums; what is behind them is what it is for.
    if found != stored && !cfg!(fuzzing) {
        return Err(Error::Checksum { found, stored });
    }
    options()
        .with_limit(limit as u64)
        .deserialize(payload)
        .map_err(Error::Payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_version_is_refused_with_both_numbers() {
        let mut bytes = encode(&7_u32);
        bytes[0] = 9;
        let text = decode::<u32>(&bytes, 100).unwrap_err().to_string();
        assert!(
            text.contains("version 9") && text.contains("knows 1"),
            "{text}"
        );
    }

    #[test]
    fn trailing_and_hostile_lengths_are_errors() {
        assert!(decode::<u32>(&encode(&7_u64), 100).is_err());
        assert!(decode::<Vec<u8>>(&encode(&u64::MAX), 100).is_err());
        assert!(matches!(
            decode::<u32>(&encode(&7_u32), 8),
            Err(Error::TooLong { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(value in any::<(u64, String, Vec<u16>)>(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut bytes = encode(&value);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode::<(u64, String, Vec<u16>)>(&bytes, MAX_MESSAGE_BYTES).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in any::<Vec<u8>>()) {
            // The result does not matter here, only that there is one.
            drop(decode::<(u64, String, Vec<u16>)>(&bytes, MAX_MESSAGE_BYTES));
        }
    }
}
