//! Points of metrics on their way to the holder, which alone writes records: a few at a time, each lot answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use types::{AttemptToken, MetricPoint};

use super::attempt::Attempt;
use super::handle::{Handle, send};
use crate::clock::boottime_ms;
use crate::error::Error;
use crate::protocol::Request;

/// Points in one message: with the longest names half of the largest message.
const LOT: usize = 200;
/// Longest wait for the holder's answer; a live one takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries while its disk is slow, and how often it is tried: as long as a request may take.
const PAUSE: Duration = Duration::from_millis(50);
const TRIES: u32 = 100;

/// Lots that wait for their answer.
#[derive(Debug)]
pub(super) struct Lots {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<bool>>>,
}

impl Default for Lots {
    fn default() -> Self {
        Self {
            // Answers to the node process before this one must not be taken for answers to this one.
            next: AtomicU64::new(boottime_ms() << 16),
            waiting: Mutex::default(),
        }
    }
}

impl Lots {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<bool>>> {
        self.waiting
            .lock()
            .expect("no holder of this lock can panic: it only adds and removes")
    }

    /// The holder took a lot, or did not.
    pub(super) fn answer(&self, lot: u64, taken: bool) {
        let waiting = self.waiting().remove(&lot);
        let told = waiting.map(|waiting| waiting.send(taken));
        if told.is_some_and(|told| told.is_err()) {
            tracing::debug!(lot, "whoever sent points is gone");
        }
    }
}

impl Handle {
    /// Adds points of metrics to the records of a running attempt; they are in its files when it returns.
    ///
    /// # Errors
    /// The attempt is not known here or has ended, or its holder does not take them in time.
    pub async fn add_points(
        &self,
        token: &AttemptToken,
        points: &[MetricPoint],
    ) -> Result<(), Error> {
        let attempt = self.attempt(token)?;
        for lot in points.chunks(LOT) {
            add_lot(&attempt, lot).await?;
        }
        Ok(())
    }
}

async fn add_lot(attempt: &Attempt, points: &[MetricPoint]) -> Result<(), Error> {
    let token = attempt.token;
    for _try in 0..TRIES {
        if attempt.has_ended() {
            return Err(Error::HasEnded { token });
        }
        let (sender, answer) = oneshot::channel();
        let lot = attempt.lots.next.fetch_add(1, Ordering::Relaxed);
        attempt.lots.waiting().insert(lot, sender);
        let points = points.to_vec();
        send(attempt, Request::Points { lot, points }).await;
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        attempt.lots.waiting().remove(&lot);
        match answer {
            Ok(Ok(true)) => return Ok(()),
            // Its disk does not keep up.
            Ok(Ok(false)) => tokio::time::sleep(PAUSE).await,
            Ok(Err(_)) | Err(_) => break,
        }
    }
    match attempt.has_ended() {
        true => Err(Error::HasEnded { token }),
        false => Err(Error::NotTaken { token }),
    }
}
