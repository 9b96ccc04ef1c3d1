//! Entries of the same term and index hold the same command and follow the same entry, so logs that share one share all
//! before it: Raft (Ongaro, 2014) §3.5, figure 3.2.

use std::collections::BTreeMap;

use crate::seen::Seen;

type Position = (u64, u64);

#[derive(Default)]
pub(crate) struct LogMatching {
    entries: BTreeMap<Position, (u64, Option<Position>)>,
}

impl LogMatching {
    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Appended {
            node,
            term,
            index,
            digest,
            before,
            members: _,
        } = seen
        else {
            return Ok(());
        };
        if before.is_some_and(|(_, before)| before + 1 != *index) {
            return Err(format!(
                "log matching: n{node} appends {term}.{index} after {before:?}"
            ));
        }
        let first = self
            .entries
            .entry((*term, *index))
            .or_insert((*digest, *before));
        if *first != (*digest, *before) {
            return Err(format!(
                "log matching: n{node} appends another {term}.{index} after {before:?}, not {:?}",
                first.1
            ));
        }
        Ok(())
    }
}
