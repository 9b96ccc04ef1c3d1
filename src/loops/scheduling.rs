//! Demand to placement, on the leader: woken by each event that could let something run.

use futures::future::join_all;
use scheduler::SchedulerConfig;
use service::Handle;
use state_machine::{Command, Event};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::clock::now;

/// Places what waits, whenever something changed.
pub(crate) async fn run(handle: Handle, cancel: CancellationToken) {
    let mut events = handle.consensus().subscribe();
    let mut leadership = handle.consensus().leader();
    let config = SchedulerConfig::default();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
            () = handle.view_changed() => {}
            event = events.recv() => match event {
                Ok((_, event)) => if !frees_or_asks(&event) { continue },
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
        while handle.is_leader() && place_round(&handle, &config).await {}
    }
}

fn frees_or_asks(event: &Event) -> bool {
    match event {
        Event::ExperimentQueued(_)
        | Event::AttemptEnded(_)
        | Event::MembersChanged
        | Event::QueuesChanged => true,
        Event::AttemptPlaced { .. }
        | Event::AttemptStarted(_)
        | Event::AttemptChanged(_)
        | Event::ExperimentEnded(_)
        | Event::TokensChanged => false,
    }
}

/// One round: decide, propose all at once; true when something was placed, so that another round may find more.
async fn place_round(handle: &Handle, config: &SchedulerConfig) -> bool {
    let state = handle.consensus().state();
    if state.waiting_count() == 0 {
        return false;
    }
    let placements = scheduler::place_next(&state, &handle.view(), now(), config);
    let proposals = placements.into_iter().map(|place| async {
        let experiment_id = place.experiment;
        match handle.propose_as_node(Command::PlaceAttempt(place)).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%experiment_id, %error, "placement refused");
                false
            }
        }
    });
    join_all(proposals).await.into_iter().any(|placed| placed)
}
