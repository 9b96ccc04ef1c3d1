//! Another queue for a waiting experiment.

use serde::{Deserialize, Serialize};
use types::{ExperimentId, QueueName};

use crate::commands::{may_steer, unknown_experiment};
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::ExperimentPhase;
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
        let Some(experiment) = state.experiments.get(&id) else {
            return unknown_experiment(id);
        };
        if !may_steer(context.author, experiment) {
            let message = format!(
                "{id} belongs to {}: they or an admin can move it",
                experiment.author
            );
            return Outcome::refused(RefusalCode::NotAllowed, message);
        }
        if !state.queues.contains_key(&self.queue) {
            let message = format!(
                "there is no queue {}: `muster queue ls` lists them",
                self.queue
            );
            return Outcome::refused(RefusalCode::UnknownQueue, message);
        }
        if !matches!(experiment.phase, ExperimentPhase::Queued { .. }) {
            return Outcome::refused(
                RefusalCode::NotWaiting,
                format!("{id} is not waiting: nothing to move"),
            );
        }
        let mut experiment = experiment.as_ref().clone();
        let detail = format!("from {} to {}", experiment.queue, self.queue);
        experiment.queue = self.queue.clone();
        state.put(experiment);
        state.record(context, Action::ExperimentMoved, Some(id), detail);
        context.events.push(Event::ExperimentQueued(id));
        Outcome::Done
    }
}
