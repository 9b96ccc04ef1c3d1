//! Demand to placement, on the leader: woken by each event that could let something run.

use std::sync::Arc;
use std::time::Duration;

use scheduler::{Experience, Memory, SchedulerConfig};
use service::Handle;
use state_machine::Event;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use types::{DurationMs, ExperimentId, LogIndex};

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
    let mut config = SchedulerConfig {
        preempt_after,
        ..SchedulerConfig::default()
    };
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
                let experience = Experience::of(&handle.consensus().state());
                // The same again keeps what was found out by it.
                if experience != *config.experience {
                    config.experience = Arc::new(experience);
                }
                learned = Some(Instant::now());
            }
            config.clock = handle.cluster_time();
            let new = (!work.all).then_some(work.new.as_slice());
            refused = handle.place_waiting(&config, &mut memory, new).await > 0;
        }
    }
}
