//! Demand to placement, on the leader: woken by each event that could let something run.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use scheduler::{Experience, Memory, SchedulerConfig};
use service::{Handle, view_now};
use state_machine::{ClusterState, Command, Event, PlaceAttempt, class};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use types::{ExperimentId, LogIndex};

/// While something waits it is looked at so often, since time alone may serve it: who waits for long keeps a node free or
/// takes a place, a reservation ends.
const LOOK: Duration = Duration::from_secs(5);
/// Time for which what the state teaches is used: reading it takes some milliseconds with thousands of experiments.
const EXPERIENCE_LIFE: Duration = Duration::from_secs(30);
/// Pause before a refused placement is decided anew: the state that refused it is applied by then.
const RETRY: Duration = Duration::from_millis(200);

/// What has to be looked at.
#[derive(Debug, Default)]
struct Work {
    /// Something was freed, or nobody knows what changed: everything that waits.
    all: bool,
    /// Queued since the last look.
    new: Vec<ExperimentId>,
}

impl Work {
    fn note(&mut self, event: &Event) {
        match event {
            Event::ExperimentQueued(id) => self.new.push(*id),
            Event::AttemptEnded(_) | Event::MembersChanged | Event::QueuesChanged => {
                self.all = true
            }
            Event::AttemptPlaced { .. }
            | Event::AttemptStarted(_)
            | Event::AttemptChanged(_)
            | Event::ExperimentEnded(_)
            | Event::TokensChanged => {}
        }
    }

    /// Takes in what came meanwhile, so that one look serves all of it.
    fn drain(&mut self, events: &mut Receiver<(LogIndex, Event)>) {
        loop {
            match events.try_recv() {
                Ok((_, event)) => self.note(&event),
                Err(TryRecvError::Lagged(_)) => self.all = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }
}

/// Places what waits, whenever something changed.
pub(crate) async fn run(handle: Handle, cancel: CancellationToken) {
    let mut events = handle.consensus().subscribe();
    let mut succession = handle.succession();
    let mut config = SchedulerConfig::default();
    let mut memory = Memory::default();
    let mut learned: Option<Instant> = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refused = false;
    loop {
        let mut work = Work::default();
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(RETRY), if refused => work.all = true,
            changed = succession.changed() => match changed {
                Some(()) => work.all = true,
                None => return,
            },
            () = handle.view_changed() => work.all = true,
            _ = look.tick() => work.all = true,
            event = events.recv() => match event {
                Ok((_, event)) => work.note(&event),
                Err(RecvError::Lagged(_)) => work.all = true,
                Err(RecvError::Closed) => return,
            },
        }
        work.drain(&mut events);
        let (leads, is_new) = handle.takes_over(&mut succession).await;
        work.all |= is_new;
        if leads && (work.all || !work.new.is_empty()) {
            if learned.is_none_or(|at| at.elapsed() >= EXPERIENCE_LIFE) {
                config.experience = Arc::new(Experience::of(&handle.consensus().state()));
                learned = Some(Instant::now());
            }
            config.clock = handle.cluster_time();
            refused = place(&handle, &config, &mut memory, &work).await.refused > 0;
        }
    }
}

/// What became of proposals.
#[derive(Debug, Default)]
struct Placed {
    placed: usize,
    refused: usize,
}

/// Decides and proposes until nothing more fits.
async fn place(
    handle: &Handle,
    config: &SchedulerConfig,
    memory: &mut Memory,
    work: &Work,
) -> Placed {
    let state = handle.consensus().state();
    if state.waiting_count() == 0 {
        return Placed::default();
    }
    if !work.all {
        let placements =
            scheduler::place_new(&state, &handle.view(), view_now(), config, &work.new);
        // A node that is kept free only takes away: without a placement there is no need to walk the queue for one.
        let view = handle.view();
        let keeps_free = || scheduler::keeps_nodes_free(&state, &view, view_now(), &work.new);
        let may_take = placements.len() < work.new.len() && is_of_high_class(&state, &work.new);
        if !may_take && (placements.is_empty() || !keeps_free()) {
            return propose(handle, placements).await;
        }
    }
    loop {
        let state = handle.consensus().state();
        let placements =
            scheduler::place_next_with(&state, &handle.view(), view_now(), config, memory);
        // A round that is not full leaves nothing that fits.
        let is_last = placements.len() < config.max_placements_per_round;
        let round = propose(handle, placements).await;
        if round.refused > 0 || !handle.is_leader() {
            return round;
        }
        if is_last {
            return make_room(handle, config).await;
        }
    }
}

/// Whether one of these may take the place of others as soon as it waits.
fn is_of_high_class(state: &ClusterState, new: &[ExperimentId]) -> bool {
    let mut new = new.iter().filter_map(|id| state.experiment(*id));
    new.any(|one| class(one) > 0)
}

/// Lets attempts make room for those in front, when nothing more can be placed.
async fn make_room(handle: &Handle, config: &SchedulerConfig) -> Placed {
    let state = handle.consensus().state();
    let decision = scheduler::preempt_next(&state, &handle.view(), view_now(), config);
    let Some(decision) = decision else {
        return Placed::default();
    };
    let (experiment_id, victims) = (decision.beneficiary, decision.victims.len());
    let reason = decision.reason.clone();
    match handle
        .propose_as_node(Command::PreemptFor(Box::new(decision)))
        .await
    {
        Ok(_) => {
            tracing::info!(%experiment_id, victims, reason, "attempts make room");
            Placed::default()
        }
        Err(error) => {
            tracing::debug!(%experiment_id, %error, "making room refused");
            Placed {
                placed: 0,
                refused: 1,
            }
        }
    }
}

/// Proposes all at once.
async fn propose(handle: &Handle, placements: Vec<PlaceAttempt>) -> Placed {
    let proposals = placements.into_iter().map(|place| async {
        let experiment_id = place.experiment;
        let proposed = handle.propose_as_node(Command::PlaceAttempt(place)).await;
        proposed
            .inspect_err(|error| tracing::debug!(%experiment_id, %error, "placement refused"))
            .is_ok()
    });
    let (placed, refused): (Vec<_>, Vec<_>) = join_all(proposals)
        .await
        .into_iter()
        .partition(|placed| *placed);
    Placed {
        placed: placed.len(),
        refused: refused.len(),
    }
}
