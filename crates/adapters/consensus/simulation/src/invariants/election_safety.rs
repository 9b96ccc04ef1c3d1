//! At most one leader in a term, and one vote of a node in a term: Raft (Ongaro, 2014) §3.4, figure 3.2.

use std::collections::BTreeMap;

use crate::seen::Seen;

#[derive(Default)]
pub(crate) struct ElectionSafety {
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
}

impl ElectionSafety {
    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Voted {
            node,
            term,
            candidate,
            leads,
        } = seen
        else {
            return Ok(());
        };
        if *leads {
            let first = *self.leaders.entry(*term).or_insert(*candidate);
            if first != *candidate {
                return Err(format!(
                    "election safety: n{first} and n{candidate} lead term {term}"
                ));
            }
            return Ok(());
        }
        let first = *self.votes.entry((*node, *term)).or_insert(*candidate);
        if first != *candidate {
            return Err(format!(
                "election safety: n{node} votes for n{first} and n{candidate} in term {term}"
            ));
        }
        Ok(())
    }
}
