//! The end of an attempt whose node does not answer.

use serde::{Deserialize, Serialize};
use types::{AttemptToken, Cause, DurationMs, SegmentRef};

use crate::commands::{current, stale};
use crate::outcome::Outcome;
use crate::records::AttemptEnd;
use crate::state::{ClusterState, Context};

/// The leader knows that the lease is over, or has other proof of the end (invariant 11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoseAttempt {
    /// Which.
    pub token: AttemptToken,
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
        for rank in &mut attempt.ranks {
            rank.ended = true;
        }
        attempt.add_segments(&self.segments);
        let end = AttemptEnd {
            cause: self.cause.clone(),
            at: context.now,
            peak_memory_bytes: 0,
            peak_vram_bytes: 0,
            cpu_ms: DurationMs(0),
            tree_kill_method: String::new(),
        };
        state.end_attempt(context, experiment, end);
        Outcome::Done
    }
}
