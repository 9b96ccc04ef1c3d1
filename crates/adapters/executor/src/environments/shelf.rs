//! Environments on this node's disk: `<directory>/<key>/` with `env/`, and the record `built`, which appears last.
//!
//! An environment cannot be built elsewhere and moved into its place: its programs name their interpreter by path. What
//! has no record is no environment and goes at the next start.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use types::codec;

use crate::durable_file;
use crate::remove_tree::remove_tree;

/// Largest record: 2,000 packages of 100 bytes fit five times.
const MAX_RECORD_BYTES: usize = 1 << 20;
/// Length of a key: 32 hexadecimal digits, which no two environments share.
pub(super) const KEY_LENGTH: usize = 32;

/// A finished environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// First layout.
    V1(Built),
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Built {
    /// Names it on this node.
    pub(crate) key: String,
    /// Version of its Python.
    pub(crate) python: String,
    /// What built it.
    pub(crate) builder: String,
    /// What is in it, name and version.
    pub(crate) packages: Vec<(String, String)>,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// How long it took.
    pub(crate) build_ms: u64,
}

/// The directory of all.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    pub(super) directory: PathBuf,
}

impl Shelf {
    pub(super) fn place(&self, key: &str) -> PathBuf {
        self.directory.join(key)
    }

    /// The virtual environment itself.
    pub(super) fn environment(&self, key: &str) -> PathBuf {
        self.place(key).join("env")
    }

    fn record(&self, key: &str) -> PathBuf {
        self.place(key).join("built")
    }

    fn used(&self, key: &str) -> PathBuf {
        self.place(key).join("used")
    }

    /// A finished one; none if there is none.
    pub(super) fn get(&self, key: &str) -> io::Result<Option<Built>> {
        let bytes = durable_file::read_if_there(&self.record(key), MAX_RECORD_BYTES)?;
        let Some(bytes) = bytes else { return Ok(None) };
        match codec::decode(&bytes, MAX_RECORD_BYTES) {
            Ok(Record::V1(built)) => Ok(Some(built)),
            Err(error) => {
                // Torn by a power cut, or of another release: it is built again.
                tracing::warn!(%error, key, "record of an environment does not decode");
                Ok(None)
            }
        }
    }

    /// Remembers that it was used now.
    pub(super) fn touch(&self, key: &str) -> io::Result<()> {
        durable_file::create(&self.used(key), b"")?.set_modified(SystemTime::now())
    }

    /// From now on it is there.
    pub(super) fn put(&self, built: &Built) -> io::Result<()> {
        self.touch(&built.key)?;
        let bytes = codec::encode(&Record::V1(built.clone()));
        durable_file::replace(&self.record(&built.key), &bytes)
    }

    /// Removes what builds left that a node did not see to the end.
    pub(super) fn clear_unfinished(&self) -> io::Result<()> {
        for key in self.keys()? {
            if self.get(&key)?.is_none() {
                remove_tree(&self.place(&key))?;
            }
        }
        Ok(())
    }

    /// Those that go so that the rest has at most `limit_bytes`: least recently used first, none that `in_use` names.
    pub(super) fn surplus(
        &self,
        limit_bytes: u64,
        in_use: &dyn Fn(&str) -> bool,
    ) -> io::Result<Vec<String>> {
        let mut known = Vec::new();
        for key in self.keys()? {
            if let Some(built) = self.get(&key)? {
                let used = self
                    .used(&key)
                    .metadata()
                    .and_then(|facts| facts.modified());
                known.push((used.unwrap_or(SystemTime::UNIX_EPOCH), key, built.bytes)); // never used: first
            }
        }
        known.sort();
        let mut total: u64 = known.iter().map(|(_, _, bytes)| bytes).sum();
        let mut surplus = Vec::new();
        for (_, key, bytes) in known {
            if total <= limit_bytes {
                break;
            }
            if !in_use(&key) {
                total -= bytes;
                surplus.push(key);
            }
        }
        Ok(surplus)
    }

    /// Removes one: its record first, so that no half of it is ever found.
    pub(super) fn remove(&self, key: &str) -> io::Result<()> {
        match std::fs::remove_file(self.record(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        remove_tree(&self.place(key))
    }

    fn keys(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let is_key = |name: &&str| {
                name.len() == KEY_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit())
            };
            keys.extend(name.to_str().filter(is_key).map(str::to_owned));
        }
        Ok(keys)
    }
}

/// Makes a tree readable for all and writable for nobody, owned by this process's user, durable; its bytes on disk.
pub(super) fn seal(path: &Path) -> io::Result<u64> {
    let facts = path.symlink_metadata()?;
    let (user, group) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if facts.uid() != user {
        std::os::unix::fs::lchown(path, Some(user), Some(group))?;
    }
    if facts.is_symlink() {
        return Ok(0);
    }
    let mut bytes = facts.blocks() * 512; // st_blocks counts these (stat(2))
    let is_directory = facts.is_dir();
    if is_directory {
        for entry in std::fs::read_dir(path)? {
            bytes += seal(&entry?.path())?;
        }
    }
    let runs = is_directory || facts.mode() & 0o100 != 0;
    let mode = if runs { 0o555 } else { 0o444 };
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    if is_directory {
        File::open(path)?.sync_all()?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf_with(bytes: &[u64]) -> (tempfile::TempDir, Shelf, Vec<String>) {
        let root = tempfile::tempdir().unwrap();
        let shelf = Shelf {
            directory: root.path().to_owned(),
        };
        let mut keys = Vec::new();
        for (number, bytes) in bytes.iter().enumerate() {
            let key = format!("{number:032x}");
            std::fs::create_dir_all(shelf.environment(&key)).unwrap();
            let built = Built {
                key: key.clone(),
                python: "3.11.7".to_owned(),
                builder: "pip".to_owned(),
                packages: Vec::new(),
                bytes: *bytes,
                build_ms: 1,
            };
            shelf.put(&built).unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
            let used = File::open(shelf.used(&key)).unwrap();
            used.set_modified(at).unwrap();
            keys.push(key);
        }
        (root, shelf, keys)
    }

    #[test]
    fn the_least_recently_used_goes_first_and_none_that_is_in_use() {
        let (_root, shelf, keys) = shelf_with(&[10, 10, 10]);
        let none = |_: &str| false;
        assert_eq!(shelf.surplus(30, &none).unwrap(), Vec::<String>::new());
        assert_eq!(shelf.surplus(20, &none).unwrap(), [keys[0].clone()]);
        let first = |key: &str| key == keys[0];
        assert_eq!(
            shelf.surplus(15, &first).unwrap(),
            [keys[1].clone(), keys[2].clone()]
        );
        shelf.touch(&keys[0]).unwrap();
        assert_eq!(shelf.surplus(20, &none).unwrap(), [keys[1].clone()]);
    }

    #[test]
    fn what_has_no_record_is_cleared_and_the_rest_stays() {
        let (root, shelf, keys) = shelf_with(&[1]);
        let unfinished = "f".repeat(KEY_LENGTH);
        std::fs::create_dir_all(shelf.environment(&unfinished)).unwrap();
        std::fs::write(root.path().join("other"), b"").unwrap();
        shelf.clear_unfinished().unwrap();
        assert!(!shelf.place(&unfinished).exists());
        assert!(root.path().join("other").exists());
        assert_eq!(shelf.get(&keys[0]).unwrap().unwrap().key, keys[0]);
        shelf.remove(&keys[0]).unwrap();
        assert_eq!(shelf.get(&keys[0]).unwrap(), None);
    }

    #[test]
    fn a_sealed_tree_is_readable_and_closed_to_changes() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("env");
        std::fs::create_dir_all(tree.join("bin")).unwrap();
        std::fs::write(tree.join("bin/run"), vec![1; 8_192]).unwrap();
        std::fs::set_permissions(tree.join("bin/run"), Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("run", tree.join("bin/link")).unwrap();
        assert!(seal(&tree).unwrap() >= 8_192);
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode(&tree.join("bin")), 0o555);
        assert_eq!(mode(&tree.join("bin/run")), 0o555);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
