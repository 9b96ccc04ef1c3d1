//! What the state machine shows to the rest of the node: newest state, how far it is, events.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use state_machine::{ClusterState, Event};
use tokio::sync::{broadcast, watch};
use types::LogIndex;

/// Events that a slow subscriber may be behind before it must re-read the state: some seconds of a
/// busy cluster, about 1 MiB.
const EVENT_BACKLOG: usize = 8_192;

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The newest applied state, for any number of readers.
#[derive(Debug)]
pub(crate) struct Published {
    state: RwLock<Arc<ClusterState>>,
    term: AtomicU64,
    /// Longest processor time for which apply held up what came after it, in µs.
    longest_apply_micros: AtomicU64,
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
            longest_apply_micros: AtomicU64::new(0),
            snapshot_micros: AtomicU64::new(0),
            applied: watch::Sender::new(LogIndex(0)),
            events: broadcast::Sender::new(EVENT_BACKLOG),
        }
    }

    pub(crate) fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows `state`, which has applied everything up to `index`, whose entry is of `term`.
    pub(crate) fn publish(&self, state: ClusterState, index: LogIndex, term: u64) {
        let old = std::mem::replace(
            &mut *self.state.write().unwrap_or_else(PoisonError::into_inner),
            Arc::new(state),
        );
        // Freeing the old state may take a while: not under the lock.
        drop(old);
        self.term.store(term, Ordering::Release);
        self.applied.send_replace(index);
    }

    /// Notes how long one chunk of entries, or the start of a snapshot, kept the next from being applied.
    pub(crate) fn note_apply(&self, took: Duration) {
        self.longest_apply_micros
            .fetch_max(micros(took), Ordering::Relaxed);
    }

    /// The longest since the last time that this was asked.
    pub(crate) fn take_longest_apply(&self) -> Duration {
        Duration::from_micros(self.longest_apply_micros.swap(0, Ordering::Relaxed))
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
