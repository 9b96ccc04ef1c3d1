//! Where output goes and how it may look.

mod progress;

use std::io::{IsTerminal as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::globals::Globals;
use crate::output::Look;
use crate::surroundings::Surroundings;

pub(crate) use progress::Progress;

/// Standard output and standard error of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// Print JSON.
    pub(crate) json: bool,
    /// Standard output.
    pub(crate) out: Stream,
    /// Standard error.
    pub(crate) err: Stream,
}

/// One of the two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// A person reads it.
    pub(crate) is_terminal: bool,
    color: bool,
}

impl Terminal {
    /// Looks at the process's own.
    pub(crate) fn new(globals: &Globals, surroundings: &Surroundings) -> Self {
        let colors_allowed = !globals.no_color && !surroundings.no_color;
        let stream = |is_terminal| Stream {
            is_terminal,
            color: colors_allowed && is_terminal,
        };
        Self {
            json: globals.json,
            out: stream(std::io::stdout().is_terminal()),
            err: stream(std::io::stderr().is_terminal()),
        }
    }

    /// A terminal that nobody sees.
    pub(crate) const fn unseen() -> Self {
        let file = Stream {
            is_terminal: false,
            color: false,
        };
        Self {
            json: false,
            out: file,
            err: file,
        }
    }

    /// How text on standard output may look.
    pub(crate) fn look(&self) -> Look {
        let width = self
            .out
            .is_terminal
            .then(|| rustix::termios::tcgetwinsize(std::io::stdout()).ok()) // no size, no wrapping
            .flatten()
            .map(|size| size.ws_col)
            .filter(|&columns| columns > 0);
        Look {
            color: self.out.color,
            width,
            now_ms: now_ms(),
        }
    }

    /// A progress bar for what takes more than a second.
    pub(crate) fn progress(&self, what: &'static str) -> Progress {
        Progress::new(what, self.err.is_terminal)
    }

    /// Prints to standard output.
    ///
    /// # Errors
    /// It is closed or full.
    #[expect(
        clippy::unused_self,
        reason = "the process's output is reached through its Terminal"
    )]
    pub(crate) fn print(&self, text: &str) -> Result<(), Error> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| {
                if text.ends_with('\n') {
                    Ok(())
                } else {
                    out.write_all(b"\n")
                }
            })
            .and_then(|()| out.flush())
            .map_err(Error::Output)
    }

    /// Prints a line for people to standard error.
    pub(crate) fn note(&self, text: &str) {
        self.err_line("muster: ", "2", text);
    }

    /// Prints something the user should know.
    pub(crate) fn warn(&self, text: &str) {
        self.err_line("warning: ", "33", text);
    }

    /// Prints an error with its causes and what to do.
    pub(crate) fn error(&self, error: &Error) {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.err_line("error: ", "31", &text);
        let hint = error.hint();
        if !hint.is_empty() {
            self.err_line("hint: ", "36", &hint);
        }
    }

    fn err_line(&self, prefix: &str, color: &str, text: &str) {
        let line = if self.err.color {
            format!("\u{1b}[{color}m{prefix}\u{1b}[0m{text}\n")
        } else {
            format!("{prefix}{text}\n")
        };
        // When standard error is gone there is nobody left to tell.
        drop(std::io::stderr().lock().write_all(line.as_bytes()));
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
