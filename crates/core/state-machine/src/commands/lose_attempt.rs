//! The end of a rank whose node does not answer.

use serde::{Deserialize, Serialize};
use types::{AttemptToken, Cause, SegmentRef};

use crate::commands::{current, stale};
use crate::outcome::Outcome;
use crate::records::AttemptEnd;
use crate::state::{ClusterState, Context};

/// The leader knows that the lease is over, or has other proof of the end (invariant 11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoseAttempt {
    /// Of which attempt.
    pub token: AttemptToken,
    /// Which of its ranks.
    pub rank: u32,
    /// Why, with evidence.
    pub cause: Cause,
    /// What the mirror sealed of its records.
    pub segments: Vec<SegmentRef>,
}

impl LoseAttempt {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(mut experiment) = current(state, &self.token) else {
            return stale(&self.token);
        };
        let attempt = experiment
            .attempts
            .last_mut()
            .expect("current() found an attempt");
        let open = attempt.rank(self.rank).filter(|rank| !rank.ended);
        if open.is_none() {
            return stale(&self.token);
        }
        attempt.add_segments(self.rank, &self.segments);
        let end = AttemptEnd::lost(self.cause.clone(), context.now);
        state.end_rank(context, experiment, self.rank, end);
        Outcome::Done
    }
}
