//! Reads records of an attempt by sequence number from its segment files, while they are written too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use bytes::Bytes;
use types::{FrameError, MAX_FRAME_BYTES};

use crate::error::Error;
use crate::segment::{self, SegmentFile, frame_length};

/// A place is remembered about every so many bytes: a read walks at most this far to its start.
const MARK_INTERVAL_BYTES: u64 = 64 << 10;
/// Most that one read returns, whatever was asked for: a frame of any transport, and no strain on memory.
pub(crate) const MAX_READ_BYTES: usize = 4 << 20;

/// Records from a sequence number on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TailRead {
    /// Whole frames, see [`types::decode_frames`]. The first record may have a higher number than asked
    /// for if the lower ones are not on this node.
    pub frames: Bytes,
    /// Number after the last record in `frames`; what to ask for next.
    pub next_sequence: u64,
    /// The attempt ended and nothing comes after `frames`.
    pub ended: bool,
}

/// Where the frame of a sequence number starts.
#[derive(Clone, Copy, Debug)]
struct Mark {
    sequence: u64,
    offset: u64,
}

/// Reader with a sparse index of places, so that followers that read on and on do not walk whole files.
#[derive(Debug)]
pub(crate) struct TailReader {
    directory: PathBuf,
    marks: BTreeMap<u32, Vec<Mark>>,
}

impl TailReader {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            marks: BTreeMap::new(),
        }
    }

    /// Reads whole frames from record `from` on: at least one if there is one, else about `max_bytes`.
    pub(crate) fn read(&mut self, from: u64, max_bytes: usize) -> Result<TailRead, Error> {
        let max_bytes = max_bytes.clamp(1, MAX_READ_BYTES);
        let segments = segment::list(&self.directory)?;
        let mut frames = Vec::new();
        let mut next = from;
        let first = segments
            .partition_point(|segment| segment.first_sequence <= from)
            .saturating_sub(1);
        for segment in segments.get(first..).unwrap_or_default() {
            if segment.first_sequence > next {
                if !frames.is_empty() {
                    break;
                }
                next = segment.first_sequence;
            }
            next = self.read_segment(segment, next, max_bytes, &mut frames)?;
            if frames.len() >= max_bytes {
                break;
            }
        }
        Ok(TailRead {
            frames: frames.into(),
            next_sequence: next,
            ended: false,
        })
    }

    /// Appends frames of one segment from record `from` on to `out`; returns the number after the last.
    fn read_segment(
        &mut self,
        segment: &SegmentFile,
        from: u64,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<u64, Error> {
        let error = |source| Error::Read {
            path: segment.path.clone(),
            source,
        };
        let file = File::open(&segment.path).map_err(error)?;
        let length = file.metadata().map_err(error)?.len();
        let Some(start) = self.find(segment, &file, length, from)? else {
            return Ok(from);
        };
        let room = max_bytes.saturating_sub(out.len()).max(MAX_FRAME_BYTES + 4);
        let available = usize::try_from(length - start.offset).unwrap_or(usize::MAX);
        let old_length = out.len();
        out.resize(old_length + room.min(available), 0);
        file.read_exact_at(&mut out[old_length..], start.offset)
            .map_err(error)?;
        let (count, used) = count_frames(&out[old_length..], max_bytes.saturating_sub(old_length));
        out.truncate(old_length + used);
        Ok(start.sequence + count)
    }

    /// The place of record `from`; none if it is not there yet.
    fn find(
        &mut self,
        segment: &SegmentFile,
        file: &File,
        length: u64,
        from: u64,
    ) -> Result<Option<Mark>, Error> {
        let marks = self.marks.entry(segment.number).or_insert_with(|| {
            vec![Mark {
                sequence: segment.first_sequence,
                offset: 0,
            }]
        });
        let before = marks.partition_point(|mark| mark.sequence <= from);
        let mut place = marks[before.saturating_sub(1)];
        let newest = before == marks.len();
        let error = |source| Error::Read {
            path: segment.path.clone(),
            source,
        };
        let mut reader = BufReader::with_capacity(64 << 10, file);
        reader
            .seek(io::SeekFrom::Start(place.offset))
            .map_err(error)?;
        while place.sequence < from {
            if length < place.offset + 4 {
                return Ok(None);
            }
            let mut head = [0; 4];
            reader.read_exact(&mut head).map_err(error)?;
            let payload = frame_length(&head);
            check_length(segment, place.offset, payload)?;
            if length < place.offset + 4 + u64::from(payload) {
                return Ok(None);
            }
            reader.seek_relative(i64::from(payload)).map_err(error)?;
            place.offset += 4 + u64::from(payload);
            place.sequence += 1;
            let last = marks.last().expect("made with one mark").offset;
            if newest && place.offset >= last + MARK_INTERVAL_BYTES {
                marks.push(place);
            }
        }
        Ok(Some(place))
    }
}

fn check_length(segment: &SegmentFile, offset: u64, payload: u32) -> Result<(), Error> {
    let length = payload as usize;
    if length <= MAX_FRAME_BYTES {
        return Ok(());
    }
    Err(Error::Frames {
        path: segment.path.clone(),
        source: FrameError::TooLong {
            offset: usize::try_from(offset).unwrap_or(usize::MAX),
            length,
        },
    })
}

/// Whole frames at the start of `bytes`, stopping after `max_bytes` but not before one frame: their
/// number and length.
fn count_frames(bytes: &[u8], max_bytes: usize) -> (u64, usize) {
    let (mut count, mut offset) = (0, 0);
    while let Some(head) = bytes.get(offset..offset + 4) {
        let end = offset + 4 + frame_length(head) as usize;
        if end > bytes.len() || (count > 0 && end > max_bytes) {
            break;
        }
        offset = end;
        count += 1;
    }
    (count, offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{SegmentLimits, SegmentWriter};
    use types::{ConsoleStream, Record, RecordBody, Timestamp, decode_frames, encode_frame};

    fn write_line(writer: &mut SegmentWriter, text: &str) {
        let sequence = writer.next_sequence;
        let body = RecordBody::Console {
            stream: ConsoleStream::Stdout,
            bytes: Bytes::copy_from_slice(text.as_bytes()),
        };
        let mut frame = Vec::new();
        let at = Timestamp(0);
        encode_frame(&Record { sequence, at, body }, &mut frame);
        writer.write(&frame, sequence + 1, 0).unwrap();
    }

    #[test]
    fn every_record_is_found_by_its_number_across_segments() {
        let directory = tempfile::tempdir().unwrap();
        let limits = SegmentLimits {
            max_bytes: 300_000,
            max_age_ms: 1_000_000,
        };
        let mut writer = SegmentWriter::create(
            directory.path(),
            &SegmentFile::new(directory.path(), 0, 0),
            limits,
            0,
        )
        .unwrap();
        let mut reader = TailReader::new(directory.path().to_owned());
        for i in 0..1_000 {
            write_line(&mut writer, &"x".repeat(i * 7 % 2_000));
            let tail = reader.read(i as u64, MAX_READ_BYTES).unwrap();
            assert_eq!(tail.next_sequence, i as u64 + 1);
        }
        assert!(segment::list(directory.path()).unwrap().len() > 2);
        for max in [1, 5_000, MAX_READ_BYTES] {
            for from in [0, 1, 499, 998, 999, 1_000] {
                let tail = reader.read(from, max).unwrap();
                let (records, used) = decode_frames(&tail.frames).unwrap();
                assert_eq!(used, tail.frames.len());
                let numbers: Vec<u64> = records.iter().map(|r| r.sequence).collect();
                assert_eq!(numbers, (from..tail.next_sequence).collect::<Vec<_>>());
                assert_eq!(records.is_empty(), from == 1_000, "from {from} max {max}");
            }
        }
        let sealed = segment::seal(&segment::list(directory.path()).unwrap()).unwrap();
        assert_eq!(sealed.last().unwrap().summary.end_sequence, 1_000);
    }

    #[test]
    fn a_torn_tail_is_cut_and_everything_before_it_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let limits = SegmentLimits {
            max_bytes: 1 << 20,
            max_age_ms: 1_000,
        };
        let mut writer = SegmentWriter::create(
            directory.path(),
            &SegmentFile::new(directory.path(), 0, 0),
            limits,
            0,
        )
        .unwrap();
        write_line(&mut writer, "kept");
        write_line(&mut writer, "torn");
        writer.finish().unwrap();
        let path = segment::list(directory.path()).unwrap()[0].path.clone();
        let length = path.metadata().unwrap().len();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length - 3)
            .unwrap();
        assert_eq!(segment::recover(directory.path()).unwrap(), 1);
        let mut reader = TailReader::new(directory.path().to_owned());
        assert_eq!(reader.read(0, 1_000).unwrap().next_sequence, 1);
    }
}
