//! Another length of lease for an attempt (invariant 11).

use serde::{Deserialize, Serialize};
use types::{AttemptToken, DurationMs};

use crate::commands::{current, stale};
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::state::{ClusterState, Context};

/// Makes the lease longer. A shorter one is refused: a new leader holds each lease for the length in state, and the
/// node may have been granted the longer one just before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendLease {
    /// Which attempt.
    pub token: AttemptToken,
    /// New length.
    pub lease_ms: DurationMs,
    /// Why, for the ledger.
    pub reason: String,
}

impl ExtendLease {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(mut experiment) = current(state, &self.token) else {
            return stale(&self.token);
        };
        if let Some(attempt) = experiment.attempts.last_mut() {
            if self.lease_ms < attempt.lease_ms {
                let message = format!(
                    "the lease of {} is {} and cannot get shorter",
                    self.token, attempt.lease_ms
                );
                return Outcome::refused(RefusalCode::Invalid, message);
            }
            if self.lease_ms == attempt.lease_ms {
                return Outcome::Done;
            }
            attempt.lease_ms = self.lease_ms;
        }
        state.put(experiment);
        let detail = format!(
            "attempt {}: {}, {}",
            self.token.attempt, self.lease_ms, self.reason
        );
        state.record(
            context,
            Action::LeaseExtended,
            Some(self.token.experiment),
            detail,
        );
        context.events.push(Event::AttemptChanged(self.token));
        Outcome::Done
    }
}
