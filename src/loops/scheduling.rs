//! Demand to placement, on the leader: woken by each event that could let something run.

use std::time::Duration;

use scheduler::{Memory, SchedulerConfig};
use service::Handle;
use state_machine::Event;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use types::{DurationMs, ExperimentId, LogIndex};

/// While something waits it is looked at so often, since time alone may serve it: who waits for long keeps a node free or
/// takes a place, a reservation ends.
const LOOK: Duration = Duration::from_secs(5);
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
            Event::RankEnded(_)
            | Event::AttemptEnded(_)
            | Event::MembersChanged
            | Event::QueuesChanged => self.all = true,
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
pub(crate) async fn run(handle: Handle, preempt_after: DurationMs, cancel: CancellationToken) {
    let mut events = handle.consensus().subscribe();
    let mut succession = handle.succession();
    let mut memory = Memory::default();
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
            let config = SchedulerConfig {
                preempt_after,
                ..handle.scheduler_config(&handle.consensus().state())
            };
            let new = (!work.all).then_some(work.new.as_slice());
            refused = handle.place_waiting(&config, &mut memory, new).await > 0;
        }
    }
}
