//! Pins, and removing what nobody wants.

use std::fs::{self, DirEntry};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use types::{BlobHash, DurationMs, Timestamp};

use crate::chunks::chunks_path;
use crate::store::{Store, remove_if_there, renew_pin};
use crate::{Error, Handle};

/// How long a put protects a blob: commands that name it are proposed long before (invariant 16).
const PIN: Duration = Duration::from_secs(24 * 3600);
const PIN_MS: DurationMs = DurationMs::from_secs(24 * 3600);
/// A pin is renewed when this much of it is over.
const FRESH_MS: DurationMs = DurationMs::from_secs(3600);
/// Damaged bytes are kept for a person this long.
const DAMAGED_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Handle {
    /// Protects a blob against collection until `until` (never shortens a pin; survives a restart). Returns
    /// whether it is here.
    ///
    /// # Errors
    /// Its file cannot be changed.
    pub fn pin(&self, hash: &BlobHash, until: Timestamp) -> Result<bool, Error> {
        let names = self.store.lock_names();
        if !self.store.has(hash) {
            return Ok(false);
        }
        // A blob is pinned for 24 h from its file's time: a later end is a later file's time.
        let counted_from = system_time(until - PIN_MS);
        renew_pin(&self.store.path(hash), counted_from, Duration::ZERO)?;
        drop(names);
        Ok(true)
    }

    /// Protects a blob for another 24 h, unless it is protected for nearly that long. Returns whether it is here.
    ///
    /// # Errors
    /// Its file cannot be changed.
    pub fn renew(&self, hash: &BlobHash, now: Timestamp) -> Result<bool, Error> {
        let fresh = now + DurationMs(PIN_MS.0 - FRESH_MS.0);
        if self.pinned_until(hash).is_some_and(|until| until >= fresh) {
            return Ok(true);
        }
        self.pin(hash, now + PIN_MS)
    }

    /// All blobs that are here, in the order of their names. Blocks: call it on a blocking thread.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn list(&self) -> Result<Vec<BlobHash>, Error> {
        let mut hashes = Vec::new();
        for shard in 0..=255_u8 {
            let shard = format!("{shard:02x}");
            let directory = self.store.config.directory.join(&shard);
            for entry in fs::read_dir(&directory).map_err(|e| Error::read(&directory, e))? {
                let name = entry.map_err(|e| Error::read(&directory, e))?.file_name();
                let name = name.to_string_lossy();
                // Chunk indexes and damaged bytes have other names.
                hashes.extend(format!("{shard}{name}").parse::<BlobHash>().ok());
            }
        }
        hashes.sort_unstable();
        Ok(hashes)
    }

    /// Until when the blob is pinned; none if it is not here.
    #[must_use]
    pub fn pinned_until(&self, hash: &BlobHash) -> Option<Timestamp> {
        let modified = fs::metadata(self.store.path(hash)).ok()?.modified().ok()?; // unreadable counts as absent
        let until = (modified + PIN).duration_since(UNIX_EPOCH).ok()?; // before 1970: long over
        Some(Timestamp(u64::try_from(until.as_millis()).ok()?)) // 584 million years
    }

    /// Removes blobs that are neither wanted nor pinned at `now`, partial fetches nobody resumed for 24 h and
    /// damaged bytes older than a week. Blocks: call it on a blocking thread.
    ///
    /// # Errors
    /// A directory cannot be read or a file not removed; what was removed before stays removed.
    pub fn collect(
        &self,
        wanted: &dyn Fn(BlobHash) -> bool,
        now: Timestamp,
    ) -> Result<Collected, Error> {
        let now = system_time(now);
        let mut collected = Collected::default();
        for shard in 0..=255_u8 {
            let shard = format!("{shard:02x}");
            let directory = self.store.config.directory.join(&shard);
            for entry in fs::read_dir(&directory).map_err(|e| Error::read(&directory, e))? {
                let entry = entry.map_err(|e| Error::read(&directory, e))?;
                let bytes = self.store.collect_entry(&shard, &entry, wanted, now)?;
                collected.blobs += u64::from(bytes.is_some());
                collected.bytes += bytes.unwrap_or_default();
            }
        }
        self.store.collect_partials(now)?;
        Ok(collected)
    }
}

impl Store {
    /// Removes the entry if it may go; returns the bytes of a removed blob.
    fn collect_entry(
        &self,
        shard: &str,
        entry: &DirEntry,
        wanted: &dyn Fn(BlobHash) -> bool,
        now: SystemTime,
    ) -> Result<Option<u64>, Error> {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else {
            return Ok(None);
        };
        if name.ends_with(".damaged") {
            if !younger_than(&path, DAMAGED_KEPT, now)? {
                remove_if_there(&path)?;
            }
            return Ok(None);
        }
        let Ok(hash) = format!("{shard}{name}").parse::<BlobHash>() else {
            // A chunk index goes with its blob; anything else is not ours.
            return Ok(None);
        };
        if wanted(hash) {
            return Ok(None);
        }
        // Looked at under the lock: a put that came meanwhile has renewed the pin.
        let names = self.lock_names();
        if younger_than(&path, PIN, now)? {
            return Ok(None);
        }
        let bytes = self.size(&hash);
        remove_if_there(&path)?;
        remove_if_there(&chunks_path(path))?;
        drop(names);
        Ok(bytes)
    }

    fn collect_partials(&self, now: SystemTime) -> Result<(), Error> {
        let directory = self.config.directory.join("partial");
        for entry in fs::read_dir(&directory).map_err(|e| Error::read(&directory, e))? {
            let path = entry.map_err(|e| Error::read(&directory, e))?.path();
            if !younger_than(&path, PIN, now)? {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }
}

fn younger_than(path: &Path, age: Duration, now: SystemTime) -> Result<bool, Error> {
    match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(modified) => Ok(modified + age > now),
        // Gone meanwhile: nothing to remove.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(Error::read(path, e)),
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(time.0)
}
