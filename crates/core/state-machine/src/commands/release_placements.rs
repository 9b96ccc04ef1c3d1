//! The end of the hold after a new history began.

use serde::{Deserialize, Serialize};
use types::Incarnation;

use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::state::{ClusterState, Context};

/// A leader has waited, on its own clock and without a break, for the longest lease that the history before may have
/// granted: nothing of it can be running any more (invariant 11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasePlacements {
    /// The history that it waited in.
    pub incarnation: Incarnation,
}

impl ReleasePlacements {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        if self.incarnation != state.incarnation {
            let message = format!(
                "this is history {}, not {}",
                state.incarnation.0, self.incarnation.0
            );
            return Outcome::refused(RefusalCode::Stale, message);
        }
        let Some(hold) = state.placement_hold.take() else {
            return Outcome::Done;
        };
        let detail = format!(
            "after {}: no lease of the history before is left",
            hold.length
        );
        state.record(context, Action::PlacementsReleased, None, detail);
        // Wakes the scheduler for everything that waits.
        context.events.push(Event::QueuesChanged);
        Outcome::Done
    }
}
