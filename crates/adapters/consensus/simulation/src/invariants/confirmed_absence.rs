//! Invariant 20: a start needs a lease, and absence from a wanted set stops nothing until a leader confirmed it: whatever
//! is stopped as stale is not current in the newest state.

use std::collections::BTreeSet;

use state_machine::ClusterState;
use types::AttemptToken;

use crate::seen::Seen;

#[derive(Default)]
pub(crate) struct ConfirmedAbsence {
    granted: BTreeSet<(u64, AttemptToken)>,
}

impl ConfirmedAbsence {
    pub(crate) fn see(&mut self, seen: &Seen<'_>, newest: &ClusterState) -> Result<(), String> {
        match seen {
            Seen::Granted { node, token } => {
                self.granted.insert((*node, *token));
                Ok(())
            }
            Seen::Started { node, token } if !self.granted.contains(&(*node, *token)) => Err(
                format!("invariant 20: {token} starts on n{node} without a lease"),
            ),
            Seen::StoppedAsStale { node, token } => {
                let mut active = newest.active();
                if active.any(|(_, attempt)| attempt.token == *token) {
                    return Err(format!(
                        "invariant 20: {token} is current and is stopped as stale on n{node}"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
