//! The content-addressed snapshot of the code that an experiment runs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::BlobHash;

/// A part of a large file, by content-defined chunking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Offset in the file.
    pub offset: u64,
    /// Length in bytes.
    pub length: u32,
    /// Hash of these bytes.
    pub hash: BlobHash,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeEntryKind {
    /// A regular file stored as one blob.
    File {
        /// Its content.
        hash: BlobHash,
        /// Bytes.
        bytes: u64,
        /// Has an execute bit.
        executable: bool,
    },
    /// A symbolic link; the target is inside the tree.
    Symlink {
        /// Text of the link.
        target: String,
    },
    /// An empty directory.
    Directory,
}

/// One path of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEntry {
    /// Path relative to the root, `/`-separated; see [`validate_tree_path`].
    pub path: String,
    /// What is there.
    pub kind: TreeEntryKind,
}

/// Most entries of a tree: more is a data set or a package directory, not code.
pub const MAX_TREE_ENTRIES: usize = 100_000;

/// Where the tree was taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitFacts {
    /// Full commit hash.
    pub commit: String,
    /// Branch, empty if detached.
    pub branch: String,
    /// Remote without credentials, empty if none.
    pub remote: String,
    /// Blob of `git diff HEAD --binary`, none if clean.
    pub diff: Option<BlobHash>,
    /// Paths that git does not track and does not ignore.
    pub untracked: Vec<String>,
}

/// The tree: its encoded bytes are a blob, whose hash names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceTree {
    /// First layout.
    V1 {
        /// Sorted by path, unique.
        entries: Vec<TreeEntry>,
        /// Git's view, none for a plain directory.
        git: Option<GitFacts>,
    },
}

/// The path could leave the tree or name something twice.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{path:?} cannot be a path in a source tree: it must be relative, /-separated, without empty, `.` or `..` parts or NUL, at most 4096 bytes"
)]
pub struct TreePathError {
    /// What was given.
    pub path: String,
}

/// Checks that a path stays inside the tree.
///
/// # Errors
/// It is empty, absolute, too long, holds NUL or an empty, `.` or `..` part.
pub fn validate_tree_path(path: &str) -> Result<(), TreePathError> {
    let good_part = |part: &str| !matches!(part, "" | "." | "..");
    if path.is_empty()
        || path.len() > 4096
        || path.contains('\0')
        || !path.split('/').all(good_part)
    {
        return Err(TreePathError {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Whether a link at `path` of a tree with these `links` leads to a place in it. Follows the words by hand. Going up is safe only from a real directory: the parent of a link's
/// target is not the parent of the link, so going up through a link is refused. Going down through links
/// is safe, because each of them stays inside.
#[must_use]
pub fn link_stays_inside(path: &str, target: &str, links: &BTreeSet<&str>) -> bool {
    if target.is_empty() || target.starts_with('/') || target.contains('\0') {
        return false;
    }
    let mut place: Vec<&str> = path.split('/').collect();
    place.pop();
    for word in target.split('/') {
        match word {
            "" | "." => {}
            ".." => {
                let here = place.join("/");
                let through_link = links.contains(here.as_str())
                    || parents_of(&here).any(|parent| links.contains(parent));
                if through_link || place.pop().is_none() {
                    return false;
                }
            }
            name => place.push(name),
        }
    }
    true
}

/// `a/b/c` → `a`, `a/b`.
fn parents_of(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _slash)| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_tree_are_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\0b",
        ] {
            assert!(validate_tree_path(bad).is_err(), "{bad:?}");
        }
        assert!(validate_tree_path("src/train.py").is_ok());
    }
}
