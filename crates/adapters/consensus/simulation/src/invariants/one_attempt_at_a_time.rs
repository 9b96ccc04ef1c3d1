//! Invariant 11: at most one attempt of an experiment runs at any time, and none runs twice. Leases: Gray and Cheriton,
//! SOSP 1989.

use std::collections::BTreeMap;

use types::{AttemptToken, ExperimentId};

use crate::seen::Seen;

#[derive(Default)]
pub(crate) struct OneAttemptAtATime {
    running: BTreeMap<ExperimentId, (u64, AttemptToken)>,
    newest: BTreeMap<ExperimentId, AttemptToken>,
}

impl OneAttemptAtATime {
    /// Where it runs.
    pub(crate) fn runs(&self, token: &AttemptToken) -> Option<u64> {
        let (node, running) = self.running.get(&token.experiment)?;
        (running == token).then_some(*node)
    }

    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Started { node, token } => {
                if let Some((other_node, other)) = self.running.get(&token.experiment) {
                    return Err(format!(
                        "invariant 11: {token} starts on n{node} while {other} runs on n{other_node}"
                    ));
                }
                let newest = self.newest.insert(token.experiment, *token);
                if let Some(newest) = newest
                    && newest.attempt >= token.attempt
                {
                    return Err(format!(
                        "invariant 11: {token} starts on n{node} after {newest} had run"
                    ));
                }
                self.running.insert(token.experiment, (*node, *token));
                Ok(())
            }
            Seen::Ended { node, token } => {
                if self.runs(token) == Some(*node) {
                    self.running.remove(&token.experiment);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
