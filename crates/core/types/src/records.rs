//! What an attempt said and used: frames in segments (flow 4).
//!
//! A segment is a plain run of frames `length: u32 LE | codec bytes of one [`Record`]`. The open tail has the
//! same form, so a torn last frame is recognised by its length or checksum and everything before it is good.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{AttemptSample, BlobHash, NodeId, Timestamp, codec};

/// Which pipe a console record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsoleStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A line of muster itself about the attempt.
    Muster,
    /// Output of the build of its environment, before the command ran.
    Build,
}

/// The content of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordBody {
    /// Console output as it came, not necessarily whole lines.
    Console {
        /// Pipe.
        stream: ConsoleStream,
        /// At most 64 KiB.
        bytes: Bytes,
    },
    /// A metric point; the value is IEEE 754 bits so that the type stays `Eq`.
    Scalar {
        /// Metric.
        name: String,
        /// Step given by the job.
        step: i64,
        /// `f64::to_bits`.
        value_bits: u64,
    },
    /// Resource use of the attempt.
    Sample(AttemptSample),
    /// Console bytes that were dropped because the job wrote faster than they can be kept.
    Gap {
        /// How many.
        bytes: u64,
    },
}

/// One record of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number in the attempt, from 0, without holes.
    pub sequence: u64,
    /// Wall clock of the node.
    pub at: Timestamp,
    /// What.
    pub body: RecordBody,
}

/// Facts of a sealed segment, for readers that look for a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentSummary {
    /// First sequence number in it.
    pub first_sequence: u64,
    /// Number after the last.
    pub end_sequence: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Time of the first record.
    pub first_at: Timestamp,
    /// Time of the last record.
    pub last_at: Timestamp,
}

/// A sealed segment and who keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// Whose records.
    pub rank: u32,
    /// The blob.
    pub hash: BlobHash,
    /// What is in it.
    pub summary: SegmentSummary,
    /// Nodes that had a durable copy when it was sealed.
    pub copies: Vec<NodeId>,
}

/// Largest frame: one 64 KiB console record with room for its header.
pub const MAX_FRAME_BYTES: usize = 80 << 10;

/// A frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is over [`MAX_FRAME_BYTES`].
    #[error("frame at byte {offset} claims {length} bytes, more than any frame has")]
    TooLong {
        /// Where.
        offset: usize,
        /// Claimed.
        length: usize,
    },
    /// Damaged.
    #[error("frame at byte {offset} is damaged")]
    Damaged {
        /// Where.
        offset: usize,
        /// How.
        #[source]
        source: codec::Error,
    },
}

/// Appends one framed record to `out`.
///
/// # Panics
/// If the record is larger than [`MAX_FRAME_BYTES`]: whoever makes records cuts console output first.
pub fn encode_frame(record: &Record, out: &mut Vec<u8>) {
    let bytes = codec::encode(record);
    assert!(
        bytes.len() <= MAX_FRAME_BYTES,
        "record of {} bytes",
        bytes.len()
    );
    let length = u32::try_from(bytes.len()).expect("asserted to be small");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&bytes);
}

/// Decodes the whole frames at the start of `bytes`; returns them and how many bytes they took. An
/// incomplete last frame is left (a live tail, or a torn end).
///
/// # Errors
/// A complete frame is damaged or claims an impossible length.
pub fn decode_frames(bytes: &[u8]) -> Result<(Vec<Record>, usize), FrameError> {
    let mut records = Vec::new();
    let mut offset = 0;
    while let Some(head) = bytes.get(offset..offset + 4) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong { offset, length });
        }
        let Some(frame) = bytes.get(offset + 4..offset + 4 + length) else {
            break;
        };
        records.push(
            codec::decode(frame, MAX_FRAME_BYTES)
                .map_err(|source| FrameError::Damaged { offset, source })?,
        );
        offset += 4 + length;
    }
    Ok((records, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(sequence: u64, text: &'static str) -> Record {
        let body = RecordBody::Console {
            stream: ConsoleStream::Stdout,
            bytes: Bytes::from_static(text.as_bytes()),
        };
        Record {
            sequence,
            at: Timestamp(1),
            body,
        }
    }

    #[test]
    fn a_torn_tail_keeps_everything_before_it() {
        let mut bytes = Vec::new();
        encode_frame(&console(0, "one"), &mut bytes);
        let whole = bytes.len();
        encode_frame(&console(1, "two"), &mut bytes);
        for cut in whole..bytes.len() {
            let (records, used) = decode_frames(&bytes[..cut]).unwrap();
            assert_eq!((records.len(), used), (1, whole));
        }
        assert_eq!(decode_frames(&bytes).unwrap().0.len(), 2);
    }

    #[test]
    fn damage_is_an_error_not_an_end() {
        let mut bytes = Vec::new();
        encode_frame(&console(0, "one"), &mut bytes);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(matches!(
            decode_frames(&bytes),
            Err(FrameError::Damaged { offset: 0, .. })
        ));
    }
}
