//! After a new history began: how long its leader waits before it places what the old one may have left running.

use std::time::Duration;

use agent::leases::LEADER_MARGIN;
use state_machine::{Command, ReleasePlacements};
use tokio_util::sync::CancellationToken;
use types::{DurationMs, Incarnation};

use crate::handle::Handle;

/// Pause after a proposal that failed.
const RETRY: Duration = Duration::from_secs(1);

impl Handle {
    /// Releases the placements of a new history once this node has led it, without a break, for the longest lease of the
    /// old one (invariant 11): a lease was granted before the new history began, and ends within its length.
    pub async fn release_placements(self, cancel: CancellationToken) {
        let mut leadership = self.inner.consensus.leader();
        let mut applied = self.inner.consensus.applied();
        loop {
            let leads = leadership.borrow_and_update().is_self;
            let held = if leads { self.held() } else { None };
            let wait = held.map(|(_, length)| wait_for(length));
            tokio::select! {
                () = cancel.cancelled() => return,
                // In another term the wait begins anew: nobody knows how long the leader before has waited.
                changed = leadership.changed() => if changed.is_err() { return },
                changed = applied.changed(), if leads && held.is_none() => if changed.is_err() { return },
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    self.propose_release(held.map(|(incarnation, _)| incarnation)).await;
                }
            }
        }
    }

    /// The newest history that this node has heard of. Who speaks for an older one was left behind by a recovery: it
    /// grants no lease and leads nobody.
    pub(crate) fn newest_incarnation(&self) -> Incarnation {
        let own = self.inner.consensus.state().incarnation();
        let told = self.opened_members().map(|list| list.incarnation);
        let wanted = self.inner.wanted.borrow();
        let wanted = wanted.as_ref().map(|(set, _)| set.incarnation);
        own.max(told.unwrap_or_default())
            .max(wanted.unwrap_or_default())
    }

    fn held(&self) -> Option<(Incarnation, DurationMs)> {
        let state = self.inner.consensus.state();
        let hold = state.placement_hold()?;
        Some((state.incarnation(), hold.length))
    }

    async fn propose_release(&self, incarnation: Option<Incarnation>) {
        let Some(incarnation) = incarnation else {
            return;
        };
        let release = Command::ReleasePlacements(ReleasePlacements { incarnation });
        match self.propose_as_node(release).await {
            Ok(_) => tracing::info!(incarnation = incarnation.0, "placements go on"),
            Err(error) => {
                tracing::warn!(%error, "placements not released yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// One per cent more than the length, for clocks of other speed, and the margin of leases.
fn wait_for(length: DurationMs) -> Duration {
    let drift = length.0.div_ceil(100);
    Duration::from_millis(
        length
            .0
            .saturating_add(drift)
            .saturating_add(LEADER_MARGIN.0),
    )
}
