//! Trying again while the cluster has no leader.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::terminal::Terminal;

/// First wait; a leader change in a LAN takes some hundred milliseconds.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Waits that grow until a deadline.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Instant,
    wait: Duration,
    noted: bool,
}

impl Patience {
    /// Patience for so long from now.
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            deadline: Instant::now() + window,
            wait: FIRST_WAIT,
            noted: false,
        }
    }

    /// Waits before the next attempt, saying once why.
    ///
    /// # Errors
    /// Gives `error` back when it is of no use to wait, or no longer.
    pub(crate) async fn after(&mut self, error: Error, terminal: &Terminal) -> Result<(), Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if !error.may_pass() || left.is_zero() {
            return Err(error);
        }
        if !self.noted {
            let seconds = left.as_millis().div_ceil(1_000);
            terminal.note(&format!("{error}; trying again for {seconds} s"));
            self.noted = true;
        }
        tokio::time::sleep(self.wait.min(left)).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }
}

/// Calls `attempt` until it succeeds, fails for good, or `window` is over. What cannot even connect the first time
/// fails at once.
///
/// # Errors
/// The last attempt's.
pub(crate) async fn while_unavailable<T>(
    window: Duration,
    terminal: &Terminal,
    mut attempt: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut patience = None;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error @ Error::Connect { .. }) if patience.is_none() => return Err(error),
            Err(error) => {
                patience
                    .get_or_insert_with(|| Patience::new(window))
                    .after(error, terminal)
                    .await?;
            }
        }
    }
}
