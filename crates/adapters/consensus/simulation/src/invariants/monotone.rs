//! Terms, applied indexes and attempt numbers never go back: Raft (Ongaro, 2014) §3.3. A node's term survives its
//! restarts; its applied index starts from the snapshot again.

use std::collections::BTreeMap;

use types::ExperimentId;

use crate::seen::Seen;

#[derive(Default)]
pub(crate) struct Monotone {
    terms: BTreeMap<u64, u64>,
    applied: BTreeMap<u64, u64>,
    attempts: BTreeMap<ExperimentId, (u64, u32)>,
}

impl Monotone {
    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Voted { node, term, .. } => {
                let known = self.terms.insert(*node, *term);
                if known.is_some_and(|known| known > *term) {
                    return Err(format!(
                        "monotone: n{node} goes back to term {term} from {known:?}"
                    ));
                }
                Ok(())
            }
            Seen::Opened { node, .. } => {
                self.applied.remove(node);
                Ok(())
            }
            Seen::Applied(entry) => {
                let known = self.applied.insert(entry.node, entry.index);
                if known.is_some_and(|known| known + 1 != entry.index) {
                    return Err(format!(
                        "monotone: n{} applies {} after {known:?}",
                        entry.node, entry.index
                    ));
                }
                let placed = entry
                    .command
                    .and_then(|(_, applied)| match &applied.outcome {
                        state_machine::Outcome::Placed(token) => Some(*token),
                        _ => None,
                    });
                let Some(token) = placed else { return Ok(()) };
                let known = self.attempts.entry(token.experiment).or_default();
                if entry.index > known.0 {
                    if token.attempt != known.1 + 1 {
                        return Err(format!("monotone: {token} follows attempt {}", known.1));
                    }
                    *known = (entry.index, token.attempt);
                }
                Ok(())
            }
            Seen::Restored { node, index, .. } => {
                let known = self.applied.insert(*node, *index);
                if known.is_some_and(|known| known > *index) {
                    return Err(format!(
                        "monotone: n{node} goes back to {index} from {known:?}"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
