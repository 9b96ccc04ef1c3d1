//! A blob being written: hashed on the way, moved to its name only when whole, durable and right.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use types::BlobHash;

use crate::Error;
use crate::store::{Store, lock, remove_if_there, sync_parent};

/// Free space is looked at again after this many bytes: rare enough to cost nothing, often enough that one
/// writer cannot pass the reserve by more.
const ROOM_CHECK_BYTES: u64 = 64 << 20;
/// Buffer for reading files back: a few reads per megabyte.
pub(crate) const READ_BUFFER_BYTES: usize = 1 << 20;
/// Mode of a finished blob: its bytes never change.
const FINISHED_MODE: u32 = 0o444;

/// An unfinished file. Dropped, it is removed, unless it is a partial that a later fetch resumes.
#[derive(Debug)]
pub(crate) struct Draft {
    store: Arc<Store>,
    file: File,
    path: PathBuf,
    hasher: Box<blake3::Hasher>,
    written: u64,
    room_checked_at: u64,
    /// Name of the partial that this draft holds.
    partial_of: Option<BlobHash>,
    removed_on_drop: bool,
}

impl Draft {
    /// An empty draft for a blob of about `bytes`.
    pub(crate) fn new(store: Arc<Store>, bytes: u64) -> Result<Self, Error> {
        store.check_length(bytes)?;
        store.check_room(bytes)?;
        let path = store.draft_path();
        let file = create_new(&path)?;
        Ok(Self {
            store,
            file,
            path,
            hasher: Box::default(),
            written: 0,
            room_checked_at: 0,
            partial_of: None,
            removed_on_drop: true,
        })
    }

    /// The partial of `hash` with what an earlier fetch left in it, read again so that the hash covers it;
    /// none if another fetch uses it now.
    pub(crate) fn resume(store: &Arc<Store>, hash: BlobHash) -> Result<Option<Self>, Error> {
        if !lock(&store.claimed).insert(hash) {
            return Ok(None);
        }
        let opened = Self::open_partial(Arc::clone(store), hash);
        if opened.is_err() {
            lock(&store.claimed).remove(&hash);
        }
        opened.map(Some)
    }

    fn open_partial(store: Arc<Store>, hash: BlobHash) -> Result<Self, Error> {
        let path = store.partial_path(&hash);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::create(&path, e))?;
        let mut hasher = Box::<blake3::Hasher>::default();
        let written = hash_rest(&mut file, &mut hasher).map_err(|e| Error::read(&path, e))?;
        Ok(Self {
            store,
            file,
            path,
            hasher,
            written,
            room_checked_at: written,
            partial_of: Some(hash),
            removed_on_drop: false,
        })
    }

    /// Bytes in it.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(bytes)
            .map_err(|e| Error::write(&self.path, e))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        self.store.check_length(self.written)?;
        if self.written - self.room_checked_at >= ROOM_CHECK_BYTES {
            self.room_checked_at = self.written;
            self.store.check_room(0)?;
        }
        Ok(())
    }

    /// Takes over the content of `source`, sharing its blocks where the file system can, else copying.
    pub(crate) fn copy_from(&mut self, source: &mut File, source_path: &Path) -> Result<(), Error> {
        if rustix::fs::ioctl_ficlone(&self.file, &*source).is_ok() {
            self.written = hash_rest(&mut self.file, &mut self.hasher)
                .map_err(|e| Error::read(&self.path, e))?;
            return self.store.check_length(self.written);
        }
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.write(&buffer[..count])?,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::read(source_path, e)),
            }
        }
    }

    /// Checks the hash, makes the bytes durable and gives them their name.
    ///
    /// # Errors
    /// The hash is not `expected`, or a step on the disk failed; the draft is then gone.
    pub(crate) fn finish(mut self, expected: Option<BlobHash>) -> Result<(BlobHash, u64), Error> {
        self.removed_on_drop = true;
        let found = BlobHash(*self.hasher.finalize().as_bytes());
        if let Some(expected) = expected
            && expected != found
        {
            return Err(Error::HashMismatch { expected, found });
        }
        if self.store.adopt(&found)? {
            return Ok((found, self.written));
        }
        make_read_only(&self.file, &self.path)?;
        self.file
            .sync_all()
            .map_err(|e| Error::sync(&self.path, e))?;
        self.store.place(&[(found, self.path.clone())])?;
        self.removed_on_drop = false;
        let path = self.store.path(&found);
        self.store.confirm(&[found], || sync_parent(&path))?;
        Ok((found, self.written))
    }

    /// Removes it, a partial too.
    pub(crate) fn discard(mut self) {
        self.removed_on_drop = true;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.removed_on_drop
            && let Err(error) = remove_if_there(&self.path)
        {
            // The next open removes it; until then it only takes space.
            tracing::warn!(path = %self.path.display(), %error, "unfinished blob was not removed");
        }
        if let Some(hash) = self.partial_of {
            lock(&self.store.claimed).remove(&hash);
        }
    }
}

/// Makes a new file that only this process knows.
pub(crate) fn create_new(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|e| Error::create(path, e))
}

/// Gives a finished file its mode.
pub(crate) fn make_read_only(file: &File, path: &Path) -> Result<(), Error> {
    file.set_permissions(Permissions::from_mode(FINISHED_MODE))
        .map_err(|e| Error::write(path, e))
}

/// Hashes from the file's position to its end; returns the bytes read.
pub(crate) fn hash_rest(file: &mut File, hasher: &mut blake3::Hasher) -> std::io::Result<u64> {
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    let mut total = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                total += count as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Writes one whole file that nobody sees yet.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<File, Error> {
    let mut file = create_new(path)?;
    let written = file.write_all(bytes).map_err(|e| Error::write(path, e));
    let finished = written.and_then(|()| make_read_only(&file, path));
    if let Err(error) = finished {
        // Best effort: the first error is the one to tell, and the next open removes the file.
        drop(fs::remove_file(path));
        return Err(error);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn full_disk_is_told_apart_from_other_failures() {
        let directory = tempfile::tempdir().unwrap();
        let store = crate::open(Config::new(directory.path().to_path_buf())).unwrap();
        let mut draft = Draft::new(store.store, 1).unwrap();
        draft.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = draft.write(b"x").unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("drafts/0") && text.contains("free space"),
            "{text}"
        );
    }

    #[test]
    fn dropped_draft_leaves_nothing_and_a_partial_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = crate::open(Config::new(directory.path().to_path_buf()))
            .unwrap()
            .store;
        let draft = Draft::new(Arc::clone(&store), 1).unwrap();
        let path = draft.path.clone();
        assert!(path.exists());
        drop(draft);
        assert!(!path.exists());

        let hash = BlobHash::of(b"half a blob");
        let mut partial = Draft::resume(&store, hash).unwrap().unwrap();
        assert!(Draft::resume(&store, hash).unwrap().is_none(), "in use");
        partial.write(b"half ").unwrap();
        drop(partial);
        let mut partial = Draft::resume(&store, hash).unwrap().unwrap();
        assert_eq!(partial.written(), 5);
        partial.write(b"a blob").unwrap();
        assert_eq!(partial.finish(Some(hash)).unwrap(), (hash, 11));
        assert!(!store.partial_path(&hash).exists());
    }
}
