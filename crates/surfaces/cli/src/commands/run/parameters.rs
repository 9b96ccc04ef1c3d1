//! Parameters of the command line, and of files.

use std::path::Path;

use serde_json::Value;

use crate::error::Error;

/// Longest file of parameters: all of them travel in the submission, which has at most as much.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Those of the file, then those of the command line, which win.
pub(in crate::commands) fn parameters(
    file: Option<&Path>,
    given: &[(String, String)],
) -> Result<Vec<(String, String)>, Error> {
    let mut all = match file {
        Some(file) => read(file)?,
        None => Vec::new(),
    };
    all.retain(|(name, _)| given.iter().all(|(known, _)| known != name));
    all.extend_from_slice(given);
    Ok(all)
}

fn read(file: &Path) -> Result<Vec<(String, String)>, Error> {
    let error = |source| Error::Source {
        step: "read the parameters in",
        path: file.to_owned(),
        source,
    };
    let bad = |why: String| Error::Parameters {
        path: file.to_owned(),
        why,
    };
    let length = std::fs::metadata(file).map_err(error)?.len();
    if length > MAX_FILE_BYTES {
        return Err(bad(format!(
            "it has {length} bytes, parameters have at most {MAX_FILE_BYTES}: name a file of the code in a parameter instead"
        )));
    }
    let text = std::fs::read_to_string(file).map_err(error)?;
    let value = match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?,
        Some("toml") => {
            let value: toml::Value =
                toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
            json_of(value)
        }
        _ => {
            let why = "parameters are read from .json and .toml files: write it as one of these";
            return Err(bad(why.to_owned()));
        }
    };
    let Value::Object(_) = &value else {
        return Err(bad("it is no table of names and values".to_owned()));
    };
    let mut flat = Vec::new();
    flatten(String::new(), value, &mut flat).map_err(bad)?;
    Ok(flat)
}

/// Dates become text; the rest is the same.
fn json_of(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => {
            // JSON has no `nan` and `inf`, which programs read from text all the same.
            serde_json::Number::from_f64(number)
                .map_or_else(|| Value::String(number.to_string()), Value::Number)
        }
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(values) => values.into_iter().map(json_of).collect(),
        toml::Value::Table(table) => table
            .into_iter()
            .map(|(name, value)| (name, json_of(value)))
            .collect(),
    }
}

/// Tables in tables become names with dots; a list is one value, as JSON.
fn flatten(name: String, value: Value, into: &mut Vec<(String, String)>) -> Result<(), String> {
    let text = match value {
        Value::Object(table) => {
            for (key, value) in table {
                let whole = match name.is_empty() {
                    true => key,
                    false => format!("{name}.{key}"),
                };
                flatten(whole, value, into)?;
            }
            return Ok(());
        }
        Value::Null => {
            return Err(format!("{name} is null: give it a value, or leave it out"));
        }
        Value::String(text) => text,
        value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_)) => value.to_string(),
    };
    into.push((name, text));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn files_of_both_kinds_give_the_same_and_the_command_line_wins() {
        let json = r#"{"lr": 0.001, "model": {"name": "a b", "sizes": [1, 2]}, "amp": true}"#;
        let toml = "lr = 0.001\namp = true\n[model]\nname = \"a b\"\nsizes = [1, 2]\n";
        let expected = [
            pair("amp", "true"),
            pair("model.name", "a b"),
            pair("model.sizes", "[1,2]"),
            pair("lr", "0.1"),
        ];
        for (name, text) in [("p.json", json), ("p.toml", toml)] {
            let (_directory, path) = file(name, text);
            let found = parameters(Some(&path), &[pair("lr", "0.1")]).unwrap();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn a_file_that_is_none_says_why() {
        for (name, text, why) in [
            ("p.json", "[1]", "no table of names and values"),
            ("p.json", "{", "EOF"),
            ("p.json", r#"{"a": {"b": null}}"#, "a.b is null"),
            ("p.toml", "a =", "TOML"),
            ("p.yaml", "a: 1", ".json and .toml"),
            ("p", "a: 1", ".json and .toml"),
        ] {
            let (_directory, path) = file(name, text);
            let error = parameters(Some(&path), &[]).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert!(error.contains(name), "{error}");
        }
        let (_directory, path) = file("p.json", &" ".repeat(70_000));
        let error = parameters(Some(&path), &[]).unwrap_err().to_string();
        assert!(error.contains("70000 bytes"), "{error}");
        let missing = parameters(Some(Path::new("/nonexistent/p.json")), &[]).unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("read the parameters in /nonexistent")
        );
    }
}
