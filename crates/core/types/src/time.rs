//! Time as data: the core never reads a clock, it is told the time.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC, as the leader resolved it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

/// A span of time in milliseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct DurationMs(pub u64);

impl Timestamp {
    /// Time from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> DurationMs {
        DurationMs(self.0.saturating_sub(earlier.0))
    }
}

impl Add<DurationMs> for Timestamp {
    type Output = Self;
    fn add(self, rhs: DurationMs) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}

impl Sub<DurationMs> for Timestamp {
    type Output = Self;
    fn sub(self, rhs: DurationMs) -> Self {
        Self(self.0.saturating_sub(rhs.0))
    }
}

impl DurationMs {
    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000))
    }
}

impl From<DurationMs> for std::time::Duration {
    fn from(value: DurationMs) -> Self {
        Self::from_millis(value.0)
    }
}

impl fmt::Display for DurationMs {
    /// People's form: `850 ms`, `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 2 h`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1_000;
        match seconds {
            0 => write!(f, "{} ms", self.0),
            1..60 => write!(f, "{seconds} s"),
            60..3_600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            3_600..86_400 => write!(f, "{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
            _ => write!(f, "{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
        }
    }
}

/// The text is no duration such as `500ms`, `30s`, `10m`, `2h` or `7d`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{text:?} is not a duration: write a whole number and a unit, such as 500ms, 30s, 10m, 2h or 7d"
)]
pub struct ParseDurationError {
    /// What was given.
    pub text: String,
}

/// Parses `500ms`, `30s`, `10m`, `2h`, `7d`.
///
/// # Errors
/// The text has no number, no unit, or does not fit.
pub fn parse_duration(text: &str) -> Result<DurationMs, ParseDurationError> {
    let error = || ParseDurationError {
        text: text.to_owned(),
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let number: u64 = text[..digits].parse().map_err(|_not_a_number| error())?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(error()),
    };
    number.checked_mul(unit).map(DurationMs).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_and_print() {
        assert_eq!(parse_duration("2h"), Ok(DurationMs(7_200_000)));
        assert_eq!(parse_duration("500ms"), Ok(DurationMs(500)));
        for bad in ["", "h", "2", "-2h", "2 hours", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(DurationMs(200_000).to_string(), "3 min 20 s");
    }
}
