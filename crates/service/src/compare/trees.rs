//! Which files of two source trees differ, and how.

use std::collections::BTreeMap;

use types::{BlobHash, SourceTree, TreeEntryKind};

use super::diff::unified;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::view::FileDifference;

/// Files that are listed; more are counted.
const MAX_FILES: usize = 200;
/// Largest file of which the lines are compared: code is smaller, and two of them are held in memory.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most text of all differences of two trees: what a person may still read.
const MAX_DIFF_BYTES: usize = 1 << 20;

/// The files that differ, by path, and how many more there are.
pub(super) async fn different_files(
    handle: &Handle,
    old: BlobHash,
    new: BlobHash,
) -> Result<(Vec<FileDifference>, u64), ServiceError> {
    let old = by_path(handle.source_tree(old, &[]).await?);
    let new = by_path(handle.source_tree(new, &[]).await?);
    let mut changes: BTreeMap<&str, (Option<&TreeEntryKind>, Option<&TreeEntryKind>)> =
        BTreeMap::new();
    for (path, kind) in &old {
        changes.entry(path).or_default().0 = Some(kind);
    }
    for (path, kind) in &new {
        changes.entry(path).or_default().1 = Some(kind);
    }
    changes.retain(|_, (old, new)| old != new);
    let more = changes.len().saturating_sub(MAX_FILES) as u64;
    let mut left = MAX_DIFF_BYTES;
    let mut files = Vec::new();
    for (path, (old, new)) in changes.into_iter().take(MAX_FILES) {
        let file = difference(handle, path, (old, new), left).await;
        left = left.saturating_sub(file.diff.len());
        files.push(file);
    }
    Ok((files, more))
}

fn by_path(tree: SourceTree) -> BTreeMap<String, TreeEntryKind> {
    let SourceTree::V1 { entries, .. } = tree;
    let pair = |entry: types::TreeEntry| (entry.path, entry.kind);
    entries.into_iter().map(pair).collect()
}

/// How one path differs; its text is left out where it is longer than `left`.
async fn difference(
    handle: &Handle,
    path: &str,
    (old, new): (Option<&TreeEntryKind>, Option<&TreeEntryKind>),
    left: usize,
) -> FileDifference {
    let mut difference = FileDifference {
        path: path.to_owned(),
        change: match (old, new) {
            (None, _) => "added",
            (_, None) => "removed",
            (Some(_), Some(_)) => "changed",
        }
        .to_owned(),
        diff: String::new(),
        note: String::new(),
    };
    if let (
        Some(TreeEntryKind::File { hash: before, .. }),
        Some(TreeEntryKind::File {
            hash: after,
            executable,
            ..
        }),
    ) = (old, new)
        && before == after
    {
        "mode".clone_into(&mut difference.change);
        difference.note = match executable {
            true => "now executable".to_owned(),
            false => "no longer executable".to_owned(),
        };
        return difference;
    }
    let sides = (side(handle, old).await, side(handle, new).await);
    let (Ok(before), Ok(after)) = &sides else {
        let why = sides.0.err().or(sides.1.err());
        difference.note = why.unwrap_or_default();
        return difference;
    };
    let (before, after) = (before.clone(), after.clone());
    let labels = (
        old.map_or("/dev/null".to_owned(), |_| format!("a/{path}")),
        new.map_or("/dev/null".to_owned(), |_| format!("b/{path}")),
    );
    let work = move || unified((&labels.0, &before), (&labels.1, &after));
    match tokio::task::spawn_blocking(work).await {
        Ok(Some(text)) if text.len() <= left => difference.diff = text,
        Ok(Some(text)) => {
            difference.note = format!(
                "{} lines of difference, not shown: there are too many in all",
                text.lines().count()
            );
        }
        Ok(None) => difference.note = "too different to be shown line by line".to_owned(),
        Err(error) => difference.note = format!("not compared: {error}"),
    }
    difference
}

/// The text of one side, empty where there is none; or what can be said instead.
async fn side(handle: &Handle, kind: Option<&TreeEntryKind>) -> Result<String, String> {
    let (hash, bytes) = match kind {
        None | Some(TreeEntryKind::Directory) => return Ok(String::new()),
        // As a line of its own: what is compared is where it leads.
        Some(TreeEntryKind::Symlink { target }) => return Ok(format!("link to {target}\n")),
        Some(TreeEntryKind::File { hash, bytes, .. }) => (hash, *bytes),
    };
    if bytes > MAX_FILE_BYTES {
        return Err(format!("{bytes} bytes: compared by its hash only"));
    }
    let read = async {
        handle.fetch_blobs(&[*hash], &[]).await?;
        let read = handle.blob_store().get_bytes(hash, MAX_FILE_BYTES).await;
        read.map_err(|error| ServiceError::new(ErrorKind::Internal, "blob", error.to_string()))
    };
    let bytes = match read.await {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(error) => return Err(format!("its content cannot be had: {}", error.message)),
    };
    match std::str::from_utf8(&bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err(format!("binary, {} bytes on one side", bytes.len())),
    }
}
