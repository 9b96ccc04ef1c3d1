//! Putting blobs into the store.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::{JoinHandle, spawn_blocking};
use types::BlobHash;

use crate::draft::{Draft, write_whole};
use crate::store::{Store, blocking, remove_if_there};
use crate::{Error, Handle};

/// Bytes per step of a stream: two such buffers are held, one being filled, one being written.
const STREAM_BUFFER_BYTES: usize = 1 << 20;
/// From this many files on, two flushes of the file system beat two per file (1,000 files of 4 KiB took 41 ms
/// against 159 ms, 4 files the same; ext4, November 2026), and fewer are not worth flushing others' data.
const SYNC_ALL_FROM: usize = 8;
/// Threads that write the files of one batch: the directory's lock allows little more.
const BATCH_THREADS: usize = 4;

impl Handle {
    /// Stores `bytes`; `Ok` means that they are on the disk under their name. Already there: a cheap no-op
    /// that pins them for another 24 h.
    ///
    /// # Errors
    /// The disk is full, below the reserve or failing, or the bytes are too many.
    pub async fn put_bytes(&self, bytes: Bytes) -> Result<BlobHash, Error> {
        let store = Arc::clone(&self.store);
        blocking(move || {
            let hash = BlobHash::of(&bytes);
            if store.adopt(&hash)? {
                return Ok(hash);
            }
            let mut draft = Draft::new(store, bytes.len() as u64)?;
            draft.write(&bytes)?;
            draft.finish(Some(hash)).map(|(hash, _bytes)| hash)
        })
        .await
    }

    /// Stores many small blobs with few flushes; all are durable when it returns `Ok`, and after an error
    /// each is either whole or absent.
    ///
    /// # Errors
    /// As [`Handle::put_bytes`], or bytes that do not match their name.
    pub async fn put_many(&self, blobs: Vec<(BlobHash, Bytes)>) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        let wanted = blobs.into_iter().collect::<BTreeMap<_, _>>();
        let absent = blocking(move || keep_absent(&store, wanted)).await?;
        if absent.is_empty() {
            return Ok(());
        }
        let drafts = self.write_drafts(absent).await?;
        let store = Arc::clone(&self.store);
        blocking(move || place_drafts(&store, drafts)).await
    }

    /// Stores what `reader` gives until its end, in bounded memory.
    ///
    /// # Errors
    /// As [`Handle::put_bytes`], the reader fails, or the hash is not `expected`: nothing is then kept.
    pub async fn put_stream<R: AsyncRead + Unpin + Send>(
        &self,
        expected: Option<BlobHash>,
        mut reader: R,
    ) -> Result<(BlobHash, u64), Error> {
        let store = Arc::clone(&self.store);
        let draft = blocking(move || Draft::new(store, 0)).await?;
        let draft = fill(draft, &mut reader, u64::MAX, None).await?;
        blocking(move || draft.finish(expected)).await
    }

    /// Stores a copy of the file at `path` as it is while being read; blocks are shared where the file
    /// system can (reflink).
    ///
    /// # Errors
    /// As [`Handle::put_bytes`], or the file cannot be read.
    pub async fn put_file(&self, path: &Path) -> Result<(BlobHash, u64), Error> {
        let store = Arc::clone(&self.store);
        let path = path.to_path_buf();
        blocking(move || {
            let mut source = File::open(&path).map_err(|e| Error::read(&path, e))?;
            let metadata = source.metadata().map_err(|e| Error::read(&path, e))?;
            let mut draft = Draft::new(store, metadata.len())?;
            draft.copy_from(&mut source, &path)?;
            draft.finish(None)
        })
        .await
    }

    async fn write_drafts(&self, absent: Vec<(BlobHash, Bytes)>) -> Result<WrittenDrafts, Error> {
        let share = absent.len().div_ceil(BATCH_THREADS);
        let tasks: Vec<_> = absent
            .chunks(share)
            .map(|part| {
                let (store, part) = (Arc::clone(&self.store), part.to_vec());
                spawn_blocking(move || write_part(&store, part))
            })
            .collect();
        let mut drafts = WrittenDrafts::default();
        let mut failed = None;
        for task in tasks {
            // Every part is awaited, so that the files of all are known and removed if one fails.
            match task.await {
                Ok((part, result)) => {
                    drafts.files.extend(part);
                    failed = failed.or(result.err());
                }
                Err(e) => failed = failed.or(Some(Error::Task(e))),
            }
        }
        failed.map_or(Ok(drafts), Err)
    }
}

/// Written files without a name yet; those still here when dropped are removed.
#[derive(Debug, Default)]
struct WrittenDrafts {
    files: Vec<(BlobHash, PathBuf)>,
}

impl Drop for WrittenDrafts {
    fn drop(&mut self) {
        for (_hash, path) in &self.files {
            if let Err(error) = remove_if_there(path) {
                // The next open removes it; until then it only takes space.
                tracing::warn!(path = %path.display(), %error, "unfinished blob was not removed");
            }
        }
    }
}

fn keep_absent(
    store: &Store,
    wanted: BTreeMap<BlobHash, Bytes>,
) -> Result<Vec<(BlobHash, Bytes)>, Error> {
    let mut absent = Vec::with_capacity(wanted.len());
    for (hash, bytes) in wanted {
        store.check_length(bytes.len() as u64)?;
        if !store.adopt(&hash)? {
            absent.push((hash, bytes));
        }
    }
    let total = absent.iter().map(|(_hash, bytes)| bytes.len() as u64).sum();
    if total > 0 {
        store.check_room(total)?;
    }
    Ok(absent)
}

/// Writes files until one fails; returns those that exist and the failure.
fn write_part(
    store: &Store,
    part: Vec<(BlobHash, Bytes)>,
) -> (Vec<(BlobHash, PathBuf)>, Result<(), Error>) {
    let mut files = Vec::with_capacity(part.len());
    for (expected, bytes) in part {
        let found = BlobHash::of(&bytes);
        if found != expected {
            return (files, Err(Error::HashMismatch { expected, found }));
        }
        let path = store.draft_path();
        if let Err(error) = write_whole(&path, &bytes) {
            return (files, Err(error));
        }
        files.push((expected, path));
    }
    (files, Ok(()))
}

/// Durable bytes first, then names, then durable names: a power cut never leaves a name without its bytes.
fn place_drafts(store: &Store, mut drafts: WrittenDrafts) -> Result<(), Error> {
    let hashes: Vec<_> = drafts.files.iter().map(|(hash, _path)| *hash).collect();
    if hashes.len() < SYNC_ALL_FROM {
        for (_hash, path) in &drafts.files {
            let sync = || File::open(path)?.sync_all();
            sync().map_err(|e| Error::sync(path, e))?;
        }
        store.place(&drafts.files)?;
        store.confirm(&hashes, || {
            hashes
                .iter()
                .try_for_each(|hash| crate::store::sync_parent(&store.path(hash)))
        })?;
    } else {
        store.sync_all()?;
        store.place(&drafts.files)?;
        store.confirm(&hashes, || store.sync_all())?;
    }
    drafts.files.clear();
    Ok(())
}

/// Appends up to `length` bytes of `reader` to `draft`: one buffer is filled while the other is hashed and
/// written. With `idle`, a reader that gives nothing for that long is an error.
pub(crate) async fn fill<R: AsyncRead + Unpin + Send>(
    draft: Draft,
    reader: &mut R,
    length: u64,
    idle: Option<Duration>,
) -> Result<Draft, Error> {
    let mut reader = reader.take(length);
    let mut writing: JoinHandle<Result<Draft, Error>> = spawn_blocking(move || Ok(draft));
    loop {
        let mut buffer = BytesMut::with_capacity(STREAM_BUFFER_BYTES);
        let read = fill_buffer(&mut reader, &mut buffer, idle).await;
        // Awaited before a failed read is told, so that a partial is released and can be resumed at once.
        let mut draft = writing.await.unwrap_or_else(|e| Err(Error::Task(e)))?;
        if buffer.is_empty() {
            return read.map(|()| draft);
        }
        writing = spawn_blocking(move || draft.write(&buffer).map(|()| draft));
        if let Err(error) = read {
            writing.await.unwrap_or_else(|e| Err(Error::Task(e)))?;
            return Err(error);
        }
    }
}

/// Reads until the buffer is full or the reader ends.
async fn fill_buffer<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut BytesMut,
    idle: Option<Duration>,
) -> Result<(), Error> {
    while buffer.len() < STREAM_BUFFER_BYTES {
        let read = reader.read_buf(buffer);
        let count = match idle {
            None => read.await,
            Some(limit) => match tokio::time::timeout(limit, read).await {
                Ok(result) => result,
                Err(_elapsed) => return Err(Error::stalled()),
            },
        };
        if count.map_err(Error::Stream)? == 0 {
            break;
        }
    }
    Ok(())
}
