//! What an attempt leaves behind: paths of its directory, kept as blobs when it ends.

use serde::{Deserialize, Serialize};

use crate::{BlobHash, TreePathError, validate_tree_path};

/// Paths that a person wants to have when an attempt has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    /// Files and directories, relative to where the command starts; at most [`Outputs::MAX_PATHS`].
    pub paths: Vec<String>,
    /// Most bytes of all of them; 0: [`Outputs::DEFAULT_MAX_BYTES`].
    pub max_bytes: u64,
}

/// The outputs that are asked for make no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OutputsError {
    /// A path leaves the directory.
    #[error(
        "{path:?} cannot be an output: write the path of a file or directory below the one in which the command starts, without `.` and `..`"
    )]
    Path {
        /// Which.
        path: String,
        /// What is wrong.
        #[source]
        source: TreePathError,
    },
    /// More than anybody writes by hand.
    #[error(
        "{count} outputs are too many: at most {}; name the directory that holds them",
        Outputs::MAX_PATHS
    )]
    TooMany {
        /// How many.
        count: usize,
    },
}

impl Outputs {
    /// Most paths: a directory is one, whatever is in it.
    pub const MAX_PATHS: usize = 64;
    /// What is kept of an attempt unless a person wants more: a few checkpoints of a large model.
    pub const DEFAULT_MAX_BYTES: u64 = 10 << 30;
    /// Files, links and empty directories that are kept of one attempt: more belongs into an archive file.
    pub const MAX_FILES: usize = 10_000;

    /// The limit that counts.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        match self.max_bytes {
            0 => Self::DEFAULT_MAX_BYTES,
            bytes => bytes,
        }
    }

    /// Checks the paths; one that is named twice or below another is kept once.
    ///
    /// # Errors
    /// One leaves the directory, or there are too many.
    pub fn checked(mut self) -> Result<Self, OutputsError> {
        if self.paths.len() > Self::MAX_PATHS {
            let count = self.paths.len();
            return Err(OutputsError::TooMany { count });
        }
        for path in &mut self.paths {
            let inside = path.trim_end_matches('/');
            let inside = inside.strip_prefix("./").unwrap_or(inside);
            validate_tree_path(inside).map_err(|source| OutputsError::Path {
                path: path.clone(),
                source,
            })?;
            *path = inside.to_owned();
        }
        self.paths.sort_unstable();
        self.paths.dedup();
        let all = self.paths.clone();
        let is_below = |path: &String, other: &String| {
            let rest = path.strip_prefix(other.as_str());
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        self.paths
            .retain(|path| !all.iter().any(|other| is_below(path, other)));
        Ok(self)
    }
}

/// What was kept of a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptOutputs {
    /// Hash of the encoded [`crate::SourceTree`] that lists them, with modes, sizes and hashes.
    pub tree: BlobHash,
    /// Files in it.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// What is not in it, and why; at most [`KeptOutputs::MAX_LEFT_OUT`] lines of at most 512 bytes.
    pub left_out: Vec<String>,
}

impl KeptOutputs {
    /// Most lines that say what was left out: more is not read, and the log must stay small.
    pub const MAX_LEFT_OUT: usize = 8;
    /// Longest of these lines.
    pub const MAX_LINE_BYTES: usize = 512;

    /// The same, cut to the limits.
    #[must_use]
    pub fn cut(mut self) -> Self {
        let more = self.left_out.len().saturating_sub(Self::MAX_LEFT_OUT);
        if more > 0 {
            self.left_out.truncate(Self::MAX_LEFT_OUT - 1);
            self.left_out.push(format!("and {} more", more + 1));
        }
        for line in &mut self.left_out {
            line.truncate(line.floor_char_boundary(Self::MAX_LINE_BYTES));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(paths: &[&str]) -> Result<Vec<String>, OutputsError> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let outputs = Outputs {
            paths,
            max_bytes: 0,
        };
        outputs.checked().map(|outputs| outputs.paths)
    }

    #[test]
    fn a_path_that_leaves_the_directory_is_no_output() {
        for bad in ["", ".", "/etc", "../x", "a/../../x", "a//b", "/"] {
            assert!(checked(&["good", bad]).is_err(), "{bad:?}");
        }
        let many = vec!["x"; Outputs::MAX_PATHS + 1];
        let refused = checked(&many).unwrap_err();
        assert!(refused.to_string().contains("name the directory"));
    }

    #[test]
    fn what_is_named_twice_is_kept_once() {
        let paths = checked(&["out/", "./out", "out/model.pt", "outer", "a"]).unwrap();
        assert_eq!(paths, ["a", "out", "outer"]);
    }

    #[test]
    fn what_was_left_out_is_told_in_few_lines() {
        let kept = KeptOutputs {
            tree: BlobHash::of(b"tree"),
            files: 0,
            bytes: 0,
            left_out: vec!["é".repeat(400); 20],
        };
        let kept = kept.cut();
        assert_eq!(kept.left_out.len(), KeptOutputs::MAX_LEFT_OUT);
        assert!(kept.left_out.iter().all(|line| line.len() <= 512));
        assert_eq!(kept.left_out.last().unwrap(), "and 13 more");
    }
}
