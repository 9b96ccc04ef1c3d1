//! Sweeps: `lr=log:1e-4..1e-1:8 bs=32,64` becomes experiments.

mod points;
mod text;

pub(crate) use points::{Choice, choose};
pub(crate) use text::parse;

/// Reads a text as a sweep and makes its experiments, of which there are never more than a group may have.
#[cfg(fuzzing)]
pub(crate) fn fuzz(text: &str) {
    let Ok(parsed) = parse(text) else {
        return;
    };
    for choice in [
        Choice::Grid,
        Choice::Random {
            samples: 10,
            seed: 1,
        },
    ] {
        if let Ok(chosen) = choose(&parsed, choice, 1_000) {
            assert!((1..=1_000).contains(&chosen.rows.len()));
            let whole = |row: &Vec<String>| row.len() == chosen.names.len();
            assert!(chosen.rows.iter().all(whole));
        }
    }
}

/// A sweep that cannot be: which part of its text, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SweepError {
    /// Nothing in it.
    #[error(
        "the sweep names no parameter: write NAME=VALUES, such as lr=0.1,0.01 or lr=log:1e-4..1e-1:8"
    )]
    Empty,
    /// Longer than is kept.
    #[error(
        "a sweep has at most {limit} bytes: put long values into a file of the source tree, and its name into the sweep"
    )]
    TooLong {
        /// Limit.
        limit: usize,
    },
    /// A part of the text.
    #[error("in the sweep, {part:?}: {why}")]
    Part {
        /// As it was written.
        part: String,
        /// What is wrong and what was expected.
        why: String,
    },
    /// More experiments than a group may have.
    #[error(
        "the sweep makes {product} experiments, a group has at most {limit}: give fewer values, or let --samples N choose N of them at random"
    )]
    TooMany {
        /// Such as `8 of lr × 200 of bs = 1600`.
        product: String,
        /// Limit.
        limit: usize,
    },
    /// A number of samples that cannot be.
    #[error("{samples} samples cannot be had: a group has 1 to {limit} experiments")]
    Samples {
        /// What was asked for.
        samples: u64,
        /// Limit.
        limit: usize,
    },
    /// The values do not give so many.
    #[error(
        "the sweep has only {found} different combinations, not {samples}: ask for at most {found} samples, or leave --samples out to have them all"
    )]
    Few {
        /// How many were found.
        found: usize,
        /// What was asked for.
        samples: u64,
    },
}
