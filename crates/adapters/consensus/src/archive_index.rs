//! Which archive may hold an experiment: four bytes of each id in memory, from files that were checked.
//!
//! 4 MiB at a million ended experiments. A tree of ids in sled took 770 bytes of disk for each and grew without end,
//! since ids are random and each insert rewrites a page; and no checksum covered what was missing in it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use types::ExperimentId;

/// Names of archives with the low 32 bits of the ids in each.
#[derive(Clone, Debug, Default)]
pub(crate) struct ArchiveIndex(Arc<RwLock<BTreeMap<String, Box<[u32]>>>>);

fn fingerprint(experiment: ExperimentId) -> u32 {
    let bytes = experiment.bits().to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

impl ArchiveIndex {
    /// Adds an archive; one without experiments is not listed.
    pub(crate) fn insert(&self, name: &str, experiments: &[ExperimentId]) {
        if experiments.is_empty() {
            return;
        }
        let ids = experiments.iter().copied().map(fingerprint).collect();
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        index.insert(name.to_owned(), ids);
    }

    /// Archives that may hold `experiment`, newest first; nearly always one or none.
    pub(crate) fn candidates(&self, experiment: ExperimentId) -> Vec<String> {
        let wanted = fingerprint(experiment);
        let index = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let may_hold = index.iter().rev().filter(|(_, ids)| ids.contains(&wanted));
        may_hold.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_and_equal_low_bits_are_told_apart_by_the_file_alone() {
        let index = ArchiveIndex::default();
        let id = ExperimentId::from_bits;
        index.insert("experiments-0", &[id(7), id(8)]);
        index.insert("experiments-1", &[id(7 | 1 << 35)]);
        index.insert("ledger-0", &[]);
        assert_eq!(index.candidates(id(8)), ["experiments-0"]);
        assert_eq!(index.candidates(id(7)), ["experiments-1", "experiments-0"]);
        assert!(index.candidates(id(9)).is_empty());
    }
}
