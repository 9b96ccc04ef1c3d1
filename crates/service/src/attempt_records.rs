//! The records of one attempt in order, for any reader: what is stored of it, then what its owner or its mirror still has.

use state_machine::Attempt;
use types::{Record, SegmentRef, decode_frames};

use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;

/// Largest sealed segment that is read into memory: 16 MiB and a last frame.
const MAX_SEGMENT_BYTES: u64 = 20 << 20;

/// Where a reader is in the records of a rank, as its attempt was when the reader was made.
pub(crate) struct RecordReader<'a> {
    handle: &'a Handle,
    attempt: &'a Attempt,
    rank: u32,
    /// Number of the next record.
    next: u64,
    /// By range, not by when they were named: a seal that failed at first is named late.
    segments: std::vec::IntoIter<&'a SegmentRef>,
    has_read_inline: bool,
}

/// A part of what is stored.
#[derive(Clone, Copy)]
pub(crate) enum Piece<'a> {
    /// A sealed segment, a blob.
    Segment(&'a SegmentRef),
    /// What travelled in the report.
    Inline,
}

impl<'a> RecordReader<'a> {
    /// Starts at record `next` of a rank.
    pub(crate) fn new(handle: &'a Handle, (attempt, rank): (&'a Attempt, u32), next: u64) -> Self {
        let segments = attempt.segments.iter();
        let mut segments: Vec<_> = segments.filter(|segment| segment.rank == rank).collect();
        segments
            .sort_by_key(|segment| (segment.summary.first_sequence, segment.summary.end_sequence));
        Self {
            handle,
            attempt,
            rank,
            next,
            segments: segments.into_iter(),
            has_read_inline: false,
        }
    }

    /// Nothing more will come.
    pub(crate) fn is_over(&self) -> bool {
        let rank = self.attempt.rank(self.rank);
        self.attempt.end.is_some() || rank.is_none_or(|rank| rank.ended)
    }

    /// Number of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The next part of what is stored; none when the rest is only with owner and mirror.
    pub(crate) fn next_piece(&mut self) -> Option<Piece<'a>> {
        for segment in self.segments.by_ref() {
            if segment.summary.end_sequence <= self.next {
                continue;
            }
            if segment.summary.first_sequence > self.next && !self.is_over() {
                self.segments = Vec::new().into_iter(); // What is between is still in the live tail.
                break;
            }
            return Some(Piece::Segment(segment));
        }
        let is_new = !std::mem::replace(&mut self.has_read_inline, true);
        is_new.then_some(Piece::Inline)
    }

    /// The records of a piece, without those that came before.
    pub(crate) async fn read(&mut self, piece: Piece<'_>) -> Result<Vec<Record>, ServiceError> {
        match piece {
            Piece::Segment(segment) => {
                let bytes = segment_bytes(self.handle, segment).await?;
                self.take(&bytes)
            }
            Piece::Inline => self.take(&self.attempt.inline_records),
        }
    }

    /// Goes past a segment whose records are known.
    pub(crate) fn skip(&mut self, segment: &SegmentRef) {
        self.next = self.next.max(segment.summary.end_sequence);
    }

    /// What owner or mirror have of the rest now, and whether nothing will follow. Waits up to `wait_ms` for news.
    pub(crate) async fn tail(&mut self, wait_ms: u64) -> Result<(Vec<Record>, bool), ServiceError> {
        let of = (self.attempt, self.rank);
        let (frames, _, ended) = self.handle.tail(of, self.next, wait_ms).await?;
        Ok((self.take(&frames)?, ended))
    }

    fn take(&mut self, frames: &[u8]) -> Result<Vec<Record>, ServiceError> {
        let (mut records, _) = decode_frames(frames).map_err(|error| broken(error.to_string()))?;
        records.retain(|record| record.sequence >= self.next);
        if let Some(last) = records.last() {
            self.next = last.sequence + 1;
        }
        Ok(records)
    }
}

/// The frames of a sealed segment, from wherever there is a copy.
pub(crate) async fn segment_bytes(
    handle: &Handle,
    segment: &SegmentRef,
) -> Result<bytes::Bytes, ServiceError> {
    handle.fetch_blobs(&[segment.hash], &segment.copies).await?;
    let bytes = handle
        .blob_store()
        .get_bytes(&segment.hash, MAX_SEGMENT_BYTES)
        .await;
    Ok(bytes
        .map_err(|error| broken(error.to_string()))?
        .unwrap_or_default())
}

fn broken(message: String) -> ServiceError {
    ServiceError::new(ErrorKind::Internal, "segment", message)
}
