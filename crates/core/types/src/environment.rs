//! The packages that an experiment runs in, described so that any machine can put them together again.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{TreePathError, validate_tree_path};

/// The packages that an experiment runs in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Environment {
    /// What the machine has.
    #[default]
    Host,
    /// A described set, which the node builds before the command runs.
    Locked(EnvironmentRef),
}

/// Names the description of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentRef {
    /// Hash of the encoded [`EnvironmentSpec`], a blob.
    pub spec: crate::BlobHash,
    /// What it was made from, in a line for people.
    pub summary: String,
}

impl EnvironmentRef {
    /// Longest summary: a line on a screen, and little in the log.
    pub const MAX_SUMMARY_BYTES: usize = 256;
}

/// What an environment is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvironmentKind {
    /// `uv.lock` with its `pyproject.toml`.
    UvLock,
    /// Requirements files.
    Requirements,
    /// The packages of a `poetry.lock`, as requirements.
    PoetryLock,
    /// The packages of a `Pipfile.lock`, as requirements.
    PipfileLock,
    /// The dependencies of a `pyproject.toml` without a lock.
    Project,
    /// The packages of the submitter's own interpreter, as requirements.
    Live,
}

/// A file that the build reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentFile {
    /// Where it lies for the build, a relative path as in a source tree.
    pub path: String,
    /// What is in it.
    pub content: Bytes,
}

/// The description: its encoded bytes are a blob, whose hash names it. The files are in it, so that it is whole by
/// itself: there are few, and what a lock says is what the environment is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvironmentSpec {
    /// First layout.
    V1(EnvironmentSpecV1),
}

/// First layout of [`EnvironmentSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentSpecV1 {
    /// What it is made from.
    pub kind: EnvironmentKind,
    /// Which Python it needs, see [`python_fits`]; empty: any.
    pub python: String,
    /// The files, sorted by path.
    pub files: Vec<EnvironmentFile>,
    /// Which of them list what is installed: requirements files, or a `pyproject.toml` whose dependencies count.
    pub requirements: Vec<String>,
    /// Directories among the files that are installed as packages, without their dependencies.
    pub packages: Vec<String>,
    /// Directories of the source tree from which the command imports; empty text: its root.
    pub import_paths: Vec<String>,
}

impl EnvironmentSpec {
    /// Largest encoded description: a lock of a thousand packages has 2 MiB, local packages come on top.
    pub const MAX_BYTES: u64 = 16 << 20;

    /// Checks that nothing in it leaves the directory in which it is laid out.
    ///
    /// # Errors
    /// A path is absolute, or goes up.
    pub fn validate(&self) -> Result<(), TreePathError> {
        let Self::V1(spec) = self;
        let paths = spec.files.iter().map(|file| &file.path);
        let inside = spec.import_paths.iter().filter(|path| !path.is_empty());
        for path in paths
            .chain(&spec.requirements)
            .chain(&spec.packages)
            .chain(inside)
        {
            validate_tree_path(path)?;
        }
        Ok(())
    }
}

/// Whether Python `version`, such as `3.11.7`, is what `wanted` says: nothing, a version or its start (`3.11`), or clauses
/// of PEP 440 (`>=3.10,<3.13`). None if `wanted` cannot be read.
#[must_use]
pub fn python_fits(wanted: &str, version: &str) -> Option<bool> {
    let has = numbers(version)?;
    let mut fits = true;
    for clause in wanted.split(',').map(str::trim) {
        if clause.is_empty() {
            continue;
        }
        let digits = clause
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(clause.len());
        let (operator, rest) = clause.split_at(digits);
        let rest = rest.trim();
        let (number, any_rest) = match rest.strip_suffix(".*") {
            Some(start) => (numbers(start)?, true),
            None => (numbers(rest)?, false),
        };
        let same = starts_with(&has, &number);
        let ordered = padded(&has).cmp(&padded(&number));
        fits &= match operator.trim() {
            "" => same,
            "==" if any_rest => same,
            "==" | "===" => ordered.is_eq(),
            "!=" if any_rest => !same,
            "!=" => ordered.is_ne(),
            ">=" => ordered.is_ge(),
            "<=" => ordered.is_le(),
            ">" => ordered.is_gt(),
            "<" => ordered.is_lt(),
            "~=" => ordered.is_ge() && starts_with(&has, number.split_last()?.1),
            _ => return None,
        };
    }
    Some(fits)
}

fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|part| part.parse().ok()).collect() // not a number: none, as documented
}

fn starts_with(version: &[u32], start: &[u32]) -> bool {
    version.starts_with(start)
}

/// Versions compare as if they had the same length.
fn padded(version: &[u32]) -> [u32; 4] {
    let mut padded = [0; 4];
    for (place, number) in padded.iter_mut().zip(version) {
        *place = *number;
    }
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_versions_are_compared_as_people_write_them() {
        for (wanted, fits) in [
            ("", true),
            ("3.11", true),
            ("3.11.7", true),
            ("3.1", false),
            ("3.12", false),
            (">=3.10", true),
            (">=3.10,<3.13", true),
            (">=3.12", false),
            ("<3.11", false),
            ("==3.11.*", true),
            ("!=3.11.*", false),
            ("~=3.10", true),
            ("~=3.10.2", false),
            (">3.11", true),
        ] {
            assert_eq!(python_fits(wanted, "3.11.7"), Some(fits), "{wanted}");
        }
        for unreadable in ["pypy@3.9", ">=three", "~=", "^3.9"] {
            assert_eq!(python_fits(unreadable, "3.11.7"), None, "{unreadable}");
        }
    }

    #[test]
    fn a_description_that_leaves_its_directory_is_refused() {
        let spec = |path: &str, import: &str| {
            EnvironmentSpec::V1(EnvironmentSpecV1 {
                kind: EnvironmentKind::Requirements,
                python: String::new(),
                files: vec![EnvironmentFile {
                    path: path.to_owned(),
                    content: Bytes::new(),
                }],
                requirements: Vec::new(),
                packages: Vec::new(),
                import_paths: vec![import.to_owned()],
            })
        };
        assert!(spec("requirements.txt", "").validate().is_ok());
        assert!(spec("../requirements.txt", "").validate().is_err());
        assert!(spec("requirements.txt", "/etc").validate().is_err());
    }
}
