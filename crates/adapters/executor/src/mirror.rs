//! The second copy of other nodes' unsealed records: their bytes as they come, durable, without holes.
//!
//! The owner sends the bytes of its segment files in order (see [`crate::Handle::unsealed`]); the mirror
//! answers how far it is durable. If the owner is lost, the mirror seals what it has: then its files are the
//! attempt's last segments.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use types::AttemptToken;

use crate::attempt_directory::parse_directory_name;
use crate::durable_file::sync_directory;
use crate::error::Error;
use crate::segment::{self, SealedSegment, SegmentFile};
use crate::tail::{TailRead, TailReader};

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

/// Durable length of the chunk's segment here.
fn here_in(here: MirrorPosition, chunk: &MirrorChunk) -> u64 {
    if here.segment == chunk.segment {
        here.length
    } else {
        0
    }
}

/// True if the chunk has bytes that come next: in the newest segment without a hole, at the start of the
/// following one if that begins where the newest ends, or at the start of any if there is none here yet.
fn follows(
    segments: &[SegmentFile],
    here: MirrorPosition,
    chunk: &MirrorChunk,
) -> Result<bool, Error> {
    let Some(newest) = segments.last() else {
        return Ok(chunk.offset == 0 && !chunk.bytes.is_empty());
    };
    if chunk.segment == newest.number {
        let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
        return Ok(chunk.offset <= here.length && end > here.length);
    }
    if chunk.segment != newest.number + 1 || chunk.offset != 0 || chunk.bytes.is_empty() {
        return Ok(false);
    }
    let survey = segment::survey(newest)?;
    Ok(survey.summary.end_sequence == chunk.first_sequence && survey.summary.bytes == here.length)
}

fn position_of(newest: Option<&SegmentFile>) -> Result<MirrorPosition, Error> {
    let Some(newest) = newest else {
        return Ok(MirrorPosition::default());
    };
    let length = newest
        .path
        .metadata()
        .map_err(|source| Error::Read {
            path: newest.path.clone(),
            source,
        })?
        .len();
    Ok(MirrorPosition {
        segment: newest.number,
        length,
    })
}

/// Writes what goes beyond `length`; returns the new length.
fn write_durably(path: &Path, length: u64, chunk: &MirrorChunk) -> Result<u64, Error> {
    let skip = usize::try_from(length - chunk.offset).unwrap_or(usize::MAX);
    let fresh = chunk.bytes.get(skip..).unwrap_or_default();
    let error = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(error)?;
    file.write_all_at(fresh, length).map_err(error)?;
    file.sync_data().map_err(|source| Error::Sync {
        path: path.to_owned(),
        source,
    })?;
    Ok(length + fresh.len() as u64)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::Task)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{
        BlobHash, ConsoleStream, ExperimentId, Incarnation, LogIndex, Record, RecordBody,
        Timestamp, encode_frame,
    };

    fn token() -> AttemptToken {
        AttemptToken {
            incarnation: Incarnation(1),
            experiment: ExperimentId::from_bits(5),
            attempt: 1,
            placed_at: LogIndex(2),
        }
    }

    fn frames(numbers: std::ops::Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for sequence in numbers {
            let body = RecordBody::Console {
                stream: ConsoleStream::Stdout,
                bytes: Bytes::from(format!("line {sequence}\n")),
            };
            let at = Timestamp(sequence);
            encode_frame(&Record { sequence, at, body }, &mut bytes);
        }
        bytes
    }

    fn chunk(segment: u32, first_sequence: u64, offset: usize, bytes: &[u8]) -> MirrorChunk {
        MirrorChunk {
            segment,
            first_sequence,
            offset: offset as u64,
            bytes: Bytes::copy_from_slice(bytes),
        }
    }

    fn at(segment: u32, length: usize) -> MirrorPosition {
        MirrorPosition {
            segment,
            length: length as u64,
        }
    }

    #[tokio::test]
    async fn holes_are_refused_and_repeats_change_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(directory.path()).unwrap();
        let (first, second) = (frames(0..5), frames(5..9));
        let send = |chunk| mirror.append(token(), chunk);
        // A torn piece, a hole, a repeat that overlaps, a segment too early, the rest.
        assert_eq!(send(chunk(0, 0, 3, &first[3..])).await.unwrap(), at(0, 0));
        assert_eq!(send(chunk(0, 0, 0, &first[..30])).await.unwrap(), at(0, 30));
        assert_eq!(
            send(chunk(0, 0, 40, &first[40..])).await.unwrap(),
            at(0, 30)
        );
        assert_eq!(
            send(chunk(0, 0, 10, &first[10..50])).await.unwrap(),
            at(0, 50)
        );
        assert_eq!(send(chunk(1, 5, 0, &second)).await.unwrap(), at(0, 50));
        let end = at(0, first.len());
        assert_eq!(send(chunk(0, 0, 50, &first[50..])).await.unwrap(), end);
        assert_eq!(send(chunk(1, 6, 0, &frames(6..7))).await.unwrap(), end);
        assert_eq!(send(chunk(2, 5, 0, &second)).await.unwrap(), end);
        let end = at(1, second.len());
        assert_eq!(send(chunk(1, 5, 0, &second)).await.unwrap(), end);
        assert_eq!(send(chunk(0, 0, 0, &first)).await.unwrap(), end);
        let again = Mirror::open(directory.path()).unwrap();
        assert_eq!(again.position(token()).await.unwrap(), end);
        assert_eq!(again.attempts().await.unwrap(), [token()]);
        let read = again.read(token(), 3, 1 << 20).await.unwrap();
        assert_eq!(read.frames, [frames(3..5), second].concat());
        assert!(!read.ended);
    }

    #[tokio::test]
    async fn sealing_cuts_the_torn_end_and_refuses_what_comes_late() {
        let directory = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(directory.path()).unwrap();
        let bytes = frames(0..3);
        let torn = chunk(0, 0, 0, &bytes[..bytes.len() - 1]);
        mirror.append(token(), torn).await.unwrap();
        let sealed = mirror.seal(token()).await.unwrap();
        assert_eq!(sealed[0].hash, BlobHash::of(&frames(0..2)));
        assert_eq!(sealed[0].summary.end_sequence, 2);
        assert_eq!(mirror.seal(token()).await.unwrap(), sealed);
        let late = mirror.append(token(), chunk(0, 0, 0, &bytes)).await;
        assert!(matches!(late, Err(Error::Sealed { .. })));
        assert!(mirror.read(token(), 2, 100).await.unwrap().ended);
        mirror.remove(token()).await.unwrap();
        assert_eq!(mirror.attempts().await.unwrap(), []);
    }

    #[tokio::test]
    async fn discarding_keeps_the_place_where_the_owner_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(directory.path()).unwrap();
        let (first, second) = (frames(0..5), frames(5..9));
        mirror
            .append(token(), chunk(0, 0, 0, &first))
            .await
            .unwrap();
        mirror
            .append(token(), chunk(1, 5, 0, &second))
            .await
            .unwrap();
        mirror.discard(token(), 7).await.unwrap();
        assert_eq!(mirror.position(token()).await.unwrap(), at(1, second.len()));
        assert_eq!(mirror.seal(token()).await.unwrap()[0].number, 1);
    }
}
