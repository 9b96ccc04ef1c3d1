//! A part of an attempt's records has become a blob.

use serde::{Deserialize, Serialize};
use types::{AttemptToken, SegmentRef};

use crate::commands::{current, stale};
use crate::event::Event;
use crate::outcome::Outcome;
use crate::state::{ClusterState, Context};

/// Names a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealSegment {
    /// Of which attempt.
    pub token: AttemptToken,
    /// The segment.
    pub segment: SegmentRef,
}

impl SealSegment {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(mut experiment) = current(state, &self.token) else {
            return stale(&self.token);
        };
        let attempt = experiment
            .attempts
            .last_mut()
            .expect("current() found an attempt");
        let known = attempt.segments.len();
        let rank = self.segment.rank;
        if attempt.rank(rank).is_some() {
            attempt.add_segments(rank, std::slice::from_ref(&self.segment));
        }
        if attempt.segments.len() > known {
            state.put(experiment);
            context.events.push(Event::AttemptChanged(self.token));
        }
        Outcome::Done
    }
}
