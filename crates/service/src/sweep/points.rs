//! From the values that parameters may take to experiments: all combinations, or some at random.

use std::collections::BTreeSet;

use super::SweepError;
use super::text::{Parsed, Scale, Values};

/// Digits of a number between the ends of a range: more would be noise in a table.
const DIGITS: usize = 6;
/// Draws for one sample before it is said that there are not so many different ones: all of 1,000 equal ones are met by
/// then, but for two in a million.
const DRAWS_PER_SAMPLE: u64 = 20;

/// Which combinations are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// All.
    Grid,
    /// So many at random. Sample `k` of a seed is the same however many are asked for.
    Random {
        /// How many.
        samples: u64,
        /// Of what.
        seed: u64,
    },
}

/// The parameters of a sweep and the values of each of its experiments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choices {
    /// Names.
    pub(crate) names: Vec<String>,
    /// Values by name, for each experiment.
    pub(crate) rows: Vec<Vec<String>>,
}

/// The experiments of a sweep; at most `limit`.
///
/// # Errors
/// A range does not fit the choice, or there are too many or too few.
pub(crate) fn choose(parsed: &Parsed, choice: Choice, limit: usize) -> Result<Choices, SweepError> {
    let rows = match choice {
        Choice::Grid => grid(parsed, limit)?,
        Choice::Random { samples, seed } => random(parsed, samples, seed, limit)?,
    };
    let names = parsed.iter().map(|(name, _)| name.clone()).collect();
    Ok(Choices { names, rows })
}

/// All combinations, the last parameter first to change.
fn grid(parsed: &Parsed, limit: usize) -> Result<Vec<Vec<String>>, SweepError> {
    let mut counts = Vec::with_capacity(parsed.len());
    for (name, values) in parsed {
        counts.push((name, count(name, values)?));
    }
    let numbers = counts.iter().map(|(_, count)| *count);
    let product = numbers.fold(1_u64, u64::saturating_mul);
    if product > limit as u64 {
        let factors = counts
            .iter()
            .map(|(name, count)| format!("{count} of {name}"));
        let factors: Vec<String> = factors.collect();
        let product = match product {
            u64::MAX => factors.join(" × "),
            number => format!("{} = {number}", factors.join(" × ")),
        };
        return Err(SweepError::TooMany { product, limit });
    }
    let mut rows: Vec<Vec<String>> = vec![Vec::new()];
    for ((_, values), (_, count)) in parsed.iter().zip(&counts) {
        let mut points: Vec<String> = (0..*count).map(|at| point(values, at, *count)).collect();
        // The ends of a range may be closer than the digits that are kept.
        points.dedup();
        let longer = rows.iter().flat_map(|row| {
            let with = |value: &String| row.iter().chain([value]).cloned().collect::<Vec<_>>();
            points.iter().map(with)
        });
        rows = longer.collect();
    }
    Ok(rows)
}

/// How many values a parameter has in a grid.
fn count(name: &str, values: &Values) -> Result<u64, SweepError> {
    match values {
        Values::List(values) => Ok(values.len() as u64),
        Values::Range {
            scale: Scale::Whole,
            from,
            to,
            points,
        } => {
            let all = whole(to - from).saturating_add(1);
            Ok(points.map_or(all, |points| all.min(points.into())))
        }
        Values::Range {
            points: Some(points),
            ..
        } => Ok(u64::from(*points)),
        Values::Range { points: None, .. } => Err(SweepError::Part {
            part: name.to_owned(),
            why: "its range does not say how many points: write :N behind it, or choose at random with --samples"
                .to_owned(),
        }),
    }
}

/// Value number `at` of `count`.
fn point(values: &Values, at: u64, count: u64) -> String {
    match values {
        Values::List(values) => {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            values.get(at).cloned().unwrap_or_default()
        }
        Values::Range { from, .. } if at == 0 => number(*from),
        Values::Range { to, .. } if at + 1 == count => number(*to),
        Values::Range {
            scale, from, to, ..
        } => between(*scale, (*from, *to), fraction(at, count - 1)),
    }
}

/// Different combinations, drawn from the seed.
fn random(
    parsed: &Parsed,
    samples: u64,
    seed: u64,
    limit: usize,
) -> Result<Vec<Vec<String>>, SweepError> {
    if samples == 0 || samples > limit as u64 {
        return Err(SweepError::Samples { samples, limit });
    }
    for (name, values) in parsed {
        if matches!(
            values,
            Values::Range {
                points: Some(_),
                ..
            }
        ) {
            return Err(SweepError::Part {
                part: name.clone(),
                why: "with --samples a range has no number of points: leave out what is behind the second colon"
                    .to_owned(),
            });
        }
    }
    let mut rows = Vec::new();
    let mut known = BTreeSet::new();
    for draw in 0..samples * DRAWS_PER_SAMPLE {
        let values = parsed
            .iter()
            .map(|(name, values)| drawn(values, name, seed, draw));
        let row: Vec<String> = values.collect();
        if known.insert(row.clone()) {
            rows.push(row);
        }
        if rows.len() as u64 == samples {
            return Ok(rows);
        }
    }
    let found = rows.len();
    Err(SweepError::Few { found, samples })
}

/// A value from seed, draw and name: the same on every machine and in every version.
fn drawn(values: &Values, name: &str, seed: u64, draw: u64) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("muster 2026 samples of a sweep");
    hasher
        .update(&seed.to_le_bytes())
        .update(&draw.to_le_bytes())
        .update(name.as_bytes());
    let mut bits = [0; 8];
    bits.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    let bits = u64::from_le_bytes(bits);
    match values {
        Values::List(values) => {
            let at = (u128::from(bits) * values.len() as u128) >> 64;
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            values.get(at).cloned().unwrap_or_default()
        }
        Values::Range {
            scale: Scale::Whole,
            from,
            to,
            ..
        } => {
            let count = u128::from(whole(to - from)) + 1;
            let step = (u128::from(bits) * count) >> 64;
            number(from + fraction(u64::try_from(step).unwrap_or(u64::MAX), 1))
        }
        Values::Range {
            scale, from, to, ..
        } => between(*scale, (*from, *to), fraction(bits >> 11, 1 << 53)),
    }
}

/// The number at a part of the way.
fn between(scale: Scale, (from, to): (f64, f64), part: f64) -> String {
    let value = match scale {
        Scale::Linear => from + part * (to - from),
        Scale::Logarithmic => (from.ln() + part * (to.ln() - from.ln())).exp(),
        Scale::Whole => return number((from + part * (to - from)).round()),
    };
    let short = format!("{value:.*e}", DIGITS - 1).parse();
    number(short.unwrap_or(value))
}

/// As people and programs read it: `0.001`, `1e-5`.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1e-4..1e15 => format!("{value}"),
        _ => format!("{value:e}"),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "both are below 2^53, where every whole number is exact"
)]
fn fraction(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the parser lets whole numbers up to 2^53 pass, from the lower to the higher"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn rows(text: &str, choice: Choice) -> Result<Vec<String>, SweepError> {
        let chosen = choose(&parse(text).unwrap(), choice, 1_000)?;
        Ok(chosen.rows.iter().map(|row| row.join(" ")).collect())
    }

    fn grid_of(text: &str) -> Vec<String> {
        rows(text, Choice::Grid).unwrap()
    }

    #[test]
    fn a_grid_has_every_combination_and_both_ends() {
        assert_eq!(
            grid_of("lr=log:1e-4..1e-1:4 bs=32,64"),
            [
                "0.0001 32",
                "0.0001 64",
                "0.001 32",
                "0.001 64",
                "0.01 32",
                "0.01 64",
                "0.1 32",
                "0.1 64"
            ]
        );
        assert_eq!(grid_of("a=lin:0..1:5"), ["0", "0.25", "0.5", "0.75", "1"]);
        assert_eq!(grid_of("a=lin:0..1:4"), ["0", "0.333333", "0.666667", "1"]);
        assert_eq!(grid_of("a=log:1e-6..1e-4:3"), ["1e-6", "1e-5", "0.0001"]);
        assert_eq!(grid_of("a=int:-1..2"), ["-1", "0", "1", "2"]);
        assert_eq!(grid_of("a=int:1..100:4"), ["1", "34", "67", "100"]);
        assert_eq!(
            grid_of("a=int:1..3:9"),
            ["1", "2", "3"],
            "no more than there are"
        );
        assert_eq!(grid_of("a=0.12345678"), ["0.12345678"], "as it is written");
    }

    #[test]
    fn a_grid_over_the_limit_says_what_makes_it_so_large() {
        let error = rows("lr=lin:0..1:8 bs=int:1..200", Choice::Grid).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("8 of lr × 200 of bs = 1600 experiments"),
            "{text}"
        );
        assert!(text.contains("at most 1000"), "{text}");
        let huge = "a=int:0..9007199254740992 b=int:0..9007199254740992";
        assert!(matches!(
            rows(huge, Choice::Grid),
            Err(SweepError::TooMany { .. })
        ));
        let open = rows("lr=lin:0..1", Choice::Grid).unwrap_err().to_string();
        assert!(
            open.contains("\"lr\"") && open.contains("how many points"),
            "{open}"
        );
    }

    #[test]
    fn samples_are_of_the_seed_alone_and_different() {
        let text = "lr=log:1e-4..1e-1 bs=32,64,128 n=int:1..6";
        let of = |samples, seed| rows(text, Choice::Random { samples, seed }).unwrap();
        let many = of(200, 7);
        assert_eq!(of(20, 7), many[..20], "fewer are the first of more");
        assert_ne!(of(20, 8), many[..20]);
        let distinct: BTreeSet<&String> = many.iter().collect();
        assert_eq!(distinct.len(), 200);
        let (mut low, mut sizes, mut numbers) = (0, BTreeSet::new(), BTreeSet::new());
        for row in &many {
            let words: Vec<&str> = row.split(' ').collect();
            let lr: f64 = words[0].parse().unwrap();
            assert!((1e-4..=1e-1).contains(&lr), "{row}");
            low += u32::from(lr < 1e-3);
            sizes.insert(words[1].to_owned());
            numbers.insert(words[2].parse::<u32>().unwrap());
        }
        assert!((40..100).contains(&low), "a third of a log range: {low}");
        assert_eq!(sizes.len(), 3);
        assert_eq!(numbers, (1..=6).collect());
        // These are what other machines and later versions must draw.
        assert_eq!(of(2, 1), PINNED);
    }

    const PINNED: [&str; 2] = ["0.0874583 32 1", "0.0161175 128 4"];

    #[test]
    fn samples_that_cannot_be_had_are_refused() {
        let error = |text: &str, samples| {
            let choice = Choice::Random { samples, seed: 1 };
            rows(text, choice).unwrap_err().to_string()
        };
        assert!(error("a=1,2", 0).contains("1 to 1000"));
        assert!(error("a=1,2", 1_001).contains("1 to 1000"));
        assert!(error("a=1,2 b=1,2", 5).contains("only 4 different combinations"));
        assert!(error("a=lin:0..1:3", 2).contains("no number of points"));
    }
}
