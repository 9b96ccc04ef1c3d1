//! The node's directory: who uses it, which cluster it belongs to, and files that must survive a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use types::{ClusterId, SignedMemberList, Timestamp, codec};

/// Free bytes below which a new node does not start: its log could not be written. One that has a log starts, refuses
/// what must be written, and says so.
const MIN_FREE_BYTES: u64 = 64 << 20;

/// File that is there while the cluster has one machine and has run nothing.
const UNUSED_MARK: &str = "unused";

/// File that is there since a Raft store was made: where it is and the store is not, the store is lost.
const STORE_MARK: &str = "store";

/// The directory, locked for this process.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    root: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes and locks it.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root);
        made.with_context(|| {
            format!(
                "cannot make the data directory {}: choose another with --data-dir",
                root.display()
            )
        })?;
        let path = root.join("lock");
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| {
                format!(
                    "cannot open {}: does the directory belong to another user?",
                    path.display()
                )
            })?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            lock.read_to_string(&mut holder)
                .with_context(|| format!("read {}", path.display()))?;
            bail!(
                "the data directory {} is in use by a live node (process {}): stop that one, or give this one its own with --data-dir",
                root.display(),
                holder.trim()
            );
        }
        if root.join(service::offline::RESTORING_MARK).exists() {
            bail!(
                "a restore into {} was cut short: remove that directory and restore again",
                root.display()
            );
        }
        // Before anything is written: on a full disk nothing can be, and the store cannot even be opened.
        let raft = root.join("raft");
        let released = consensus::release_reserve(&raft, MIN_FREE_BYTES)
            .with_context(|| format!("give up the disk reserve in {}", raft.display()))?;
        if released {
            tracing::warn!(path = %raft.display(), "the disk is full: its reserve is given up");
        }
        let free = free_bytes(root)?;
        if free < MIN_FREE_BYTES && !root.join(STORE_MARK).exists() {
            bail!(
                "no disk space: {} has {} MiB free, a node needs at least {} MiB to keep its log: free some, or choose another place with --data-dir",
                root.display(),
                free >> 20,
                MIN_FREE_BYTES >> 20
            );
        }
        check_level(root)?;
        // Over what is there, at a fixed width: this needs no new block.
        lock.rewind()
            .and_then(|()| writeln!(lock, "{:<10}", std::process::id()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Self {
            root: root.to_owned(),
            _lock: lock,
        })
    }

    /// A path inside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The cluster that it belongs to.
    pub(crate) fn cluster(&self) -> anyhow::Result<Option<ClusterId>> {
        let path = self.path("cluster");
        match fs::read_to_string(&path) {
            Ok(text) => {
                Ok(Some(text.trim().parse().with_context(|| {
                    format!("{} is damaged", path.display())
                })?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Remembers the cluster, durably.
    pub(crate) fn set_cluster(&self, cluster: ClusterId) -> anyhow::Result<()> {
        let path = self.path("cluster");
        write_durably(&path, format!("{cluster}\n").as_bytes())
            .with_context(|| format!("write {}", path.display()))
    }

    /// Whether the cluster of this machine carries the mark of one that has run nothing.
    pub(crate) fn is_unused(&self) -> bool {
        self.path(UNUSED_MARK).exists()
    }

    /// Marks a cluster of one machine that has run nothing, or takes the mark away.
    pub(crate) fn set_unused(&self, unused: bool) -> io::Result<()> {
        let path = self.path(UNUSED_MARK);
        if unused {
            return write_durably(&path, b"");
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Closes everything in it to other users. They may pass through it where experiments run as one of them: their
    /// work is below `attempts`, which the executor looks after.
    pub(crate) fn close_to_others(&self) -> anyhow::Result<()> {
        let failed = || format!("close {} to other users", self.root.display());
        for entry in fs::read_dir(&self.root).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let kind = entry.file_type().with_context(failed)?;
            let mode = match (kind.is_dir(), kind.is_file()) {
                (true, _) if entry.file_name() == "attempts" => continue,
                (true, _) => 0o700,
                (_, true) => 0o600,
                (false, false) => continue,
            };
            let rights = fs::Permissions::from_mode(mode);
            match fs::set_permissions(entry.path(), rights) {
                // Somebody may be at work in it.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(failed);
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether a Raft store was ever made here.
    pub(crate) fn had_store(&self) -> bool {
        self.path(STORE_MARK).exists()
    }

    /// Remembers that there is a Raft store, durably.
    pub(crate) fn note_store(&self) -> anyhow::Result<()> {
        let path = self.path(STORE_MARK);
        if !path.exists() {
            write_durably(&path, b"").with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// Forgets a cluster that never ran anything (invariant 7); false if it may have.
    pub(crate) fn give_up_unused_cluster(&self) -> anyhow::Result<bool> {
        if !self.is_unused() {
            return Ok(false);
        }
        for name in ["raft", "mirror", "attempts"] {
            match fs::remove_dir_all(self.path(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("remove {}", self.path(name).display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        // The mark goes last: a crash before it leaves a directory that can still be given up.
        for name in ["members", "cluster.key", "cluster", STORE_MARK, UNUSED_MARK] {
            match fs::remove_file(self.path(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("remove {}", self.path(name).display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(true)
    }

    /// Puts everything of the old identity into `old-<time>/`, so that the node can join under a new key.
    pub(crate) fn put_identity_aside(&self, now: Timestamp) -> anyhow::Result<Option<PathBuf>> {
        if !self.path("node.key").exists() {
            return Ok(None);
        }
        let aside = self.path(&format!("old-{}", now.0));
        fs::create_dir(&aside).with_context(|| format!("make {}", aside.display()))?;
        // The key goes last: a crash before it leaves an identity that can still be put aside.
        for name in [
            STORE_MARK,
            "raft",
            "mirror",
            "attempts",
            "members",
            "cluster.key",
            "cluster",
            UNUSED_MARK,
            crate::removal::REMOVED_MARK,
            "node.key",
        ] {
            match fs::rename(self.path(name), aside.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("move {} aside", self.path(name).display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(Some(aside))
    }

    /// The keys of identities that were put aside, oldest first.
    pub(crate) fn keys_put_aside(&self) -> anyhow::Result<Vec<PathBuf>> {
        let read = || -> io::Result<Vec<PathBuf>> {
            let mut keys = Vec::new();
            for entry in fs::read_dir(&self.root)? {
                let entry = entry?;
                let key = entry.path().join("node.key");
                if entry.file_name().to_string_lossy().starts_with("old-") && key.is_file() {
                    keys.push(key);
                }
            }
            keys.sort();
            Ok(keys)
        };
        read().with_context(|| format!("look for old identities in {}", self.root.display()))
    }

    /// The last signed member list.
    pub(crate) fn members(&self) -> anyhow::Result<Option<SignedMemberList>> {
        let path = self.path("members");
        match fs::read(&path) {
            Ok(bytes) => {
                let list = codec::decode(&bytes, codec::MAX_MESSAGE_BYTES);
                Ok(Some(list.with_context(|| {
                    format!(
                        "{} is damaged: remove it and join again with `muster up --join <token>`",
                        path.display()
                    )
                })?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Free bytes of its file system.
    pub(crate) fn free_bytes(&self) -> anyhow::Result<u64> {
        free_bytes(&self.root)
    }
}

/// Refuses what a newer program has used: its stored forms may have variants that look like damage here. Remembers the
/// level of this one.
fn check_level(root: &Path) -> anyhow::Result<()> {
    let path = root.join("level");
    let found = match fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse::<u32>()
            .with_context(|| format!("{} is damaged", path.display()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let known = codec::DATA_LEVEL;
    if found > known {
        bail!(
            "{} was used by a newer muster: its data has level {found}, and muster {} knows up to {known}; nothing is damaged, and nothing was changed: start the newer muster, or join as a new machine with `muster up --rejoin <token>`",
            root.display(),
            env!("CARGO_PKG_VERSION")
        );
    }
    if found > 0 && found < codec::OLDEST_LEVEL {
        bail!(
            "{} was used by an older muster: its data has level {found}, and muster {} reads from {} on; nothing was changed: start the muster that wrote it, or take another directory (before the first release stored forms may change)",
            root.display(),
            env!("CARGO_PKG_VERSION"),
            codec::OLDEST_LEVEL
        );
    }
    if found < known {
        write_durably(&path, format!("{known}\n").as_bytes())
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn free_bytes(path: &Path) -> anyhow::Result<u64> {
    let stat = rustix::fs::statvfs(path)
        .with_context(|| format!("look at the disk of {}", path.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Writes a file that is there whole or not at all, readable by the owner alone.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_a_newer_program_is_refused_by_level_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        drop(DataDirectory::open(directory.path()).unwrap());
        let level = directory.path().join("level");
        let own = fs::read_to_string(&level).unwrap();
        assert_eq!(own.trim(), codec::DATA_LEVEL.to_string());
        fs::write(&level, "999\n").unwrap();
        let error = DataDirectory::open(directory.path()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("level 999") && error.contains("nothing is damaged"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&level).unwrap(), "999\n");
        fs::write(&level, "1\n").unwrap();
        let error = DataDirectory::open(directory.path()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("level 1") && error.contains("nothing was changed"),
            "{error}"
        );
    }

    #[test]
    fn a_second_node_in_the_same_directory_is_told_who_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = DataDirectory::open(directory.path()).unwrap();
        let error = DataDirectory::open(directory.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(first);
        DataDirectory::open(directory.path()).unwrap();
    }
}
