//! Segment files: `<number>-<first sequence>.segment`, runs of record frames; the last one is the open tail.

mod writer;

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};

use types::{BlobHash, MAX_FRAME_BYTES, Record, SegmentSummary, decode_frames};

use crate::error::Error;

pub(crate) use writer::{SegmentLimits, SegmentWriter};

/// A complete segment on this node's disk, ready to be stored as a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// Number in the attempt, from 0.
    pub number: u32,
    /// The file; it never changes again.
    pub path: PathBuf,
    /// BLAKE3 hash of the file.
    pub hash: BlobHash,
    /// What is in it.
    pub summary: SegmentSummary,
}

/// A segment file by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentFile {
    pub(crate) number: u32,
    pub(crate) first_sequence: u64,
    pub(crate) path: PathBuf,
}

impl SegmentFile {
    pub(crate) fn new(directory: &Path, number: u32, first_sequence: u64) -> Self {
        Self {
            number,
            first_sequence,
            path: directory.join(format!("{number:06}-{first_sequence}.segment")),
        }
    }

    fn parse(path: PathBuf) -> Option<Self> {
        // Other names are other files: none.
        let (number, first) = path
            .file_name()?
            .to_str()?
            .strip_suffix(".segment")?
            .split_once('-')?;
        Some(Self {
            number: number.parse().ok()?,
            first_sequence: first.parse().ok()?,
            path,
        })
    }
}

/// All segment files of a directory in order; none if the directory is not there.
pub(crate) fn list(directory: &Path) -> Result<Vec<SegmentFile>, Error> {
    let error = |source| Error::Read {
        path: directory.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    let mut segments = Vec::new();
    for entry in entries {
        segments.extend(SegmentFile::parse(entry.map_err(error)?.path()));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// The segment that comes after all that are there, whose last one is complete.
///
/// # Errors
/// The directory or its last segment cannot be read.
pub(crate) fn next(directory: &Path) -> io::Result<SegmentFile> {
    let segments = list(directory).map_err(io::Error::other)?;
    let Some(last) = segments.last() else {
        return Ok(SegmentFile::new(directory, 0, 0));
    };
    let end = survey(last).map_err(io::Error::other)?.summary.end_sequence;
    Ok(SegmentFile::new(directory, last.number + 1, end))
}

/// What a walk over a segment's frames found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    /// Of the whole frames.
    pub(crate) summary: SegmentSummary,
    /// Of the whole frames' bytes.
    pub(crate) hash: BlobHash,
}

/// Decodes and hashes every whole frame of a segment, one at a time, so that memory stays small.
///
/// # Errors
/// The file cannot be read, a frame is damaged, or a record is not the next one.
pub(crate) fn survey(segment: &SegmentFile) -> Result<Survey, Error> {
    let path = || segment.path.clone();
    let error = |source| Error::Read {
        path: path(),
        source,
    };
    let file = File::open(&segment.path).map_err(error)?;
    let mut left = file.metadata().map_err(error)?.len();
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut hasher = blake3::Hasher::new();
    let mut summary = SegmentSummary {
        first_sequence: segment.first_sequence,
        end_sequence: segment.first_sequence,
        ..SegmentSummary::default()
    };
    let mut frame = Vec::new();
    while left >= 4 {
        frame.resize(4, 0);
        reader.read_exact(&mut frame).map_err(error)?;
        let length = u64::from(frame_length(&frame));
        if length <= MAX_FRAME_BYTES as u64 {
            if left < 4 + length {
                break;
            }
            (&mut reader)
                .take(length)
                .read_to_end(&mut frame)
                .map_err(error)?;
        }
        let (records, _used) = decode_frames(&frame).map_err(|source| Error::Frames {
            path: path(),
            source,
        })?;
        for record in &records {
            note(&mut summary, record, &segment.path)?;
        }
        hasher.update(&frame);
        summary.bytes += frame.len() as u64;
        left -= frame.len() as u64;
    }
    let hash = BlobHash(*hasher.finalize().as_bytes());
    Ok(Survey { summary, hash })
}

fn note(summary: &mut SegmentSummary, record: &Record, path: &Path) -> Result<(), Error> {
    if record.sequence != summary.end_sequence {
        return Err(Error::Sequence {
            path: path.to_owned(),
            expected: summary.end_sequence,
            found: record.sequence,
        });
    }
    if summary.bytes == 0 {
        summary.first_at = record.at;
    }
    summary.end_sequence += 1;
    summary.last_at = record.at;
    Ok(())
}

/// Length of the payload of a frame whose first four bytes are given.
pub(crate) fn frame_length(head: &[u8]) -> u32 {
    u32::from_le_bytes([head[0], head[1], head[2], head[3]])
}

/// Describes complete segments, leaving out empty ones.
pub(crate) fn seal(segments: &[SegmentFile]) -> Result<Vec<SealedSegment>, Error> {
    let mut sealed = Vec::new();
    for segment in segments {
        let survey = survey(segment)?;
        if survey.summary.bytes > 0 {
            sealed.push(SealedSegment {
                number: segment.number,
                path: segment.path.clone(),
                hash: survey.hash,
                summary: survey.summary,
            });
        }
    }
    Ok(sealed)
}

/// Cuts a torn last frame off the last segment and makes the rest durable; returns the number after
/// the last record. For writers that died.
pub(crate) fn recover(directory: &Path) -> Result<u64, Error> {
    let Some(last) = list(directory)?.pop() else {
        return Ok(0);
    };
    let summary = survey(&last)?.summary;
    let error = |source| Error::Write {
        path: last.path.clone(),
        source,
    };
    let file = File::options()
        .write(true)
        .open(&last.path)
        .map_err(error)?;
    if file.metadata().map_err(error)?.len() > summary.bytes {
        file.set_len(summary.bytes).map_err(error)?;
    }
    file.sync_all().map_err(|source| Error::Sync {
        path: last.path.clone(),
        source,
    })?;
    Ok(summary.end_sequence)
}
