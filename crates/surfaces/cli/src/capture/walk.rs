//! The files of a plain directory.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use types::MAX_TREE_ENTRIES;

use super::ignore::IgnoreRules;
use super::listing::{ListedPath, Listing, join};
use crate::error::Error;

/// Lists everything below `root` but `.git` and what `rules` leave out. Links are not followed.
///
/// # Errors
/// A directory cannot be read, or there are too many files.
pub(super) fn list(root: &Path, rules: &IgnoreRules) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    walk_below(root, Vec::new(), false, rules, &mut listing)?;
    Ok(listing)
}

/// Adds everything below `prefix`. A directory is listed itself only if it is empty.
pub(super) fn walk_below(
    root: &Path,
    prefix: Vec<u8>,
    untracked: bool,
    rules: &IgnoreRules,
    listing: &mut Listing,
) -> Result<(), Error> {
    let mut open = vec![prefix];
    while let Some(prefix) = open.pop() {
        let path = root.join(std::ffi::OsStr::from_bytes(&prefix));
        let failed = |source| Error::Source {
            step: "read the directory",
            path: path.clone(),
            source,
        };
        let mut is_empty = true;
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_directory = entry.file_type().map_err(failed)?.is_dir();
            let bytes = join(&prefix, entry.file_name().as_bytes());
            is_empty = false;
            if entry.file_name() == ".git"
                || rules.leave_out(&String::from_utf8_lossy(&bytes), is_directory)
            {
                continue;
            }
            if is_directory {
                open.push(bytes);
            } else {
                add(listing, bytes, untracked)?;
            }
        }
        if is_empty && !prefix.is_empty() {
            add(listing, prefix, untracked)?;
        }
    }
    Ok(())
}

fn add(listing: &mut Listing, bytes: Vec<u8>, untracked: bool) -> Result<(), Error> {
    if listing.paths.len() >= MAX_TREE_ENTRIES {
        return Err(Error::TooManyFiles {
            limit: MAX_TREE_ENTRIES,
        });
    }
    listing.paths.push(ListedPath { bytes, untracked });
    Ok(())
}
