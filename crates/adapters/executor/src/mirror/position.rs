//! Where a mirror stands, what may come next, and writing it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::{MirrorChunk, MirrorPosition};
use crate::error::Error;
use crate::segment::{self, SegmentFile};

/// Durable length of the chunk's segment here.
pub(super) fn here_in(here: MirrorPosition, chunk: &MirrorChunk) -> u64 {
    if here.segment == chunk.segment {
        here.length
    } else {
        0
    }
}

/// True if the chunk has bytes that come next: in the newest segment without a hole, at the start of the
/// following one if that begins where the newest ends, or at the start of any if there is none here yet.
pub(super) fn follows(
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

pub(super) fn position_of(newest: Option<&SegmentFile>) -> Result<MirrorPosition, Error> {
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
pub(super) fn write_durably(path: &Path, length: u64, chunk: &MirrorChunk) -> Result<u64, Error> {
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
