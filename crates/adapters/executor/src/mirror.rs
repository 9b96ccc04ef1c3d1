//! The second copy of other nodes' unsealed records: their bytes as they come, durable, without holes.
//!
//! The owner sends the bytes of its segment files in order (see [`crate::Handle::unsealed`]); the mirror
//! answers how far it is durable. If the owner is lost, the mirror seals what it has: then its files are the
//! attempt's last segments.

mod position;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use types::AttemptToken;

use crate::attempt_directory::parse_directory_name;
use crate::durable_file::sync_directory;
use crate::error::Error;
use crate::segment::{self, SealedSegment, SegmentFile};
use crate::tail::{TailRead, TailReader};
use position::{follows, here_in, position_of, write_durably};

/// Present once the records are sealed: late bytes of a lost owner are refused.
const SEALED_MARK: &str = "sealed";

/// Up to where a mirror has an attempt's records; the owner goes on from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MirrorPosition {
    /// Number of the newest segment that is here.
    pub segment: u32,
    /// Its durable bytes here.
    pub length: u64,
}

/// A piece of an owner's segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorChunk {
    /// Number of the segment.
    pub segment: u32,
    /// Number of the first record of the segment.
    pub first_sequence: u64,
    /// Where in the segment `bytes` begin.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// The mirrored records of all attempts on this node. Clones share it.
#[derive(Clone, Debug)]
pub struct Mirror {
    directory: PathBuf,
    /// One writer at a time: appends are a few per second and attempt.
    writing: Arc<Mutex<()>>,
}

impl Mirror {
    /// Opens or makes the mirror's directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(directory).map_err(|source| Error::Directory {
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self {
            directory: directory.to_owned(),
            writing: Arc::default(),
        })
    }

    /// Adds bytes and makes them durable. Bytes that are here already are not written again; bytes after a
    /// hole are not written at all. The answer says up to where the records are durable here, whatever was sent.
    ///
    /// # Errors
    /// The records are sealed, or cannot be written or made durable (then the process must end).
    pub async fn append(
        &self,
        token: AttemptToken,
        chunk: MirrorChunk,
    ) -> Result<MirrorPosition, Error> {
        let own = self.clone();
        blocking(move || own.append_now(&token, &chunk)).await
    }

    /// Up to where an attempt's records are here; the start if there are none.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn position(&self, token: AttemptToken) -> Result<MirrorPosition, Error> {
        let own = self.clone();
        blocking(move || {
            let segments = segment::list(&own.attempt(&token))?;
            position_of(segments.last())
        })
        .await
    }

    /// Records from a number on, as [`crate::Handle::read_tail`]; `ended` once sealed and read to the end.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn read(
        &self,
        token: AttemptToken,
        from_sequence: u64,
        max_bytes: usize,
    ) -> Result<TailRead, Error> {
        let own = self.clone();
        blocking(move || {
            let directory = own.attempt(&token);
            let sealed = directory.join(SEALED_MARK).exists();
            let mut read = TailReader::new(directory).read(from_sequence, max_bytes)?;
            read.ended = sealed && read.frames.is_empty();
            Ok(read)
        })
        .await
    }

    /// Ends an attempt's records here: cuts a torn last frame off, refuses all later bytes, and describes
    /// the segments. Repeats give the same.
    ///
    /// # Errors
    /// The records cannot be read, are damaged or cannot be made durable.
    pub async fn seal(&self, token: AttemptToken) -> Result<Vec<SealedSegment>, Error> {
        let own = self.clone();
        blocking(move || {
            let _writing = own.writing();
            let directory = own.make(&token)?;
            segment::recover(&directory)?;
            let mark = directory.join(SEALED_MARK);
            crate::durable_file::replace(&mark, b"")
                .map_err(|source| Error::Write { path: mark, source })?;
            segment::seal(&segment::list(&directory)?)
        })
        .await
    }

    /// Forgets segments up to and including number `through`: they are stored as blobs. The newest is kept,
    /// because it says where the owner goes on.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub async fn discard(&self, token: AttemptToken, through: u32) -> Result<(), Error> {
        let own = self.clone();
        blocking(move || {
            let _writing = own.writing();
            let mut segments = segment::list(&own.attempt(&token))?;
            segments.pop();
            for segment in segments.into_iter().filter(|old| old.number <= through) {
                std::fs::remove_file(&segment.path).map_err(|source| Error::Remove {
                    path: segment.path.clone(),
                    source,
                })?;
            }
            Ok(())
        })
        .await
    }

    /// Removes everything of an attempt: its end is committed and its records are stored.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub async fn remove(&self, token: AttemptToken) -> Result<(), Error> {
        let own = self.clone();
        blocking(move || {
            let _writing = own.writing();
            let path = own.attempt(&token);
            match std::fs::remove_dir_all(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(Error::Remove { path, source })
                }
                Ok(()) | Err(_) => Ok(()),
            }
        })
        .await
    }

    /// Attempts that have records here.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn attempts(&self) -> Result<Vec<AttemptToken>, Error> {
        let own = self.clone();
        blocking(move || {
            let error = |source| Error::Directory {
                path: own.directory.clone(),
                source,
            };
            let mut tokens = Vec::new();
            for entry in std::fs::read_dir(&own.directory).map_err(error)? {
                let name = entry.map_err(error)?.file_name();
                tokens.extend(name.to_str().and_then(parse_directory_name));
            }
            tokens.sort_unstable();
            Ok(tokens)
        })
        .await
    }

    fn attempt(&self, token: &AttemptToken) -> PathBuf {
        self.directory.join(token.directory_name())
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing
            .lock()
            .expect("no holder of this lock can panic: it only writes files")
    }

    fn make(&self, token: &AttemptToken) -> Result<PathBuf, Error> {
        let path = self.attempt(token);
        let made = std::fs::create_dir_all(&path).and_then(|()| sync_directory(&self.directory));
        match made {
            Ok(()) => Ok(path),
            Err(source) => Err(Error::Directory { path, source }),
        }
    }

    fn append_now(
        &self,
        token: &AttemptToken,
        chunk: &MirrorChunk,
    ) -> Result<MirrorPosition, Error> {
        let _writing = self.writing();
        let directory = self.attempt(token);
        if directory.join(SEALED_MARK).exists() {
            return Err(Error::Sealed { token: *token });
        }
        let segments = segment::list(&directory)?;
        let here = position_of(segments.last())?;
        if !follows(&segments, here, chunk)? {
            return Ok(here);
        }
        let known = segments
            .into_iter()
            .find(|segment| segment.number == chunk.segment);
        let is_new = known.is_none();
        let file = match known {
            Some(known) => known,
            None => SegmentFile::new(&self.make(token)?, chunk.segment, chunk.first_sequence),
        };
        let length = write_durably(&file.path, here_in(here, chunk), chunk)?;
        if is_new {
            sync_directory(&directory).map_err(|source| Error::Sync {
                path: directory,
                source,
            })?;
        }
        Ok(MirrorPosition {
            segment: chunk.segment,
            length,
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::Task)?
}

#[cfg(test)]
mod tests;
