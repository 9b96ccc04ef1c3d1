//! Invariant 12: an experiment ends as exactly one of finished, failed, stopped, or is still wanted; what has ended stays
//! so; it fails for lost machines when it has met exactly one more than it bears.

use std::collections::BTreeMap;

use state_machine::{Event, Experiment, ExperimentPhase};
use types::{Cause, CauseKind, ExperimentId};

use crate::seen::Seen;

#[derive(Default)]
pub(crate) struct OneEnd {
    ended: BTreeMap<ExperimentId, (u64, String)>,
}

impl OneEnd {
    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Applied(entry) = seen else {
            return Ok(());
        };
        let Some((_, applied)) = entry.command else {
            return Ok(());
        };
        for event in &applied.events {
            match event {
                Event::ExperimentEnded(id) => {
                    let Some(experiment) = entry.state.experiment(*id) else {
                        return Err(format!("invariant 12: {id} ended and is gone"));
                    };
                    let ExperimentPhase::Ended { cause, .. } = &experiment.phase else {
                        return Err(format!("invariant 12: {id} ended and has not"));
                    };
                    let stopped = matches!(cause.kind, CauseKind::Stopped { .. });
                    if stopped && experiment.stop_requested.is_none() {
                        return Err(format!("invariant 12: {id} was stopped by nobody: {cause}"));
                    }
                    check_loss(experiment, cause)?;
                    let end = (entry.index, cause.to_string());
                    let first = self.ended.entry(*id).or_insert_with(|| end.clone());
                    if *first != end {
                        return Err(format!(
                            "invariant 12: {id} ended at {first:?} and at {end:?}"
                        ));
                    }
                }
                Event::ExperimentQueued(id) => {
                    self.lives(*id, entry.index)?;
                    if let Some(experiment) = entry.state.experiment(*id) {
                        check_tries(experiment)?;
                    }
                }
                Event::AttemptPlaced { token, .. } => self.lives(token.experiment, entry.index)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// It does something at `index`: it must not have ended before.
    fn lives(&self, id: ExperimentId, index: u64) -> Result<(), String> {
        match self.ended.get(&id) {
            Some((at, _)) if *at < index => Err(format!(
                "invariant 12: {id} lives on at {index} after its end"
            )),
            _ => Ok(()),
        }
    }
}

/// It waits to be tried again as often as it may be, and no more.
fn check_tries(experiment: &Experiment) -> Result<(), String> {
    let policy = &experiment.spec.policy;
    if experiment.nodes_lost() > policy.retries_node_lost
        || experiment.own_failures() > policy.retries_failed
    {
        return Err(format!(
            "invariant 12: {} is tried more often than it may be: {} lost machines, {} failures",
            experiment.id,
            experiment.nodes_lost(),
            experiment.own_failures()
        ));
    }
    Ok(())
}

fn check_loss(experiment: &Experiment, cause: &Cause) -> Result<(), String> {
    let bears = experiment.spec.policy.retries_node_lost;
    let is_exact = experiment.nodes_lost().checked_sub(1) == Some(bears);
    if cause.is_node_failure() && (!is_exact || experiment.stop_requested.is_some()) {
        return Err(format!(
            "invariant 12: {} failed for {} lost machines and bears {bears}: {cause}",
            experiment.id,
            experiment.nodes_lost()
        ));
    }
    Ok(())
}
