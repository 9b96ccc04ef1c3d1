//! Sets of names that are small enough to send: a Bloom filter (Bloom, CACM 13(7), 1970). It may take a stranger for a
//! member, never a member for a stranger: what is kept by it is kept at worst for nothing.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::BlobHash;

/// Bits for each name: with [`PROBES`] of them one stranger in 15,000 is taken for a member.
const BITS_PER_NAME: usize = 20;
/// Bits that each name sets.
const PROBES: usize = 14;

/// A set of blob names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameFilter {
    bits: Bytes,
}

impl NameFilter {
    /// The set of these names.
    #[must_use]
    pub fn of<'a>(names: impl ExactSizeIterator<Item = &'a BlobHash>) -> Self {
        let mut bits = vec![0_u8; (names.len() * BITS_PER_NAME).div_ceil(8)];
        for name in names {
            for bit in probes(name, bits.len()) {
                bits[bit / 8] |= 1 << (bit % 8);
            }
        }
        Self { bits: bits.into() }
    }

    /// Whether the name is in the set; rarely true for one that is not.
    #[must_use]
    pub fn may_have(&self, name: &BlobHash) -> bool {
        !self.bits.is_empty()
            && probes(name, self.bits.len()).all(|bit| self.bits[bit / 8] & (1 << (bit % 8)) != 0)
    }
}

/// A name is a hash already: its own bytes say where it goes (Kirsch and Mitzenmacher, ESA 2006: two are enough).
fn probes(name: &BlobHash, bytes: usize) -> impl Iterator<Item = usize> {
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&name.0[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let (first, step) = (word(0), word(8) | 1);
    let bits = (bytes * 8) as u64;
    (0..PROBES as u64).map(move |number| {
        let bit = first.wrapping_add(number.wrapping_mul(step)) % bits;
        usize::try_from(bit).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &str) -> Vec<BlobHash> {
        (0..5_000)
            .map(|number| BlobHash::of(format!("{of} {number}").as_bytes()))
            .collect()
    }

    #[test]
    fn every_member_is_found_and_hardly_a_stranger() {
        let (members, strangers) = (names("member"), names("stranger"));
        let filter = NameFilter::of(members.iter());
        assert!(members.iter().all(|name| filter.may_have(name)));
        let taken = strangers
            .iter()
            .filter(|name| filter.may_have(name))
            .count();
        assert!(taken < 10, "{taken} of 5000");
    }

    #[test]
    fn the_empty_set_has_nobody() {
        let filter = NameFilter::of(std::iter::empty());
        assert!(!names("x").iter().any(|name| filter.may_have(name)));
    }
}
