//! Parameters: what they may be called, and where their values go.
//!
//! In a word of the command and in the value of a variable, `{lr}` stands for the parameter `lr`. Only declared names
//! are places: `{print}` of an awk program and `{"a": 1}` stay what they are. `${lr}` is left to the shell, and `{{lr}}`
//! is the text `{lr}`. Each text is read once: a value is never looked into.

use std::collections::BTreeMap;

/// Start of the variable that carries a parameter: `lr` is `MUSTER_PARAM_LR`.
const VARIABLE_PREFIX: &str = "MUSTER_PARAM_";
/// Longest name of a parameter; the longest of large configurations are about half of it.
const MAX_NAME_BYTES: usize = 128;

/// Parameters that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// Not a name.
    #[error(
        "{name:?} cannot be a parameter: names begin with a letter or _, go on with letters, digits, `_`, `.` and `-`, and have at most 128"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// Said twice.
    #[error("parameter {name} is given twice: give it one value, or several of them to --sweep")]
    Twice {
        /// Which.
        name: String,
    },
    /// Two that the command could not tell apart in its environment.
    #[error(
        "parameters {first} and {second} would both be the variable {variable}: rename one of them"
    )]
    SameVariable {
        /// One.
        first: String,
        /// The other.
        second: String,
        /// What both would be.
        variable: String,
    },
    /// No command line and no environment can carry it.
    #[error("the value of parameter {name} holds a NUL byte, which no command can be given")]
    Nul {
        /// Which.
        name: String,
    },
}

/// Checks names and values.
///
/// # Errors
/// The first that cannot be.
pub fn check_parameters(parameters: &[(String, String)]) -> Result<(), ParameterError> {
    let mut variables: BTreeMap<String, &str> = BTreeMap::new();
    for (name, value) in parameters {
        if !is_name(name) {
            return Err(ParameterError::Name { name: name.clone() });
        }
        if value.contains('\0') {
            return Err(ParameterError::Nul { name: name.clone() });
        }
        let variable = parameter_variable(name);
        match variables.insert(variable.clone(), name) {
            None => {}
            Some(other) if other == name => {
                return Err(ParameterError::Twice { name: name.clone() });
            }
            Some(other) => {
                let (first, second) = (other.to_owned(), name.clone());
                return Err(ParameterError::SameVariable {
                    first,
                    second,
                    variable,
                });
            }
        }
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && !text.is_empty() && name_at(text) == Some(text)
}

/// The name that `text` begins with.
fn name_at(text: &str) -> Option<&str> {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let goes_on = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let end = text.find(|c| !goes_on(c)).unwrap_or(text.len());
    begins.then(|| &text[..end])
}

/// The environment variable that carries a parameter: its name in capitals, `_` for what no variable has.
#[must_use]
pub fn parameter_variable(name: &str) -> String {
    let letter = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    let letters = name.chars().map(letter);
    VARIABLE_PREFIX.chars().chain(letters).collect()
}

/// A text in pieces.
enum Piece<'a> {
    /// As it is.
    Text(&'a str),
    /// `{name}`.
    Place(&'a str),
    /// `{{name}}`, which stands for `{name}`.
    Escaped(&'a str),
}

/// Cuts a text at what looks like places, whether there are such parameters or not.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(found) = text[at..].find('{') {
        let open = at + found;
        let inside = |open: usize, braces: &str| {
            let name = name_at(&text[open..])?;
            let rest = &text[open + name.len()..];
            rest.starts_with(braces).then_some(name)
        };
        let escaped = text[open..]
            .starts_with("{{")
            .then(|| inside(open + 2, "}}"))
            .flatten();
        let is_shells = text[..open].ends_with('$');
        let place = inside(open + 1, "}").filter(|_| !is_shells);
        let (piece, length) = match (escaped, place) {
            (Some(name), _) => (Piece::Escaped(name), name.len() + 4),
            (None, Some(name)) => (Piece::Place(name), name.len() + 2),
            (None, None) => {
                at = open + 1;
                continue;
            }
        };
        pieces.push(Piece::Text(&text[from..open]));
        pieces.push(piece);
        (from, at) = (open + length, open + length);
    }
    pieces.push(Piece::Text(&text[from..]));
    pieces
}

fn value_of<'a>(wanted: &str, parameters: &'a [(String, String)]) -> Option<&'a str> {
    let found = parameters.iter().find(|(name, _)| name == wanted);
    found.map(|(_, value)| value.as_str())
}

/// Bytes of what [`fill_parameters`] makes, at most, without making it.
#[must_use]
pub fn filled_length(text: &str, parameters: &[(String, String)]) -> u64 {
    let length = |piece| match piece {
        Piece::Text(text) => text.len(),
        Piece::Place(name) => value_of(name, parameters).map_or(name.len() + 2, str::len),
        Piece::Escaped(name) => name.len() + 4,
    };
    pieces(text)
        .into_iter()
        .map(length)
        .fold(0, |sum, length| sum + length as u64)
}

/// `text` with the values of parameters in their places.
#[must_use]
pub fn fill_parameters(text: &str, parameters: &[(String, String)]) -> String {
    let value = |wanted: &str| value_of(wanted, parameters);
    let mut filled = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => filled.push_str(text),
            Piece::Place(name) => match value(name) {
                Some(value) => filled.push_str(value),
                None => filled.extend(["{", name, "}"]),
            },
            Piece::Escaped(name) => match value(name) {
                Some(_) => filled.extend(["{", name, "}"]),
                None => filled.extend(["{{", name, "}}"]),
            },
        }
    }
    filled
}

/// What looks like a place of a parameter in `text`.
#[must_use]
pub fn parameter_places(text: &str) -> Vec<&str> {
    let place = |piece| match piece {
        Piece::Place(name) => Some(name),
        Piece::Text(_) | Piece::Escaped(_) => None,
    };
    pieces(text).into_iter().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn only_declared_names_in_braces_are_places() {
        let parameters = pairs(&[("lr", "0.05"), ("model.depth", "3"), ("a", "{lr}")]);
        for (text, filled) in [
            ("{lr}", "0.05"),
            ("--lr={lr},{model.depth}", "--lr=0.05,3"),
            ("{a}", "{lr}"),
            ("{{lr}}", "{lr}"),
            ("{{{lr}}}", "{{lr}}"),
            ("${lr}", "${lr}"),
            ("{lr", "{lr"),
            ("{ lr }", "{ lr }"),
            ("{LR}", "{LR}"),
            ("awk '{print $1}'", "awk '{print $1}'"),
            (r#"{"lr": {lr}}"#, r#"{"lr": 0.05}"#),
            ("{{other}}", "{{other}}"),
            ("ä{lr}ß", "ä0.05ß"),
            ("", ""),
        ] {
            assert_eq!(fill_parameters(text, &parameters), filled, "{text}");
            assert!(
                filled_length(text, &parameters) >= filled.len() as u64,
                "{text}"
            );
        }
        assert_eq!(parameter_places("{lr} {x} ${y} {{z}} {1}"), ["lr", "x"]);
    }

    #[test]
    fn names_that_cannot_be_told_apart_are_refused() {
        assert_eq!(
            check_parameters(&pairs(&[("lr", ""), ("a.b-c", "x")])),
            Ok(())
        );
        for bad in ["", "1x", "a b", "a=b", "{x}", "é", &"x".repeat(129)] {
            let error = check_parameters(&pairs(&[(bad, "1")])).unwrap_err();
            assert!(error.to_string().contains("names begin with"), "{error}");
        }
        let error = |parameters: &[(&str, &str)]| {
            check_parameters(&pairs(parameters))
                .unwrap_err()
                .to_string()
        };
        assert!(error(&[("lr", "1"), ("lr", "2")]).contains("lr is given twice"));
        assert_eq!(
            error(&[("lr", "1"), ("LR", "2")]),
            "parameters lr and LR would both be the variable MUSTER_PARAM_LR: rename one of them"
        );
        assert!(error(&[("lr", "\0")]).contains("NUL"));
    }
}
