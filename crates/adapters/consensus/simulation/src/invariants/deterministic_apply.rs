//! Invariant 2: the same log gives the same outcomes and the same state on every replica, through snapshots and restarts.
//! State machine safety, Raft (Ongaro, 2014) §3.6.3.

use std::collections::BTreeMap;

use state_machine::{ClusterState, check_invariants};
use types::codec;

use crate::seen::{Seen, digest};

/// Entries between two comparisons of whole states: a state is some 20 KiB to encode.
const COMPARE_EVERY: u64 = 8;

#[derive(Default)]
pub(crate) struct DeterministicApply {
    outcomes: BTreeMap<u64, u64>,
    states: BTreeMap<u64, [u8; 32]>,
}

impl DeterministicApply {
    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Applied(entry) => {
                if let Some((_, applied)) = entry.command {
                    let mut bytes = codec::encode(&applied.outcome);
                    bytes.extend(format!("{:?}", applied.events).bytes());
                    let outcome = digest(&bytes);
                    let first = *self.outcomes.entry(entry.index).or_insert(outcome);
                    if first != outcome {
                        return Err(format!(
                            "invariant 2: n{} gets another outcome of {}: {:?}",
                            entry.node, entry.index, applied.outcome
                        ));
                    }
                }
                if entry.index % COMPARE_EVERY == 0 {
                    return self.compare(entry.node, entry.index, entry.state);
                }
                Ok(())
            }
            Seen::Restored {
                node, index, state, ..
            } => self.compare(*node, *index, state),
            _ => Ok(()),
        }
    }

    fn compare(&mut self, node: u64, index: u64, state: &ClusterState) -> Result<(), String> {
        if state.applied().0 != index {
            return Err(format!(
                "invariant 2: n{node} is at {index} with a state of {}",
                state.applied()
            ));
        }
        let hash = state.state_hash();
        let is_new = !self.states.contains_key(&index);
        if *self.states.entry(index).or_insert(hash) != hash {
            return Err(format!("invariant 2: n{node} has another state at {index}"));
        }
        if is_new {
            check_invariants(state).map_err(|what| format!("state of {index}: {what}"))?;
        }
        Ok(())
    }
}
