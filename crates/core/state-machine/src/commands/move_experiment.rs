//! Another queue for a waiting experiment.

use serde::{Deserialize, Serialize};
use types::{ExperimentId, QueueName};

use crate::commands::shape_queue::unknown_queue;
use crate::commands::waiting_of;
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::Outcome;
use crate::state::{ClusterState, Context};

/// Moves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveExperiment {
    /// Which.
    pub experiment: ExperimentId,
    /// Where to.
    pub queue: QueueName,
}

impl MoveExperiment {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let id = self.experiment;
        let mut experiment = match waiting_of(state, context, id, "move") {
            Ok(experiment) => experiment,
            Err(refused) => return refused,
        };
        if !state.queues.contains_key(&self.queue) {
            return unknown_queue(&self.queue);
        }
        let detail = format!("from {} to {}", experiment.queue, self.queue);
        experiment.queue = self.queue.clone();
        experiment.rank = 0;
        state.put(experiment);
        state.record(context, Action::ExperimentMoved, Some(id), detail);
        context.events.push(Event::ExperimentQueued(id));
        Outcome::Done
    }
}
