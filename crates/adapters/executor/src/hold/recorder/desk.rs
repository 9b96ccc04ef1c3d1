//! Between the supervisor and the thread that writes: what waits for the disk, and how far it came.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::Written;
use crate::clock::boottime_ms;
use crate::hold::log;

/// Once so many bytes wait, the pipes are left alone until they are taken, and the job waits for its own output. What is
/// kept of a flood in a second, so that a sync of usual length holds up nobody.
const MAX_WAITING_BYTES: usize = 256 << 10;
/// Lines for `holder.log` beyond this are dropped: a node shows the last few only.
const MAX_LOG_BYTES: usize = 16 << 10;

/// Held for moments only, never while anything is written.
#[derive(Debug)]
pub(super) struct Desk {
    waiting: Mutex<Waiting>,
    /// Something was left.
    left: Condvar,
    /// An eventfd: the supervisor sleeps in a `poll`.
    pub(super) wake: OwnedFd,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: Vec<u8>,
    next_sequence: u64,
    log: String,
    last: bool,
    written: Written,
    failed: bool,
    failure: Option<io::Error>,
}

/// What the thread took, besides the frames.
#[derive(Debug)]
pub(super) struct Batch {
    /// Number after the last record of the frames.
    pub(super) next_sequence: u64,
    /// Lines for `holder.log`.
    pub(super) log: String,
    /// Nothing comes after this.
    pub(super) last: bool,
}

impl Desk {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            waiting: Mutex::default(),
            left: Condvar::new(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves frames, whose last record is the one before number `next_sequence`.
    pub(super) fn leave(&self, next_sequence: u64, frame: impl FnOnce(&mut Vec<u8>)) {
        let mut waiting = self.waiting();
        if waiting.failed {
            return;
        }
        frame(&mut waiting.frames);
        waiting.next_sequence = next_sequence;
        self.left.notify_one();
    }

    pub(super) fn leave_log(&self, line: &str) {
        let mut waiting = self.waiting();
        if waiting.log.len() + line.len() < MAX_LOG_BYTES {
            waiting.log.push_str(line);
            waiting.log.push('\n');
        }
        self.left.notify_one();
    }

    pub(super) fn leave_last(&self) {
        self.waiting().last = true;
        self.left.notify_one();
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting().frames.len() >= MAX_WAITING_BYTES
    }

    /// How far the thread came, and its failure once.
    pub(super) fn hear(&self) -> io::Result<(Written, Option<io::Error>)> {
        match rustix::io::read(&self.wake, &mut [0; 8]) {
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut waiting = self.waiting();
        Ok((waiting.written, waiting.failure.take()))
    }

    /// Takes all that waits, its frames into `frames`. Waits for something, at most until `until_ms`.
    pub(super) fn take(&self, frames: &mut Vec<u8>, until_ms: Option<u64>) -> Batch {
        frames.clear();
        let mut waiting = self.waiting();
        while waiting.frames.is_empty() && waiting.log.is_empty() && !waiting.last {
            let left_ms = until_ms.map_or(u64::MAX, |at| at.saturating_sub(boottime_ms()));
            if left_ms == 0 {
                break;
            }
            let woken = self
                .left
                .wait_timeout(waiting, Duration::from_millis(left_ms));
            (waiting, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(frames, &mut waiting.frames);
        let batch = Batch {
            next_sequence: waiting.next_sequence,
            log: std::mem::take(&mut waiting.log),
            last: waiting.last,
        };
        drop(waiting);
        if frames.len() >= MAX_WAITING_BYTES {
            self.wake_supervisor();
        }
        batch
    }

    /// Says how far it came.
    pub(super) fn report(&self, written: Written) {
        let mut waiting = self.waiting();
        let grew = waiting.written != written;
        waiting.written = written;
        drop(waiting);
        if grew {
            self.wake_supervisor();
        }
    }

    /// Says that nothing is written any more.
    pub(super) fn fail(&self, error: io::Error) {
        let mut waiting = self.waiting();
        waiting.failed = true;
        waiting.failure = Some(error);
        waiting.frames = Vec::new();
        drop(waiting);
        self.wake_supervisor();
    }

    fn wake_supervisor(&self) {
        if let Err(error) = rustix::io::write(&self.wake, &1_u64.to_ne_bytes()) {
            log(&format!("the supervisor was not woken: {error}"));
        }
    }
}
