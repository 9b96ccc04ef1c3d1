//! Invariant 1: a write counts only when it is durable on a majority of the voters. Raft (Ongaro, 2014) §3.5 and §3.6.2;
//! checked on the disks themselves when an entry is applied for the first time anywhere.

use std::collections::BTreeSet;

use crate::seen::Seen;

#[derive(Default)]
pub(crate) struct DurableMajority {
    highest: u64,
}

impl DurableMajority {
    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Applied(entry) = seen else {
            return Ok(());
        };
        if entry.index <= self.highest {
            return Ok(());
        }
        self.highest = entry.index;
        let has = |set: &BTreeSet<u64>| 2 * set.intersection(&entry.durable_on).count() > set.len();
        if entry.quorums.iter().any(|sets| sets.iter().all(has)) {
            return Ok(());
        }
        Err(format!(
            "invariant 1: n{} applies {}.{}, which is durable on {:?} only, of {:?}",
            entry.node, entry.term, entry.index, entry.durable_on, entry.quorums
        ))
    }
}
