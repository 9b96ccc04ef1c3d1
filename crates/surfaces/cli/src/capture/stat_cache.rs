//! Remembering the hashes of files that did not change since the last capture.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use types::BlobHash;

use super::entries::FileStat;

/// Largest cache that is read: the file limit at generous path lengths.
const CACHE_LIMIT_BYTES: usize = 64 << 20;

/// Hashes of one tree's files by their size, times and inode. It may be lost or damaged at any time: then files are
/// hashed again.
#[derive(Debug)]
pub(super) struct StatCache {
    path: Option<PathBuf>,
    root: String,
    known: BTreeMap<String, (FileStat, BlobHash)>,
    used: BTreeMap<String, (FileStat, BlobHash)>,
}

/// What is written.
#[derive(Debug, Serialize, Deserialize)]
enum Stored {
    V1 {
        root: String,
        files: Vec<(String, FileStat, BlobHash)>,
    },
}

impl StatCache {
    /// Reads what is known of the tree at `root`.
    pub(super) fn load(directory: Option<&Path>, root: &Path) -> Self {
        let root = root.to_string_lossy().into_owned();
        let name = BlobHash::of(root.as_bytes()).to_string();
        let path = directory.map(|directory| directory.join("muster/trees").join(&name[..32]));
        // No cache, a damaged one, or that of another version: all the same, nothing is known.
        let stored = path
            .as_ref()
            .and_then(|path| std::fs::read(path).ok())
            .and_then(|bytes| types::codec::decode(&bytes, CACHE_LIMIT_BYTES).ok());
        let known = match stored {
            Some(Stored::V1 { root: of, files }) if of == root => files
                .into_iter()
                .map(|(path, stat, hash)| (path, (stat, hash)))
                .collect(),
            _ => BTreeMap::new(),
        };
        Self {
            path,
            root,
            known,
            used: BTreeMap::new(),
        }
    }

    /// The hash of a file that has not changed.
    pub(super) fn recall(&mut self, path: &str, stat: &FileStat) -> Option<BlobHash> {
        let (known, hash) = self.known.get(path)?;
        if known != stat {
            return None;
        }
        let hash = *hash;
        self.used.insert(path.to_owned(), (*stat, hash));
        Some(hash)
    }

    /// Keeps the hash of a file.
    pub(super) fn remember(&mut self, path: &str, stat: FileStat, hash: BlobHash) {
        self.used.insert(path.to_owned(), (stat, hash));
    }

    /// Writes what this capture used, if that is news. Says what went wrong, if something did.
    pub(super) fn save(self) -> Option<String> {
        let path = self.path?;
        if self.used == self.known {
            return None;
        }
        let files = self
            .used
            .into_iter()
            .map(|(path, (stat, hash))| (path, stat, hash));
        let stored = Stored::V1 {
            root: self.root,
            files: files.collect(),
        };
        let error = write(&path, &types::codec::encode(&stored)).err()?;
        let path = path.display();
        Some(format!("hashes of files cannot be kept in {path}: {error}"))
    }
}

/// Replaces the file at once; another process may do the same.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().expect("the path was joined");
    std::fs::create_dir_all(directory)?;
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, path)
}
