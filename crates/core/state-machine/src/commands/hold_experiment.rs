//! A person wants an experiment to wait, or lets it go on.

use serde::{Deserialize, Serialize};
use types::ExperimentId;

use crate::commands::waiting_of;
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::Outcome;
use crate::queue::Word;
use crate::state::{ClusterState, Context};

/// Keeps a waiting experiment from being placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldExperiment {
    /// Which.
    pub experiment: ExperimentId,
    /// Why, for people; may be empty.
    pub reason: String,
}

impl HoldExperiment {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let mut experiment = match waiting_of(state, context, self.experiment, "hold") {
            Ok(experiment) => experiment,
            Err(refused) => return refused,
        };
        if experiment.held.is_some() {
            return Outcome::Done; // As it is already; who asked first is kept.
        }
        experiment.held = Some(Word {
            by: context.author.to_string(),
            at: context.now,
            reason: self.reason.clone(),
        });
        state.put(experiment);
        let id = Some(self.experiment);
        state.record(context, Action::ExperimentHeld, id, self.reason.clone());
        Outcome::Done
    }
}

/// Lets a held experiment be placed again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseExperiment {
    /// Which.
    pub experiment: ExperimentId,
}

impl ReleaseExperiment {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let mut experiment = match waiting_of(state, context, self.experiment, "release") {
            Ok(experiment) => experiment,
            Err(refused) => return refused,
        };
        if experiment.held.take().is_none() {
            return Outcome::Done;
        }
        state.put(experiment);
        let id = Some(self.experiment);
        state.record(context, Action::ExperimentReleased, id, String::new());
        let queued = Event::ExperimentQueued(self.experiment);
        context.events.push(queued);
        Outcome::Done
    }
}
