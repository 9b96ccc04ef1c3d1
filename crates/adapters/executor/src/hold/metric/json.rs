//! Metrics in a line of JSON. Python writes NaN and infinities as bare words, which JSON does not have; a loss that is none
//! any more is what people look for, so they are read too.

use serde_json::{Map, Value};
use types::{MetricPoint, RecordBody};

/// Objects within objects that are looked into; their names are joined by `/`.
const MAX_DEPTH: usize = 4;
/// The key that makes an object a line of metrics.
const STEP: &str = "step";
/// Bare words of Python, and the numbers that stand for them until they are read. A string cannot be one of them: it is no
/// number.
const BARE_WORDS: [(&str, f64); 3] = [
    ("-Infinity", f64::NEG_INFINITY),
    ("Infinity", f64::INFINITY),
    ("NaN", f64::NAN),
];
/// Marks a bare word where it was put into quotes.
const MARK: char = '\u{1}';

/// The scalars of a line; none unless it is an object with a whole `step`.
pub(super) fn parse(line: &str) -> Vec<RecordBody> {
    let Some(object) = read(line) else {
        return Vec::new();
    };
    let Some(step) = object.get(STEP).and_then(whole) else {
        return Vec::new();
    };
    let mut points = Vec::new();
    collect(&object, "", 0, &mut points);
    let scalar = |(name, value): (String, f64)| RecordBody::Scalar {
        name,
        step,
        value_bits: value.to_bits(),
    };
    points.into_iter().map(scalar).collect()
}

fn read(line: &str) -> Option<Map<String, Value>> {
    let object = |text: &str| match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Some(object),
        Ok(_) | Err(_) => None, // No line of metrics, whatever it is.
    };
    object(line).or_else(|| object(&with_quotes(line)?))
}

/// The line with bare words in quotes, if it has any outside of strings.
fn with_quotes(line: &str) -> Option<String> {
    let (mut quoted, mut rest) = (String::with_capacity(line.len() + 16), line);
    let (mut is_string, mut is_escaped, mut found) = (false, false, false);
    while let Some(letter) = rest.chars().next() {
        let word = BARE_WORDS.iter().find(|(word, _)| rest.starts_with(word));
        if let Some((word, _)) = word.filter(|_| !is_string) {
            quoted.push_str(&format!("\"\\u0001{word}\""));
            rest = &rest[word.len()..];
            found = true;
            continue;
        }
        match letter {
            '"' if !is_escaped => is_string = !is_string,
            _ => {}
        }
        is_escaped = letter == '\\' && !is_escaped;
        quoted.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    found.then_some(quoted)
}

fn whole(value: &Value) -> Option<i64> {
    let exact = value.as_f64().filter(|number| number.fract() == 0.0);
    // 2^53: beyond, a float cannot tell one step from the next.
    let exact = exact.filter(|number| number.abs() <= 9_007_199_254_740_992.0);
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within 2^53")]
    let exact = exact.map(|number| number as i64);
    value.as_i64().or(exact)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => {
            let word = text.strip_prefix(MARK)?;
            let known = BARE_WORDS.iter().find(|(known, _)| *known == word);
            known.map(|(_, number)| *number)
        }
        _ => None,
    }
}

fn collect(
    object: &Map<String, Value>,
    above: &str,
    depth: usize,
    points: &mut Vec<(String, f64)>,
) {
    for (key, value) in object {
        let name = match above {
            "" if key == STEP => continue,
            "" => key.clone(),
            above => format!("{above}/{key}"),
        };
        if let Value::Object(inner) = value
            && depth + 1 < MAX_DEPTH
        {
            collect(inner, &name, depth + 1, points);
        } else if let Some(number) = number(value)
            && MetricPoint::is_name(&name)
        {
            points.push((name, number));
        }
    }
}
