//! One build, and everybody who waits for it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::ConsoleStream;

use super::shelf::Built;

/// Lines of a build that are kept for those who wait; a resolver that says more says it in vain.
const MAX_LINES: usize = 10_000;
/// Longest line.
const MAX_LINE_BYTES: usize = 4 << 10;
/// Last lines in the evidence of a failure.
const EVIDENCE_LINES: usize = 12;

/// A line about a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) stream: ConsoleStream,
    pub(crate) text: String,
}

impl Line {
    pub(crate) fn muster(text: String) -> Self {
        Self {
            stream: ConsoleStream::Muster,
            text,
        }
    }
}

/// How a build ended without an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The packages cannot be put together: the lines that say why.
    Build(Vec<String>),
    /// This machine could not do its part.
    Machine { full: bool, line: String },
    /// Nobody waited any more.
    Cancelled,
}

impl Failure {
    pub(super) fn machine(step: &str, error: &std::io::Error) -> Self {
        let full = matches!(
            error.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        );
        Self::Machine {
            full,
            line: format!("{step}: {error}"),
        }
    }
}

/// What those who wait see.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) lines: Vec<Line>,
    pub(super) outcome: Option<Result<Arc<Built>, Failure>>,
}

/// A build under way.
#[derive(Debug)]
pub(super) struct Flight {
    /// Tells it from an earlier one of the same environment.
    pub(super) number: u64,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) cancel: CancellationToken,
    /// Changed under the lock of all flights only.
    pub(super) waiting: usize,
}

impl Flight {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            progress: watch::Sender::new(Progress::default()),
            cancel: CancellationToken::new(),
            waiting: 0,
        }
    }
}

/// Where a build leaves its lines.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    progress: watch::Sender<Progress>,
}

impl Journal {
    pub(super) fn new(progress: watch::Sender<Progress>) -> Self {
        Self { progress }
    }

    /// Adds a line, cut to the limit; beyond the limit of their number only the last ones count, for the evidence.
    pub(super) fn add(&self, mut line: Line) {
        if line.text.len() > MAX_LINE_BYTES {
            line.text
                .truncate(line.text.floor_char_boundary(MAX_LINE_BYTES));
        }
        self.progress.send_modify(|progress| {
            if progress.lines.len() == MAX_LINES {
                progress.lines.push(Line::muster(
                    "environment: the build says more than is kept".to_owned(),
                ));
            } else if progress.lines.len() < MAX_LINES {
                progress.lines.push(line);
            }
        });
    }

    pub(super) fn say(&self, text: String) {
        self.add(Line::muster(text));
    }
}

/// The lines that say why a build failed: its own last ones.
pub(super) fn evidence(last: &std::collections::VecDeque<String>) -> Vec<String> {
    let told = last.iter().filter(|line| !line.trim().is_empty());
    let mut lines: Vec<String> = told.rev().take(EVIDENCE_LINES).cloned().collect();
    lines.reverse();
    lines
}

/// Keeps the last lines for [`evidence`].
pub(super) fn keep_last(last: &mut std::collections::VecDeque<String>, line: &str) {
    if line.trim().is_empty() {
        return;
    }
    if last.len() == EVIDENCE_LINES {
        last.pop_front();
    }
    let end = line.floor_char_boundary(MAX_LINE_BYTES);
    last.push_back(line[..end].to_owned());
}
