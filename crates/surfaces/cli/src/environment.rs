//! Which packages go with an experiment: a lock or requirements file beside its code, or those of the active Python.

mod detect;
mod live;
mod locks;
mod requirements;

use std::path::PathBuf;

use bytes::Bytes;
use types::{BlobHash, EnvironmentRef, EnvironmentSpec, EnvironmentSpecV1, codec};

use crate::capture::{Blob, Content};
use crate::error::Error;

/// What `--env-mode` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// A lock or requirements file if there is one, else the machine's own
    #[default]
    Auto,
    /// The machine's own
    None,
    /// A lock or requirements file; without one the submission is refused
    Lock,
    /// What the active Python has, with exact versions
    Live,
}

/// What to look for and where.
#[derive(Clone, Debug)]
pub(crate) struct EnvironmentOptions {
    pub(crate) mode: Mode,
    /// The file that is meant.
    pub(crate) file: Option<PathBuf>,
    /// Root of the code; none: no code goes along.
    pub(crate) root: Option<PathBuf>,
    /// Where the command starts, from the root.
    pub(crate) working_directory: String,
}

/// The packages that were found.
#[derive(Debug)]
pub(crate) struct Found {
    /// What they are made from; none: the machine's own are used.
    pub(crate) spec: Option<EnvironmentSpecV1>,
    /// In a line: what was found, or why nothing is used.
    pub(crate) summary: String,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

/// The packages as they are submitted.
#[derive(Debug)]
pub(crate) struct CapturedEnvironment {
    /// Their description, which the cluster must hold.
    pub(crate) blob: Blob,
    /// In a line, at most as long as the cluster takes.
    pub(crate) summary: String,
}

impl Found {
    fn machine(summary: impl Into<String>) -> Self {
        Self {
            spec: None,
            summary: summary.into(),
            warnings: Vec::new(),
        }
    }

    /// As it is submitted; none: the machine's own.
    ///
    /// # Errors
    /// It is too large.
    pub(crate) fn captured(&self) -> Result<Option<CapturedEnvironment>, Error> {
        let Some(spec) = &self.spec else {
            return Ok(None);
        };
        let encoded = codec::encode(&EnvironmentSpec::V1(spec.clone()));
        if encoded.len() as u64 > EnvironmentSpec::MAX_BYTES {
            return Err(problem(
                format!(
                    "the description of the packages has {} MiB, at most {} MiB are taken",
                    encoded.len() >> 20,
                    EnvironmentSpec::MAX_BYTES >> 20
                ),
                "local packages are in it: leave their data out by lines in .musterignore, or put them into the code",
            ));
        }
        let encoded = Bytes::from(encoded);
        let mut summary = self.summary.clone();
        summary.truncate(summary.floor_char_boundary(EnvironmentRef::MAX_SUMMARY_BYTES));
        Ok(Some(CapturedEnvironment {
            blob: Blob {
                hash: BlobHash::of(&encoded),
                bytes: encoded.len() as u64,
                content: Content::Memory(encoded),
            },
            summary,
        }))
    }
}

/// Finds the packages. Blocks: it reads files and may run Python.
///
/// # Errors
/// What is asked for is not there or cannot be used.
pub(crate) fn find(options: &EnvironmentOptions) -> Result<Found, Error> {
    match (options.mode, &options.root) {
        (Mode::None, _) => Ok(Found::machine("the machine's own, as asked")),
        (Mode::Live, root) => live::capture(root.as_deref()),
        (Mode::Auto, None) if options.file.is_none() => {
            Ok(Found::machine("the machine's own, as no code goes along"))
        }
        (Mode::Auto | Mode::Lock, None) => Err(problem(
            "a lock or requirements file goes along with the code, and there is none",
            "leave out --no-source, or take the active Python's packages with --env-mode live",
        )),
        (Mode::Auto | Mode::Lock, Some(root)) => detect::detect(options, root),
    }
}

fn problem(problem: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::Environment {
        problem: problem.into(),
        hint: hint.into(),
    }
}

#[cfg(test)]
mod tests;
