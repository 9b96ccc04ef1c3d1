//! Looking at each listed path: what it is, how large, and whether it may be part of a tree.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use types::validate_tree_path;

use super::CaptureOptions;
use super::ignore::IgnoreRules;
use super::listing::Listing;
use crate::error::Error;

/// A path of the tree, looked at.
#[derive(Debug)]
pub(super) struct FoundFile {
    /// Below the root.
    pub(super) path: String,
    /// Where to read it.
    pub(super) location: PathBuf,
    /// What it is.
    pub(super) kind: FoundKind,
}

/// What is at a path.
#[derive(Debug)]
pub(super) enum FoundKind {
    /// A regular file.
    File(FileStat),
    /// A symbolic link with this text.
    Symlink(String),
    /// An empty directory.
    Directory,
}

/// What tells an unchanged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct FileStat {
    /// Bytes.
    pub(super) size: u64,
    /// Last change of the content, as the file says, in nanoseconds since the epoch.
    pub(super) modified_ns: i128,
    /// Last change of anything, as the kernel says.
    pub(super) changed_ns: i128,
    /// Number of the file.
    pub(super) inode: u64,
    /// Number of the file system.
    pub(super) device: u64,
    /// Somebody may execute it.
    pub(super) executable: bool,
}

impl FileStat {
    /// Reads it off.
    pub(super) fn of(metadata: &std::fs::Metadata) -> Self {
        let nanoseconds =
            |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            size: metadata.size(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
            executable: metadata.mode() & 0o111 != 0,
        }
    }
}

/// Looks at every listed path, once each, in the order of paths; also says what was passed over.
///
/// # Errors
/// A path cannot be read, cannot be written in a tree, or is a link out of it.
pub(super) fn look_at(
    root: &Path,
    listing: &Listing,
    rules: &IgnoreRules,
) -> Result<(Vec<FoundFile>, Vec<String>), Error> {
    let mut paths: Vec<&[u8]> = listing
        .paths
        .iter()
        .map(|path| path.bytes.as_slice())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    let (mut found, mut warnings) = (Vec::with_capacity(paths.len()), Vec::new());
    for bytes in paths {
        if rules.leave_out(&String::from_utf8_lossy(bytes), false) {
            continue;
        }
        let location = root.join(OsStr::from_bytes(bytes));
        let metadata = match std::fs::symlink_metadata(&location) {
            Ok(metadata) => metadata,
            Err(error) if is_deleted(&error) => continue,
            Err(source) => {
                return Err(Error::Source {
                    step: "look at",
                    path: location,
                    source,
                });
            }
        };
        let path = tree_path(bytes)?;
        let kind = if metadata.is_file() {
            FoundKind::File(FileStat::of(&metadata))
        } else if metadata.is_symlink() {
            FoundKind::Symlink(link_target(root, &location, &path)?)
        } else if metadata.is_dir() {
            FoundKind::Directory
        } else {
            warnings.push(format!(
                "{path} is neither file nor directory and is left out"
            ));
            continue;
        };
        found.push(FoundFile {
            path,
            location,
            kind,
        });
    }
    Ok((found, warnings))
}

/// Refuses what is over the limits, naming the largest.
///
/// # Errors
/// A file or the whole tree is too large.
pub(super) fn check_sizes(found: &[FoundFile], options: &CaptureOptions) -> Result<(), Error> {
    let sizes = || {
        found.iter().filter_map(|file| match &file.kind {
            FoundKind::File(stat) => Some((stat.size, file.path.as_str())),
            FoundKind::Symlink(_) | FoundKind::Directory => None,
        })
    };
    let (largest_size, largest) = sizes().max().unwrap_or_default();
    if largest_size > options.max_file_bytes {
        return Err(Error::FileTooLarge {
            path: largest.to_owned(),
            size: largest_size,
            limit: options.max_file_bytes,
        });
    }
    let total = sizes().map(|(size, _)| size).sum();
    if total > options.max_tree_bytes {
        return Err(Error::TreeTooLarge {
            size: total,
            files: sizes().count(),
            limit: options.max_tree_bytes,
            largest: largest.to_owned(),
            largest_size,
        });
    }
    Ok(())
}

/// git still lists it, but it is gone; or a file took the place of its directory.
fn is_deleted(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn tree_path(bytes: &[u8]) -> Result<String, Error> {
    let bad = |problem| Error::BadPath {
        path: String::from_utf8_lossy(bytes).into_owned(),
        problem,
    };
    let path = std::str::from_utf8(bytes).map_err(|_not_utf8| bad("it is not UTF-8"))?;
    validate_tree_path(path).map_err(|_too_long| {
        bad("it is longer than 4096 bytes, or has an empty, `.` or `..` part")
    })?;
    Ok(path.to_owned())
}

/// The text of a link that stays inside the tree, both as written and as the file system follows it.
fn link_target(root: &Path, location: &Path, path: &str) -> Result<String, Error> {
    let target = std::fs::read_link(location).map_err(|source| Error::Source {
        step: "read the link",
        path: location.to_owned(),
        source,
    })?;
    let Some(text) = target.to_str() else {
        return Err(Error::BadPath {
            path: path.to_owned(),
            problem: "it is a link to a path that is not UTF-8",
        });
    };
    // A link to nothing, or to itself, leads nowhere; its text alone decides.
    let followed_out = location
        .canonicalize()
        .is_ok_and(|target| !target.starts_with(root));
    if followed_out || !stays_inside(path, text) {
        return Err(Error::LinkLeavesTree {
            path: path.to_owned(),
            target: text.to_owned(),
        });
    }
    Ok(text.to_owned())
}

/// The target's text, from the link's directory, never climbs above the root.
fn stays_inside(path: &str, target: &str) -> bool {
    let mut depth = path.split('/').count() - 1;
    if target.starts_with('/') {
        return false;
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return false,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_may_climb_only_to_the_root() {
        assert!(stays_inside("a/b/link", "../../c"));
        assert!(!stays_inside("a/b/link", "../../../c"));
        assert!(!stays_inside("link", "x/../../c"));
        assert!(!stays_inside("link", "/etc/passwd"));
        assert!(stays_inside("link", "./x"));
    }
}
