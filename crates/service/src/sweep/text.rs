//! The text of a sweep: parts `NAME=VALUES` with spaces between them. Values are a list with commas, or a range
//! `lin:A..B:N`, `log:A..B:N` or `int:A..B` of numbers.

use super::SweepError;

/// The values that a parameter may take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    /// These.
    List(Vec<String>),
    /// Numbers from one to another, both among them.
    Range {
        /// How they lie between.
        scale: Scale,
        /// First.
        from: f64,
        /// Last.
        to: f64,
        /// How many; none: all whole numbers, or as many as samples are asked for.
        points: Option<u32>,
    },
}

/// How the numbers of a range lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Equal differences.
    Linear,
    /// Equal ratios.
    Logarithmic,
    /// Whole numbers.
    Whole,
}

impl Scale {
    fn of(word: &str) -> Option<Self> {
        match word {
            "lin" => Some(Self::Linear),
            "log" => Some(Self::Logarithmic),
            "int" => Some(Self::Whole),
            _ => None,
        }
    }
}

/// Longest text of a sweep, as the state keeps it.
const MAX_BYTES: usize = 4 << 10;
/// Most parameters of one: a table of more is not read, and each sample draws them all.
const MAX_PARAMETERS: usize = 32;
/// Largest whole number of a range: above it numbers of 64 bits floating point have gaps.
const LARGEST_WHOLE: f64 = 9_007_199_254_740_992.0;

/// Parameters with their values, in the order of the text.
pub(crate) type Parsed = Vec<(String, Values)>;

/// Reads the text of a sweep. Names are checked with those of the other parameters later.
///
/// # Errors
/// The first part that is wrong.
pub(crate) fn parse(text: &str) -> Result<Parsed, SweepError> {
    if text.len() > MAX_BYTES {
        return Err(SweepError::TooLong { limit: MAX_BYTES });
    }
    let mut parsed = Parsed::new();
    for part in text.split_whitespace() {
        let error = |why: String| SweepError::Part {
            part: part.to_owned(),
            why,
        };
        let Some((name, values)) = part.split_once('=') else {
            let why = "it has no `=`: write NAME=VALUES, with no space inside";
            return Err(error(why.to_owned()));
        };
        if name.is_empty() {
            return Err(error("no name before the `=`".to_owned()));
        }
        if parsed.iter().any(|(known, _)| known == name) {
            return Err(error(format!("{name} is given a second time")));
        }
        if parsed.len() == MAX_PARAMETERS {
            return Err(error(format!(
                "a sweep has at most {MAX_PARAMETERS} parameters"
            )));
        }
        parsed.push((name.to_owned(), values_of(values).map_err(error)?));
    }
    match parsed.is_empty() {
        true => Err(SweepError::Empty),
        false => Ok(parsed),
    }
}

fn values_of(text: &str) -> Result<Values, String> {
    let range = text
        .split_once(':')
        .and_then(|(word, rest)| Some((Scale::of(word)?, word, rest)));
    if let Some((scale, word, rest)) = range {
        return range_of(scale, word, rest);
    }
    let values: Vec<String> = text.split(',').map(str::to_owned).collect();
    if values.iter().any(String::is_empty) {
        return Err(
            "a value is empty: write values with single commas between, as in 32,64".to_owned(),
        );
    }
    for (at, value) in values.iter().enumerate() {
        if values[..at].contains(value) {
            return Err(format!("the value {value} is given twice"));
        }
    }
    Ok(Values::List(values))
}

fn range_of(scale: Scale, word: &str, rest: &str) -> Result<Values, String> {
    let (ends, points) = match rest.split_once(':') {
        None => (rest, None),
        Some((ends, points)) => (ends, Some(points)),
    };
    let Some((from, to)) = ends.split_once("..") else {
        return Err(format!("no `..` in {ends:?}: write {word}:FROM..TO:POINTS"));
    };
    let number = |text: &str| {
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
        number.ok_or_else(|| format!("{text:?} is no number"))
    };
    let (from, to) = (number(from)?, number(to)?);
    if from >= to {
        return Err(format!("a range goes up: {from} is not below {to}"));
    }
    if !(to - from).is_finite() {
        return Err(format!("the range from {from:e} to {to:e} is too wide"));
    }
    if scale == Scale::Logarithmic && from <= 0.0 {
        return Err(format!(
            "a log range lies above 0, and {from} does not: use lin for it"
        ));
    }
    let is_whole = |number: f64| number.fract() == 0.0 && number.abs() <= LARGEST_WHOLE;
    if scale == Scale::Whole && !(is_whole(from) && is_whole(to)) {
        return Err("an int range goes from one whole number to another".to_owned());
    }
    let points = points.map(|text| {
        let points = text.parse::<u32>().ok().filter(|points| *points >= 2);
        points.ok_or_else(|| format!("{text:?} is no number of points: a whole number from 2 on"))
    });
    Ok(Values::Range {
        scale,
        from,
        to,
        points: points.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_read() {
        let parsed =
            parse("  lr=log:1e-4..1e-1:8 bs=32,64  seed=int:0..9\tmodel=s3://a:b ").unwrap();
        let range = |scale, from, to, points| Values::Range {
            scale,
            from,
            to,
            points,
        };
        let list = |values: &[&str]| Values::List(values.iter().map(|v| (*v).to_owned()).collect());
        assert_eq!(
            parsed,
            [
                (
                    "lr".to_owned(),
                    range(Scale::Logarithmic, 1e-4, 1e-1, Some(8))
                ),
                ("bs".to_owned(), list(&["32", "64"])),
                ("seed".to_owned(), range(Scale::Whole, 0.0, 9.0, None)),
                ("model".to_owned(), list(&["s3://a:b"])),
            ]
        );
    }

    #[test]
    fn each_error_names_its_part_and_what_was_expected() {
        for (text, part, why) in [
            ("lr", "lr", "it has no `=`"),
            ("bs=1 =3", "=3", "no name before"),
            ("lr=1 lr=2", "lr=2", "a second time"),
            ("bs=32,,64", "bs=32,,64", "a value is empty"),
            ("bs=", "bs=", "a value is empty"),
            ("bs=32,64,32", "bs=32,64,32", "the value 32 is given twice"),
            ("lr=log:1..2..:3", "lr=log:1..2..:3", "\"2..\" is no number"),
            (
                "lr=lin:0-1:3",
                "lr=lin:0-1:3",
                "no `..` in \"0-1\": write lin:FROM..TO:POINTS",
            ),
            ("lr=lin:a..1:3", "lr=lin:a..1:3", "\"a\" is no number"),
            ("lr=lin:0..inf:3", "lr=lin:0..inf:3", "\"inf\" is no number"),
            ("lr=lin:1..0:3", "lr=lin:1..0:3", "1 is not below 0"),
            ("a=lin:-1e308..1e308:3", "a=lin:-1e308..1e308:3", "too wide"),
            ("lr=log:0..1:3", "lr=log:0..1:3", "lies above 0"),
            ("n=int:0.5..3", "n=int:0.5..3", "whole number to another"),
            (
                "lr=lin:0..1:1",
                "lr=lin:0..1:1",
                "\"1\" is no number of points",
            ),
            (
                "lr=lin:0..1:many",
                "lr=lin:0..1:many",
                "\"many\" is no number of points",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{part:?}")), "{error}");
            assert!(error.contains(why), "{error}");
        }
        for text in ["", "  \t"] {
            assert_eq!(parse(text), Err(SweepError::Empty));
        }
        let long = parse(&"a=1 ".repeat(2_000)).unwrap_err().to_string();
        assert!(long.contains("at most 4096 bytes"), "{long}");
        let many: Vec<String> = (0..33).map(|n| format!("p{n}=1")).collect();
        let many = parse(&many.join(" ")).unwrap_err().to_string();
        assert!(many.contains("at most 32 parameters"), "{many}");
    }
}
