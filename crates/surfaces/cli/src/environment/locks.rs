//! Locks of other tools as requirements: every package with its exact version and its hashes.

use serde::Deserialize;

use super::problem;
use crate::error::Error;

/// Requirements out of a lock.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Locked {
    pub(super) lines: Vec<String>,
    /// Which Python it is for; empty: any.
    pub(super) python: String,
    /// Every one has its hashes.
    pub(super) hashed: bool,
}

/// One package of a lock.
#[derive(Debug, Default)]
struct Package {
    name: String,
    version: String,
    markers: String,
    hashes: Vec<String>,
    /// It is not for everybody: for development, or an extra.
    left_out: bool,
    source_type: String,
    source_url: String,
    source_reference: String,
}

impl Package {
    fn line(&self) -> Result<String, Error> {
        let Self { name, version, .. } = self;
        let marker = match self.markers.as_str() {
            "" => String::new(),
            markers => format!(" ; {markers}"),
        };
        let (url, reference) = (&self.source_url, &self.source_reference);
        Ok(match self.source_type.as_str() {
            "git" => format!("{name} @ git+{url}@{reference}{marker}"),
            "url" => format!("{name} @ {url}{marker}"),
            "directory" | "file" => {
                return Err(problem(
                    format!("{name} is a local package ({url}), which a lock does not hold"),
                    "install it here and take the active Python's packages with --env-mode live",
                ));
            }
            _ => {
                let hashes = self.hashes.iter().map(|hash| format!(" --hash={hash}"));
                format!("{name}=={version}{marker}{}", hashes.collect::<String>())
            }
        })
    }
}

/// Reads a `poetry.lock`: the packages of the main group. Written by a program, one value a line.
pub(super) fn poetry(text: &str) -> Result<Locked, Error> {
    let mut locked = Locked {
        hashed: true,
        ..Locked::default()
    };
    let mut package: Option<Package> = None;
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') && !line.contains('=') {
            section = line;
            if line == "[[package]]" || line == "[metadata]" {
                locked.take(package.take())?;
            }
            if line == "[[package]]" {
                package = Some(Package::default());
            }
            continue;
        }
        if let (Some(package), Some(hash)) = (&mut package, value_in(line, "hash")) {
            package.hashes.push(hash);
            continue;
        }
        let Some((key, value)) = line.split_once(" = ") else {
            continue;
        };
        let quoted = value
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        let text = quoted.unwrap_or(value).replace("\\\"", "\"");
        match (section, key, &mut package) {
            ("[metadata]", "python-versions", _) => locked.python = text,
            ("[[package]]", key, Some(package)) => package.set(key, text, value),
            ("[package.source]", "type", Some(package)) => package.source_type = text,
            ("[package.source]", "url", Some(package)) => package.source_url = text,
            ("[package.source]", "resolved_reference", Some(package)) => {
                package.source_reference = text;
            }
            _ => {}
        }
    }
    locked.take(package)?;
    if locked.lines.is_empty() {
        return Err(problem(
            "poetry.lock names no packages",
            "is it a lock of poetry 1.1 or later? `poetry lock` writes it again",
        ));
    }
    Ok(locked)
}

impl Package {
    fn set(&mut self, key: &str, text: String, value: &str) {
        match key {
            "name" => self.name = text,
            "version" => self.version = text,
            "markers" => self.markers = text,
            "optional" => self.left_out |= value == "true",
            "category" => self.left_out |= text != "main",
            "groups" => self.left_out |= !value.contains("\"main\""),
            _ => {}
        }
    }
}

impl Locked {
    fn take(&mut self, package: Option<Package>) -> Result<(), Error> {
        let Some(package) = package.filter(|package| !package.left_out) else {
            return Ok(());
        };
        self.hashed &= !package.hashes.is_empty() && package.source_type != "git";
        self.lines.push(package.line()?);
        Ok(())
    }
}

/// `hash = "sha256:…"` inside a line.
fn value_in(line: &str, key: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("{key} = \""))?;
    line.starts_with('{')
        .then(|| rest.split('"').next().unwrap_or_default().to_owned())
}

/// The parts of a `Pipfile.lock` that count.
#[derive(Debug, Deserialize)]
struct Pipfile {
    #[serde(rename = "_meta")]
    meta: PipfileMeta,
    #[serde(default)]
    default: std::collections::BTreeMap<String, PipfilePackage>,
}

#[derive(Debug, Deserialize)]
struct PipfileMeta {
    #[serde(default)]
    requires: PipfileRequires,
}

#[derive(Debug, Default, Deserialize)]
struct PipfileRequires {
    #[serde(default)]
    python_version: String,
    #[serde(default)]
    python_full_version: String,
}

#[derive(Debug, Deserialize)]
struct PipfilePackage {
    #[serde(default)]
    version: String,
    #[serde(default)]
    hashes: Vec<String>,
    #[serde(default)]
    markers: String,
    #[serde(default)]
    git: String,
    #[serde(default, rename = "ref")]
    reference: String,
    #[serde(default)]
    path: String,
}

/// Reads a `Pipfile.lock`: its default packages.
pub(super) fn pipfile(text: &str) -> Result<Locked, Error> {
    let pipfile: Pipfile = serde_json::from_str(text).map_err(|error| {
        problem(
            format!("Pipfile.lock cannot be read: {error}"),
            "`pipenv lock` writes it again",
        )
    })?;
    let requires = pipfile.meta.requires;
    let mut locked = Locked {
        python: match requires.python_full_version.is_empty() {
            true => requires.python_version,
            false => requires.python_full_version,
        },
        hashed: true,
        lines: Vec::new(),
    };
    for (name, found) in pipfile.default {
        let source_type = match (found.git.is_empty(), found.path.is_empty()) {
            (false, _) => "git",
            (true, false) => "directory",
            (true, true) => "",
        };
        let package = Package {
            name,
            version: found.version.trim_start_matches("==").to_owned(),
            markers: found.markers,
            hashes: found.hashes,
            left_out: false,
            source_type: source_type.to_owned(),
            source_url: format!("{}{}", found.git, found.path),
            source_reference: found.reference,
        };
        locked.take(Some(package))?;
    }
    Ok(locked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POETRY: &str = r#"# This file is automatically @generated by Poetry 2.1.1
[[package]]
name = "colorama"
version = "0.4.6"
optional = false
python-versions = "!=3.0.*,>=2.7"
groups = ["main"]
markers = "platform_system == \"Windows\""
files = [
    {file = "colorama-0.4.6-py2.py3-none-any.whl", hash = "sha256:4f1d"},
    {file = "colorama-0.4.6.tar.gz", hash = "sha256:0869"},
]

[[package]]
name = "pytest"
version = "8.0.0"
optional = false
groups = ["dev"]
files = [{file = "pytest-8.0.0.tar.gz", hash = "sha256:249b"}]

[package.dependencies]
colorama = {version = "*", markers = "sys_platform == \"win32\""}

[[package]]
name = "own"
version = "1.0"
optional = false
groups = ["main"]
files = []

[package.source]
type = "git"
url = "https://host/own.git"
reference = "main"
resolved_reference = "0123abcd"

[metadata]
lock-version = "2.1"
python-versions = ">=3.9"
"#;

    #[test]
    fn a_poetry_lock_gives_its_main_packages_with_hashes() {
        let locked = poetry(POETRY).unwrap();
        assert_eq!(
            locked.lines,
            [
                "colorama==0.4.6 ; platform_system == \"Windows\" --hash=sha256:4f1d --hash=sha256:0869",
                "own @ git+https://host/own.git@0123abcd",
            ]
        );
        assert_eq!((locked.python.as_str(), locked.hashed), (">=3.9", false));
        assert!(poetry("").is_err());
        let local = POETRY.replace("type = \"git\"", "type = \"directory\"");
        let error = poetry(&local).unwrap_err();
        assert!(error.to_string().contains("local package"), "{error}");
    }

    #[test]
    fn a_pipfile_lock_gives_its_default_packages_with_hashes() {
        let text = r#"{"_meta": {"hash": {"sha256": "x"}, "requires": {"python_version": "3.11"}, "sources": []},
            "default": {"idna": {"hashes": ["sha256:11", "sha256:22"], "index": "pypi", "markers": "python_version >= '3.6'", "version": "==3.7"}},
            "develop": {"pytest": {"version": "==8.0.0"}}}"#;
        let locked = pipfile(text).unwrap();
        assert_eq!(
            locked.lines,
            ["idna==3.7 ; python_version >= '3.6' --hash=sha256:11 --hash=sha256:22"]
        );
        assert_eq!((locked.python.as_str(), locked.hashed), ("3.11", true));
        assert!(pipfile("{").is_err());
    }
}
