//! Invariants 1 and 4: an acknowledged request is never lost, and a repeated one gets the first outcome. Raft (Ongaro,
//! 2014) §6.3; the client oracle of openraft's tests-turmoil.

use std::collections::{BTreeMap, BTreeSet};

use state_machine::{ClusterState, Outcome};
use types::{ExperimentId, RequestId};

use crate::seen::Seen;

#[derive(Default)]
pub(crate) struct RepeatedRequests {
    outcomes: BTreeMap<RequestId, Outcome>,
    acknowledged: BTreeMap<RequestId, Outcome>,
    made_by: BTreeMap<ExperimentId, RequestId>,
}

impl RepeatedRequests {
    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Applied(entry) => {
                let Some((command, applied)) = entry.command else {
                    return Ok(());
                };
                let Some(request) = command.request else {
                    return Ok(());
                };
                let first = self
                    .outcomes
                    .entry(request)
                    .or_insert_with(|| applied.outcome.clone());
                if *first != applied.outcome {
                    return Err(format!(
                        "invariant 4: {request:?} got {first:?} and now {:?}",
                        applied.outcome
                    ));
                }
                if let Outcome::Submitted(id) = applied.outcome
                    && *self.made_by.entry(id).or_insert(request) != request
                {
                    return Err(format!("invariant 4: {id} belongs to two requests"));
                }
                Ok(())
            }
            Seen::Acknowledged {
                request, outcome, ..
            } => {
                if self.outcomes.get(request) != Some(*outcome) {
                    return Err(format!(
                        "invariant 1: {request:?} was answered with {outcome:?}, which nobody has applied"
                    ));
                }
                self.acknowledged.insert(*request, (*outcome).clone());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_end(&self, state: &ClusterState) -> Result<(), String> {
        for (request, outcome) in &self.acknowledged {
            if let Outcome::Submitted(id) = outcome
                && state.experiment(*id).is_none()
            {
                return Err(format!(
                    "invariant 1: {id}, acknowledged to {request:?}, is lost"
                ));
            }
        }
        let known = state.experiments().count();
        if known != self.made_by.len() {
            return Err(format!(
                "invariant 4: {} submissions made {known} experiments",
                self.made_by.len()
            ));
        }
        let mut names = BTreeSet::new();
        // Clients name what they submit by who and which: a name that is there twice was applied twice.
        let twice = state
            .experiments()
            .find(|experiment| !names.insert(experiment.spec.name.clone()));
        twice.map_or(Ok(()), |experiment| {
            Err(format!(
                "invariant 4: {} was submitted once and is there twice",
                experiment.spec.name
            ))
        })
    }
}
