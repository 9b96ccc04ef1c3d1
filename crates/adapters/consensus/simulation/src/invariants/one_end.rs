//! Invariant 12: an experiment ends as exactly one of finished, failed, stopped, or is still wanted; what has ended stays
//! so.

use std::collections::BTreeMap;

use state_machine::{Event, ExperimentPhase};
use types::{CauseKind, ExperimentId};

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
                    let end = (entry.index, cause.to_string());
                    let first = self.ended.entry(*id).or_insert_with(|| end.clone());
                    if *first != end {
                        return Err(format!(
                            "invariant 12: {id} ended at {first:?} and at {end:?}"
                        ));
                    }
                }
                Event::ExperimentQueued(id) => self.lives(*id, entry.index)?,
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
