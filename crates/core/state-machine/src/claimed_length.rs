//! Reading persistent collections without believing the length that the bytes claim: imbl reserves room for all of it
//! first, so that a few bytes of a replica would end this one (met by fuzzing, 2026-11-24). The standard collections
//! grow as elements really come.

use std::collections::BTreeMap;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Deserializer};

pub(crate) fn map<'de, D, K, V>(deserializer: D) -> Result<OrdMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + Clone,
    V: Deserialize<'de> + Clone,
{
    BTreeMap::deserialize(deserializer).map(OrdMap::from_iter)
}

pub(crate) fn list<'de, D, T>(deserializer: D) -> Result<Vector<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Clone,
{
    Vec::deserialize(deserializer).map(Vector::from_iter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;
    use types::codec;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Both {
        #[serde(deserialize_with = "map")]
        map: OrdMap<u64, String>,
        #[serde(deserialize_with = "list")]
        list: Vector<u64>,
    }

    #[test]
    fn a_claimed_length_is_not_believed_and_the_form_stays() {
        let both = Both {
            map: [(1_u64, "a".to_owned()), (2, "b".to_owned())]
                .into_iter()
                .collect(),
            list: [3_u64, 4].into_iter().collect(),
        };
        assert_eq!(
            codec::decode::<Both>(&codec::encode(&both), 1_000).unwrap(),
            both
        );
        for claim in [(u64::MAX, 0), (0, u64::MAX)] {
            assert!(codec::decode::<Both>(&codec::encode(&claim), 1_000).is_err());
        }
    }
}
