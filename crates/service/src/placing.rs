//! The leader's decisions about what waits, proposed.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use scheduler::{Experience, Memory, SchedulerConfig};
use state_machine::{ClusterState, Command, PlaceAttempt, class};
use tokio::time::Instant;
use types::ExperimentId;

use crate::handle::{Handle, lock, view_now};

/// Time for which what the state teaches is used: reading it takes some milliseconds with thousands of experiments.
const EXPERIENCE_LIFE: Duration = Duration::from_secs(30);

/// What the state taught, and when.
pub(crate) type Learned = (Instant, Arc<Experience>);

impl Handle {
    /// How this node decides, or would if it led: what `why` explains and what the leader does come from the same.
    #[must_use]
    pub fn scheduler_config(&self, state: &ClusterState) -> SchedulerConfig {
        SchedulerConfig {
            clock: self.cluster_time(),
            experience: self.experience(state),
            ..SchedulerConfig::default()
        }
    }

    fn experience(&self, state: &ClusterState) -> Arc<Experience> {
        let mut learned = lock(&self.inner.experience);
        let known = learned.take();
        let (at, experience) = match known {
            Some((at, known)) if at.elapsed() < EXPERIENCE_LIFE => (at, known),
            older => {
                let new = Experience::of(state);
                // The same again keeps what was found out by it.
                let same = older.map(|(_, old)| old).filter(|old| **old == new);
                (Instant::now(), same.unwrap_or_else(|| Arc::new(new)))
            }
        };
        *learned = Some((at, Arc::clone(&experience)));
        experience
    }

    /// Decides and proposes until nothing more fits, then lets others make room; how many proposals were refused.
    /// `new`: only these were queued since the last look, and nothing was freed.
    pub async fn place_waiting(
        &self,
        config: &SchedulerConfig,
        memory: &mut Memory,
        new: Option<&[ExperimentId]>,
    ) -> usize {
        place(self, config, memory, new).await
    }
}

async fn place(
    handle: &Handle,
    config: &SchedulerConfig,
    memory: &mut Memory,
    new: Option<&[ExperimentId]>,
) -> usize {
    let state = handle.consensus().state();
    if state.waiting_count() == 0 {
        return 0;
    }
    if let Some(new) = new {
        let placements = scheduler::place_new(&state, &handle.view(), view_now(), config, new);
        // A node that is kept free only takes away: without a placement there is no need to walk the queue for one.
        let view = handle.view();
        let keeps_free = || scheduler::keeps_nodes_free(&state, &view, view_now(), new);
        let all_placed = placements.len() == new.len();
        // Of several new ones that do not all fit, the line says who goes first.
        let is_contended = !all_placed && !placements.is_empty();
        let may_take = !all_placed && is_of_higher_class(&state, new);
        if !is_contended && !may_take && (placements.is_empty() || !keeps_free()) {
            return propose(handle, placements).await;
        }
    }
    loop {
        let state = handle.consensus().state();
        let placements =
            scheduler::place_next_with(&state, &handle.view(), view_now(), config, memory);
        // A round that is not full leaves nothing that fits.
        let is_last = placements.len() < config.max_placements_per_round;
        let refused = propose(handle, placements).await;
        if refused > 0 || !handle.is_leader() {
            return refused;
        }
        if is_last {
            return make_room(handle, config).await;
        }
    }
}

/// Whether one of these is of a higher class than something that runs, whose place it may take as soon as it waits.
fn is_of_higher_class(state: &ClusterState, new: &[ExperimentId]) -> bool {
    let new = new.iter().filter_map(|id| state.experiment(*id));
    let highest = new.map(|one| class(one)).max();
    highest.is_some_and(|highest| state.active().any(|(one, _)| class(one) < highest))
}

/// Lets attempts make room for those in front, when nothing more can be placed; 1 if that was refused.
async fn make_room(handle: &Handle, config: &SchedulerConfig) -> usize {
    let state = handle.consensus().state();
    let decision = scheduler::preempt_next(&state, &handle.view(), view_now(), config);
    let Some(decision) = decision else {
        return 0;
    };
    let (experiment_id, victims) = (decision.beneficiary, decision.victims.len());
    let reason = decision.reason.clone();
    match handle
        .propose_as_node(Command::PreemptFor(Box::new(decision)))
        .await
    {
        Ok(_) => {
            tracing::info!(%experiment_id, victims, reason, "attempts make room");
            0
        }
        Err(error) => {
            tracing::debug!(%experiment_id, %error, "making room refused");
            1
        }
    }
}

/// Proposes all at once; how many were refused.
async fn propose(handle: &Handle, placements: Vec<PlaceAttempt>) -> usize {
    let proposals = placements.into_iter().map(|place| async {
        let experiment_id = place.experiment;
        let proposed = handle.propose_as_node(Command::PlaceAttempt(place)).await;
        proposed
            .inspect_err(|error| tracing::debug!(%experiment_id, %error, "placement refused"))
            .is_ok()
    });
    let accepted = join_all(proposals).await;
    accepted.iter().filter(|accepted| !**accepted).count()
}
