//! A bar for what takes more than a second.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is sooner done needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bar of bytes on standard error, shown from the second second on, and only on a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    started: Instant,
    is_shown: bool,
    total: AtomicU64,
    done: AtomicU64,
    bar: OnceLock<ProgressBar>,
}

impl Progress {
    pub(super) fn new(what: &'static str, is_shown: bool) -> Self {
        Self {
            what,
            started: Instant::now(),
            is_shown,
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            bar: OnceLock::new(),
        }
    }

    /// A bar that nobody sees.
    #[cfg(test)]
    pub(crate) fn hidden() -> Self {
        Self::new("testing", false)
    }

    /// How many bytes there will be in all.
    pub(crate) fn expect(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// So many more bytes are done.
    pub(crate) fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.is_shown && self.started.elapsed() > PATIENCE {
            self.bar.get_or_init(|| self.bar()).set_position(done);
        }
    }

    fn bar(&self) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{msg} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left",
        )
        .expect("the template is well formed");
        let total = self.total.load(Ordering::Relaxed);
        ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
            .with_style(style)
            .with_message(self.what)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}
