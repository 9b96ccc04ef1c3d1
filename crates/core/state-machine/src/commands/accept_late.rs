//! A person takes a success that came after its attempt was given up for the result of the experiment.

use serde::{Deserialize, Serialize};
use types::{Cause, ExperimentId};

use crate::commands::{may_steer, unknown_experiment};
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{Experiment, ExperimentPhase};
use crate::state::{ClusterState, Context};

/// Ends an experiment as finished by the late result of one of its attempts (invariant 11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptLate {
    /// Which experiment.
    pub experiment: ExperimentId,
    /// Number of the attempt.
    pub attempt: u32,
}

impl AcceptLate {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let id = self.experiment;
        let Some(experiment) = state.experiments.get(&id) else {
            return unknown_experiment(id);
        };
        if !may_steer(context.author, experiment) {
            let message = format!(
                "{id} belongs to {}: they or an admin can accept its late result",
                experiment.author
            );
            return Outcome::refused(RefusalCode::NotAllowed, message);
        }
        let mut experiment = experiment.as_ref().clone();
        let cause = match self.cause(&experiment, &context.author.to_string()) {
            Ok(cause) => cause,
            Err(refused) => return refused,
        };
        let detail = format!("attempt {}: {cause}", self.attempt);
        state.record(context, Action::LateResultAccepted, Some(id), detail);
        if matches!(experiment.phase, ExperimentPhase::Queued { .. }) {
            state.end(context, experiment, cause);
        } else {
            // It is in the list of ended ones already.
            let at = context.now;
            experiment.phase = ExperimentPhase::Ended { cause, at };
            state.put(experiment);
            context.events.push(Event::ExperimentEnded(id));
        }
        Outcome::Done
    }

    /// The cause that the experiment ends with, or why not.
    fn cause(&self, experiment: &Experiment, by: &str) -> Result<Cause, Outcome> {
        let id = self.experiment;
        if let Some(attempt) = experiment.current_attempt() {
            let message = format!(
                "attempt {} of {id} is running: stop it first (`muster stop {id}`), or let it end",
                attempt.token.attempt
            );
            return Err(Outcome::refused(RefusalCode::NotAllowed, message));
        }
        if let ExperimentPhase::Ended { cause, .. } = &experiment.phase
            && cause.is_success()
        {
            let message = format!("{id} is finished already");
            return Err(Outcome::refused(RefusalCode::AlreadyEnded, message));
        }
        let attempt = experiment
            .attempts
            .iter()
            .find(|attempt| attempt.token.attempt == self.attempt);
        let late = attempt.and_then(|attempt| attempt.late.as_ref());
        let Some(late) = late.filter(|late| late.cause.is_success()) else {
            let message = format!(
                "attempt {} of {id} has no late success: `muster show {id}` lists what its attempts came to",
                self.attempt
            );
            return Err(Outcome::refused(RefusalCode::Invalid, message));
        };
        let mut evidence = vec![format!(
            "the result of attempt {}, which came after it was given up, was accepted by {by}",
            self.attempt
        )];
        evidence.extend(late.cause.evidence.iter().cloned());
        Ok(late.cause.clone().with_evidence(evidence))
    }
}
