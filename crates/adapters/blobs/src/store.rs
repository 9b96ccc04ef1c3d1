//! The store on disk: layout, names, locks, durability of names.
//!
//! Layout: `ab/cdef…` a blob (two and 62 hexadecimal digits), `ab/cdef….chunks` its cached chunk index,
//! `ab/cdef….damaged` bytes that no longer matched, `drafts/` unfinished writes (emptied at open),
//! `partial/` unfinished fetches of large blobs (resumed later).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use types::BlobHash;

use crate::{Config, Error};

/// A put moves the file's time to now only when it is older than this: the pin of 24 h loses at most
/// this much, and repeats write nothing.
const PIN_RENEWAL: Duration = Duration::from_secs(3600);

/// The open store; clones share it.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) store: Arc<Store>,
}

/// Opens the store in `config.directory`, making it if missing and removing unfinished writes.
///
/// # Errors
/// The directory cannot be made or read, or another process has it open.
pub fn open(config: Config) -> Result<Handle, Error> {
    let store = Store::open(config)?;
    Ok(Handle {
        store: Arc::new(store),
    })
}

impl Handle {
    /// Whether the blob is here. It is no promise that it stays: a put or [`Handle::pin`] is.
    #[must_use]
    pub fn has(&self, hash: &BlobHash) -> bool {
        self.store.has(hash)
    }

    /// Those of `hashes` that are not here, in their order.
    #[must_use]
    pub fn missing(&self, hashes: &[BlobHash]) -> Vec<BlobHash> {
        let absent = |hash: &&BlobHash| !self.store.has(hash);
        hashes.iter().filter(absent).copied().collect()
    }

    /// The local file of a blob (mode 0444), whether it exists or not. Never write to it.
    #[must_use]
    pub fn path(&self, hash: &BlobHash) -> PathBuf {
        self.store.path(hash)
    }

    /// Bytes of a blob, none if it is not here.
    #[must_use]
    pub fn size(&self, hash: &BlobHash) -> Option<u64> {
        self.store.size(hash)
    }
}

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) config: Config,
    /// Locked around every look at a name that is acted on, every rename and every removal; holds the
    /// names whose directory entry is not durable yet.
    unsynced: Mutex<BTreeSet<BlobHash>>,
    /// Partial files in use by a running fetch.
    pub(crate) claimed: Mutex<BTreeSet<BlobHash>>,
    /// Whether names left by an earlier process are known to be durable.
    earlier_synced: Mutex<bool>,
    next_draft: AtomicU64,
    /// The open directory: holds the lock for as long as the store lives.
    root: File,
}

impl Store {
    fn open(config: Config) -> Result<Self, Error> {
        let directory = &config.directory;
        fs::create_dir_all(directory).map_err(|e| Error::create(directory, e))?;
        let root = File::open(directory).map_err(|e| Error::read(directory, e))?;
        lock_directory(&root, directory)?;
        for name in ["drafts".to_owned(), "partial".to_owned()]
            .into_iter()
            .chain((0..=255_u8).map(|shard| format!("{shard:02x}")))
        {
            make_directory(&directory.join(name))?;
        }
        let drafts = directory.join("drafts");
        for entry in fs::read_dir(&drafts).map_err(|e| Error::read(&drafts, e))? {
            let path = entry.map_err(|e| Error::read(&drafts, e))?.path();
            fs::remove_file(&path).map_err(|e| Error::remove(&path, e))?;
        }
        root.sync_all().map_err(|e| Error::sync(directory, e))?;
        Ok(Self {
            unsynced: Mutex::default(),
            claimed: Mutex::default(),
            earlier_synced: Mutex::default(),
            next_draft: AtomicU64::new(0),
            root,
            config,
        })
    }

    pub(crate) fn path(&self, hash: &BlobHash) -> PathBuf {
        let text = hash.to_string();
        self.config.directory.join(&text[..2]).join(&text[2..])
    }

    pub(crate) fn partial_path(&self, hash: &BlobHash) -> PathBuf {
        self.config.directory.join("partial").join(hash.to_string())
    }

    /// A name for an unfinished file that nobody else uses.
    pub(crate) fn draft_path(&self) -> PathBuf {
        let number = self.next_draft.fetch_add(1, Ordering::Relaxed);
        self.config
            .directory
            .join("drafts")
            .join(number.to_string())
    }

    pub(crate) fn has(&self, hash: &BlobHash) -> bool {
        self.size(hash).is_some()
    }

    pub(crate) fn size(&self, hash: &BlobHash) -> Option<u64> {
        let metadata = fs::symlink_metadata(self.path(hash)).ok()?; // unreadable counts as absent: a put or get tells why
        metadata.is_file().then_some(metadata.len())
    }

    /// Refuses a write of `bytes` that would use the reserve.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), Error> {
        let directory = &self.config.directory;
        let disk =
            rustix::fs::fstatvfs(&self.root).map_err(|e| Error::read(directory, e.into()))?;
        let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        let reserve_bytes = self.config.reserve_free_bytes;
        if free_bytes < reserve_bytes.saturating_add(bytes) {
            return Err(Error::BelowReserve {
                path: directory.clone(),
                free_bytes,
                wanted_bytes: bytes,
                reserve_bytes,
            });
        }
        Ok(())
    }

    /// Refuses a blob that is too large.
    pub(crate) fn check_length(&self, bytes: u64) -> Result<(), Error> {
        let limit = self.config.max_blob_bytes;
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        Ok(())
    }

    /// If the blob is here: pins it for another 24 h, makes sure that it is durable, and returns true.
    pub(crate) fn adopt(&self, hash: &BlobHash) -> Result<bool, Error> {
        let path = self.path(hash);
        let dirty = {
            let unsynced = self.lock_names();
            if !self.has(hash) {
                return Ok(false);
            }
            renew_pin(&path, SystemTime::now(), PIN_RENEWAL)?;
            unsynced.contains(hash)
        };
        if dirty {
            // Another put has renamed it and is still syncing: its bytes are durable, its name may not be.
            sync_parent(&path)?;
        } else {
            self.sync_earlier()?;
        }
        Ok(true)
    }

    /// Moves durable files to their names. The names are durable when [`Store::confirm`] returned.
    pub(crate) fn place(&self, files: &[(BlobHash, PathBuf)]) -> Result<(), Error> {
        let mut unsynced = self.lock_names();
        for (hash, draft) in files {
            let path = self.path(hash);
            fs::rename(draft, &path).map_err(|e| Error::rename(&path, e))?;
            unsynced.insert(*hash);
        }
        Ok(())
    }

    /// Syncs the names that [`Store::place`] made with `sync`; a failed sync removes them.
    pub(crate) fn confirm(
        &self,
        hashes: &[BlobHash],
        sync: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let synced = sync();
        let mut unsynced = self.lock_names();
        for hash in hashes {
            unsynced.remove(hash);
            if synced.is_err() {
                remove_if_there(&self.path(hash))?;
            }
        }
        synced
    }

    /// Flushes the whole file system of the store. Since Linux 5.8 it also reports failed write-back.
    pub(crate) fn sync_all(&self) -> Result<(), Error> {
        rustix::fs::syncfs(&self.root).map_err(|e| Error::sync(&self.config.directory, e.into()))
    }

    /// Makes names durable that a killed process may have left between rename and sync; once per process,
    /// and only when the first such name is met.
    fn sync_earlier(&self) -> Result<(), Error> {
        let mut done = lock(&self.earlier_synced);
        if !*done {
            self.sync_all()?;
            *done = true;
        }
        Ok(())
    }

    /// The lock over names.
    pub(crate) fn lock_names(&self) -> MutexGuard<'_, BTreeSet<BlobHash>> {
        lock(&self.unsynced)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Said, not left to the closing: a process that is being started just now holds a copy of the descriptor.
        if let Err(error) = self.root.unlock() {
            tracing::warn!(%error, "blob store was not unlocked");
        }
    }
}

/// Locks; a panic elsewhere cannot leave these sets half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the file's time, from which its pin counts, unless it is already later than `at` less `slack`.
pub(crate) fn renew_pin(path: &Path, at: SystemTime, slack: Duration) -> Result<(), Error> {
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    let metadata = file.metadata().map_err(|e| Error::read(path, e))?;
    let modified = metadata.modified().map_err(|e| Error::read(path, e))?;
    if modified + slack < at {
        file.set_modified(at).map_err(|e| Error::write(path, e))?;
    }
    Ok(())
}

/// Makes the directory entry of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path
        .parent()
        .expect("a blob's path has its shard before it");
    let sync = || File::open(parent)?.sync_all();
    sync().map_err(|e| Error::sync(parent, e))
}

/// Removes a file; one that is not there is no failure.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::remove(path, e)),
        _ => Ok(()),
    }
}

/// Runs file work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::Task(e)))
}

fn lock_directory(root: &File, directory: &Path) -> Result<(), Error> {
    root.try_lock().map_err(|refused| Error::InUse {
        path: directory.to_path_buf(),
        source: refused.into(),
    })
}

fn make_directory(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::create(path, e)),
        _ => Ok(()),
    }
}
