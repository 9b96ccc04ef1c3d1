//! What the state machine shows to the rest of the node: newest state, how far it is, events.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use state_machine::{ClusterState, Event};
use tokio::sync::{broadcast, watch};
use types::LogIndex;

/// Events that a slow subscriber may be behind before it must re-read the state: some seconds of a
/// busy cluster, about 1 MiB.
const EVENT_BACKLOG: usize = 8_192;

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Longest processor time for which applying should hold up what comes after it.
const APPLY_TARGET: Duration = Duration::from_millis(10);

/// How long applying held up what came after it, since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyStalls {
    /// Longest processor time: what apply itself takes, and what the machine below a virtual one takes meanwhile.
    pub processor: Duration,
    /// Longest time on the wall, with what other processes took of the processor meanwhile.
    pub wall: Duration,
    /// How many there were.
    pub count: u64,
    /// Those of more processor time than 10 ms.
    pub over_target: u64,
}

/// Measures one stall on the thread that it is on.
pub(crate) struct StallClock {
    processor: Duration,
    wall: Instant,
}

impl StallClock {
    pub(crate) fn start() -> Self {
        Self {
            processor: processor_time(),
            wall: Instant::now(),
        }
    }
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// The newest applied state, for any number of readers.
#[derive(Debug)]
pub(crate) struct Published {
    state: RwLock<Arc<ClusterState>>,
    term: AtomicU64,
    stalls: Mutex<ApplyStalls>,
    /// Time that the newest snapshot took to write, in µs.
    snapshot_micros: AtomicU64,
    applied: watch::Sender<LogIndex>,
    events: broadcast::Sender<(LogIndex, Event)>,
}

impl Published {
    pub(crate) fn new() -> Self {
        Self {
            state: RwLock::new(Arc::new(ClusterState::default())),
            term: AtomicU64::new(0),
            stalls: Mutex::default(),
            snapshot_micros: AtomicU64::new(0),
            applied: watch::Sender::new(LogIndex(0)),
            events: broadcast::Sender::new(EVENT_BACKLOG),
        }
    }

    pub(crate) fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows `state`, which has applied everything up to `index`, whose entry is of `term`. Gives the one before, since
    /// freeing it may take a while.
    pub(crate) fn publish(
        &self,
        state: ClusterState,
        index: LogIndex,
        term: u64,
    ) -> Arc<ClusterState> {
        let old = std::mem::replace(
            &mut *self.state.write().unwrap_or_else(PoisonError::into_inner),
            Arc::new(state),
        );
        self.term.store(term, Ordering::Release);
        self.applied.send_replace(index);
        old
    }

    /// Notes how long one chunk of entries, or the start of a snapshot, kept the next from being applied.
    pub(crate) fn note_apply(&self, clock: &StallClock) {
        let processor = processor_time().saturating_sub(clock.processor);
        let mut stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        stalls.processor = stalls.processor.max(processor);
        stalls.wall = stalls.wall.max(clock.wall.elapsed());
        stalls.count += 1;
        stalls.over_target += u64::from(processor > APPLY_TARGET);
    }

    /// What was noted since the last time that this was asked.
    pub(crate) fn take_apply_stalls(&self) -> ApplyStalls {
        std::mem::take(&mut *self.stalls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn note_snapshot(&self, took: Duration) {
        self.snapshot_micros.store(micros(took), Ordering::Relaxed);
    }

    pub(crate) fn snapshot_micros(&self) -> u64 {
        self.snapshot_micros.load(Ordering::Relaxed)
    }

    pub(crate) fn announce(&self, events: Vec<(LogIndex, Event)>) {
        if self.events.receiver_count() == 0 {
            return;
        }
        for event in events {
            // An error says that nobody listens any more.
            drop(self.events.send(event));
        }
    }

    /// Term of the newest applied entry.
    pub(crate) fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    pub(crate) fn applied(&self) -> watch::Receiver<LogIndex> {
        self.applied.subscribe()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<(LogIndex, Event)> {
        self.events.subscribe()
    }
}
