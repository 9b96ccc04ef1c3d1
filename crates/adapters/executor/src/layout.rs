//! Lays a source tree out as files, never outside its directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use types::{
    BlobHash, SourceTree, TreeEntry, TreeEntryKind, TreePathError, link_stays_inside,
    validate_tree_path,
};

/// Why the tree could not be laid out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("a path of the source tree is refused")]
    Path(#[source] TreePathError),
    #[error("{path:?} is below {parent:?}, which is not a directory in the source tree")]
    Below { path: String, parent: String },
    #[error("the link {path:?} -> {target:?} leads out of the source tree")]
    Escape { path: String, target: String },
    #[error("the content of {path:?} (blob {hash}) is not on this node")]
    Missing { path: String, hash: BlobHash },
    #[error("{path:?} has {found} bytes where the source tree says {expected}")]
    Length {
        path: String,
        expected: u64,
        found: u64,
    },
    #[error("{path:?} cannot be made")]
    Make {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Makes every entry of `tree` below `root`, which is an empty directory: files as copies of the given
/// blob files (shared extents where the file system can), links last, so that nothing is written through one.
pub(crate) fn lay_out(
    tree: &SourceTree,
    files: &BTreeMap<BlobHash, PathBuf>,
    root: &Path,
) -> Result<(), LayoutError> {
    let SourceTree::V1 { entries, .. } = tree;
    check(entries)?;
    let mut made = BTreeSet::new();
    for entry in entries {
        make_parents(root, &entry.path, &mut made)?;
        let path = root.join(&entry.path);
        match &entry.kind {
            TreeEntryKind::File {
                hash,
                bytes,
                executable,
            } => copy(entry, files.get(hash), &path, (*hash, *bytes, *executable))?,
            TreeEntryKind::Directory => make_directory(&path, &entry.path, &mut made)?,
            TreeEntryKind::Symlink { .. } => {}
        }
    }
    for entry in entries {
        if let TreeEntryKind::Symlink { target } = &entry.kind {
            let path = root.join(&entry.path);
            symlink(target, path).map_err(|source| make_error(&entry.path, source))?;
        }
    }
    Ok(())
}

/// Checks all paths and links before anything is made.
fn check(entries: &[TreeEntry]) -> Result<(), LayoutError> {
    let mut leaves = BTreeSet::new();
    let mut links = BTreeSet::new();
    for entry in entries {
        validate_tree_path(&entry.path).map_err(LayoutError::Path)?;
        match &entry.kind {
            TreeEntryKind::Directory => {}
            TreeEntryKind::File { .. } => drop(leaves.insert(entry.path.as_str())),
            TreeEntryKind::Symlink { .. } => {
                leaves.insert(entry.path.as_str());
                links.insert(entry.path.as_str());
            }
        }
    }
    for entry in entries {
        if let Some(parent) = parents(&entry.path).find(|parent| leaves.contains(parent)) {
            return Err(LayoutError::Below {
                path: entry.path.clone(),
                parent: parent.to_owned(),
            });
        }
        if let TreeEntryKind::Symlink { target } = &entry.kind
            && !link_stays_inside(&entry.path, target, &links)
        {
            return Err(LayoutError::Escape {
                path: entry.path.clone(),
                target: target.clone(),
            });
        }
    }
    Ok(())
}

/// `a/b/c` → `a`, `a/b`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _slash)| &path[..at])
}

fn make_parents(root: &Path, path: &str, made: &mut BTreeSet<String>) -> Result<(), LayoutError> {
    for parent in parents(path) {
        if !made.contains(parent) {
            make_directory(&root.join(parent), parent, made)?;
        }
    }
    Ok(())
}

fn make_directory(path: &Path, name: &str, made: &mut BTreeSet<String>) -> Result<(), LayoutError> {
    if made.insert(name.to_owned()) {
        std::fs::create_dir(path).map_err(|source| make_error(name, source))?;
    }
    Ok(())
}

fn copy(
    entry: &TreeEntry,
    blob: Option<&PathBuf>,
    path: &Path,
    (hash, bytes, executable): (BlobHash, u64, bool),
) -> Result<(), LayoutError> {
    let blob = blob.ok_or_else(|| LayoutError::Missing {
        path: entry.path.clone(),
        hash,
    })?;
    let copied =
        copy_file(blob, path, executable).map_err(|source| make_error(&entry.path, source))?;
    if copied != bytes {
        return Err(LayoutError::Length {
            path: entry.path.clone(),
            expected: bytes,
            found: copied,
        });
    }
    Ok(())
}

/// `io::copy` between files is `copy_file_range`: a reflink where there are some, else a copy in the kernel.
fn copy_file(from: &Path, to: &Path, executable: bool) -> io::Result<u64> {
    let mut from = File::open(from)?;
    let mut to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if executable { 0o755 } else { 0o644 })
        .open(to)?;
    io::copy(&mut from, &mut to)
}

fn make_error(path: &str, source: io::Error) -> LayoutError {
    LayoutError::Make {
        path: path.to_owned(),
        source,
    }
}

/// Lays the links and directories of a tree out, where they may be, and sees that no link leads out.
#[cfg(fuzzing)]
pub(crate) fn fuzz(tree: SourceTree) {
    let SourceTree::V1 { mut entries, git } = tree;
    if check(&entries).is_err() || entries.len() > 64 {
        return;
    }
    entries.retain(|entry| !matches!(entry.kind, TreeEntryKind::File { .. }));
    let root = std::env::temp_dir().join(format!("muster-fuzz-tree-{}", std::process::id()));
    std::fs::create_dir_all(&root).expect("a temporary directory");
    let root = root.canonicalize().expect("it was made");
    let tree = SourceTree::V1 {
        entries: entries.clone(),
        git,
    };
    // What the file system refuses, as a name that is too long, is refused.
    if lay_out(&tree, &BTreeMap::new(), &root).is_ok() {
        for entry in &entries {
            // A link that leads nowhere leads not out.
            if let Ok(real) = root.join(&entry.path).canonicalize() {
                assert!(real.starts_with(&root), "{entry:?} leads to {real:?}");
            }
        }
    }
    std::fs::remove_dir_all(&root).expect("it can be removed");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn link(path: &str, target: &str) -> TreeEntry {
        TreeEntry {
            path: path.to_owned(),
            kind: TreeEntryKind::Symlink {
                target: target.to_owned(),
            },
        }
    }

    fn file(path: &str, content: &[u8], executable: bool) -> TreeEntry {
        TreeEntry {
            path: path.to_owned(),
            kind: TreeEntryKind::File {
                hash: BlobHash::of(content),
                bytes: content.len() as u64,
                executable,
            },
        }
    }

    fn lay(entries: Vec<TreeEntry>) -> Result<tempfile::TempDir, LayoutError> {
        let blobs = tempfile::tempdir().unwrap();
        let mut files = BTreeMap::new();
        for content in [&b"one"[..], b"two"] {
            let path = blobs.path().join(BlobHash::of(content).to_string());
            std::fs::write(&path, content).unwrap();
            files.insert(BlobHash::of(content), path);
        }
        let root = tempfile::tempdir().unwrap();
        let tree = SourceTree::V1 { entries, git: None };
        lay_out(&tree, &files, root.path()).map(|()| root)
    }

    #[test]
    fn files_modes_links_and_empty_directories_are_made() {
        let empty = TreeEntry {
            path: "a/empty".to_owned(),
            kind: TreeEntryKind::Directory,
        };
        let entries = vec![
            empty,
            file("a/run.sh", b"one", true),
            file("b.txt", b"two", false),
            link("c", "a/../b.txt"),
        ];
        let root = lay(entries).unwrap();
        assert!(root.path().join("a/empty").is_dir());
        let mode = |name| {
            root.path()
                .join(name)
                .metadata()
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode("a/run.sh"), mode("b.txt")), (0o755, 0o644));
        assert_eq!(std::fs::read(root.path().join("c")).unwrap(), b"two");
    }

    #[test]
    fn links_out_of_the_tree_are_refused() {
        for target in ["/etc/passwd", "..", "../x", "a/../../x", "", "./../x"] {
            let refused = lay(vec![link("l", target)]);
            assert!(
                matches!(refused, Err(LayoutError::Escape { .. })),
                "{target:?}"
            );
        }
        // By name `d/up/..` is `d`; on disk it is the parent of the root.
        let through = vec![link("d/up", ".."), link("l", "d/up/..")];
        assert!(matches!(lay(through), Err(LayoutError::Escape { .. })));
    }

    #[test]
    fn nothing_is_written_below_a_link_or_file() {
        let entries = vec![link("d", "."), file("d/x", b"one", false)];
        assert!(matches!(lay(entries), Err(LayoutError::Below { .. })));
        let outside = vec![file("../x", b"one", false)];
        assert!(matches!(lay(outside), Err(LayoutError::Path(_))));
    }

    #[test]
    fn missing_or_short_content_is_told() {
        let missing = lay(vec![file("x", b"three", false)]);
        assert!(matches!(missing, Err(LayoutError::Missing { .. })));
        let mut wrong = file("x", b"one", false);
        if let TreeEntryKind::File { bytes, .. } = &mut wrong.kind {
            *bytes = 9;
        }
        let wrong = lay(vec![wrong]);
        assert!(matches!(wrong, Err(LayoutError::Length { found: 3, .. })));
    }
}
