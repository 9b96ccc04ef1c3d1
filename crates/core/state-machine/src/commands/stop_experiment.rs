//! A person wants an experiment to end.

use serde::{Deserialize, Serialize};
use types::{Cause, CauseKind, ExperimentId};

use crate::commands::{may_steer, unknown_experiment};
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{ExperimentPhase, StopRequest};
use crate::state::{ClusterState, Context};

/// Ends an experiment: at once while it waits, else through its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopExperiment {
    /// Which.
    pub experiment: ExperimentId,
}

impl StopExperiment {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let id = self.experiment;
        let Some(experiment) = state.experiments.get(&id) else {
            return unknown_experiment(id);
        };
        if !may_steer(context.author, experiment) {
            let message = format!(
                "{id} belongs to {}: they or an admin can stop it",
                experiment.author
            );
            return Outcome::refused(RefusalCode::NotAllowed, message);
        }
        let mut experiment = experiment.as_ref().clone();
        let by = context.author.to_string();
        match &experiment.phase {
            ExperimentPhase::Ended { cause, .. } => {
                return Outcome::refused(
                    RefusalCode::AlreadyEnded,
                    format!("{id} is over already: {cause}"),
                );
            }
            ExperimentPhase::Queued { .. } => {
                let cause = Cause::new(
                    CauseKind::Stopped { by: by.clone() },
                    vec!["it was waiting; nothing was running".to_owned()],
                );
                experiment.stop_requested = Some(StopRequest {
                    by,
                    at: context.now,
                });
                state.record(
                    context,
                    Action::StopRequested,
                    Some(id),
                    "while it was waiting",
                );
                state.end(context, experiment, cause);
            }
            ExperimentPhase::Active => {
                let token = experiment.current_attempt().map(|attempt| attempt.token);
                if experiment.stop_requested.is_none() {
                    experiment.stop_requested = Some(StopRequest {
                        by,
                        at: context.now,
                    });
                    state.record(
                        context,
                        Action::StopRequested,
                        Some(id),
                        "while it was running",
                    );
                    state.put(experiment);
                    context.events.extend(token.map(Event::AttemptChanged));
                }
            }
        }
        Outcome::Done
    }
}
