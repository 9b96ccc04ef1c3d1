//! How text may look: width, colours, and what time it is.

/// How text may look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Colours and bold are understood and wanted.
    pub(crate) color: bool,
    /// Columns of the terminal; none: do not wrap.
    pub(crate) width: Option<u16>,
    /// Now, for times such as `3 min ago`.
    pub(crate) now_ms: u64,
}

/// What a word says about its thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should be.
    Good,
    /// Under way or to be looked at.
    Busy,
    /// Wrong.
    Bad,
    /// Of no more concern.
    Quiet,
    /// Nothing special.
    Plain,
}

impl Mood {
    /// The mood of a state of experiments, nodes or verdicts.
    pub(crate) fn of(word: &str) -> Self {
        match word {
            "running" | "live" | "fits" => Self::Good,
            "placed" | "stopping" | "suspect" | "short" | "unknown" => Self::Busy,
            "failed" | "impossible" => Self::Bad,
            "finished" | "stopped" => Self::Quiet,
            _ => Self::Plain,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Busy => "33",
            Self::Bad => "31",
            Self::Quiet => "2",
            Self::Plain => "0",
        }
    }
}

impl Look {
    /// Plain text at a given moment, as the tests want it.
    #[cfg(test)]
    pub(crate) const fn plain_at(now_ms: u64) -> Self {
        Self {
            color: false,
            width: None,
            now_ms,
        }
    }

    /// A word in the colour of its mood.
    pub(crate) fn paint(&self, mood: Mood, text: &str) -> String {
        match (self.color, mood) {
            (false, _) | (true, Mood::Plain) => text.to_owned(),
            (true, _) => format!("\u{1b}[{}m{text}\u{1b}[0m", mood.code()),
        }
    }

    /// A headline.
    pub(crate) fn bold(&self, text: &str) -> String {
        match self.color {
            true => format!("\u{1b}[1m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
}
