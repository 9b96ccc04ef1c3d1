//! What was applied at an index stays what it is, on all nodes, and indexes have no gap: leader completeness and state
//! machine safety, Raft (Ongaro, 2014) §3.6, figure 3.2.

use std::collections::BTreeMap;

use crate::seen::Seen;

#[derive(Default)]
pub(crate) struct CommittedImmutable {
    entries: BTreeMap<u64, (u64, u64)>,
}

impl CommittedImmutable {
    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Applied(entry) => {
                let new = (entry.term, entry.digest);
                let first = *self.entries.entry(entry.index).or_insert(new);
                if first != new {
                    return Err(format!(
                        "committed entries: n{} applies {}.{} where {}.{} was committed, or another command",
                        entry.node, entry.term, entry.index, first.0, entry.index
                    ));
                }
                if entry.index > 0 && !self.entries.contains_key(&(entry.index - 1)) {
                    return Err(format!(
                        "committed entries: n{} applies {} after a gap",
                        entry.node, entry.index
                    ));
                }
                Ok(())
            }
            Seen::Restored {
                node, term, index, ..
            } => match self.entries.get(index) {
                Some((known, _)) if known == term => Ok(()),
                known => Err(format!(
                    "committed entries: n{node} restores a snapshot of {term}.{index}, known is {known:?}"
                )),
            },
            _ => Ok(()),
        }
    }
}
