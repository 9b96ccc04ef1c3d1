//! Where the last lines of an output begin, found from its end: of a long output only as much is read as is shown.

use state_machine::{Attempt, Experiment};
use types::{Record, RecordBody, decode_frames};

use super::{LogOptions, Part, Reader, is_over, parts};
use crate::attempt_records::{RecordReader, segment_bytes};
use crate::call::ReadOptions;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;

/// Reads of the open tail, of up to 1 MiB each: a tail is at most a segment.
const MAX_TAIL_ROUNDS: u32 = 32;

/// A place in the output of a rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Start {
    /// Record in which it is.
    sequence: u64,
    /// Bytes of that record before it.
    skip: usize,
}

impl Reader {
    /// The parts of an attempt, each beginning with its last lines, and the experiment as it was then.
    pub(super) async fn start_at_last(
        &self,
        mut experiment: Experiment,
        (number, lines): (u32, u64),
        options: &LogOptions,
    ) -> Result<(Experiment, Vec<Part>), Option<ServiceError>> {
        loop {
            let Some(attempt) = experiment.attempts.get(number as usize - 1) else {
                return Ok((experiment, Vec::new()));
            };
            let mut parts = parts(attempt, number, options);
            for part in &mut parts {
                let start = find(&self.handle, (attempt, part.rank), lines).await;
                let start = start.map_err(Some)?;
                (part.from, part.skip) = (start.sequence, start.skip);
            }
            if options.stale || is_over(&experiment, number) {
                return Ok((experiment, parts));
            }
            // When it ends its node forgets it, and what was read then may have been the mirror's, which is behind.
            let id = experiment.id.to_string();
            let newer = self
                .handle
                .record(&self.caller, &id, ReadOptions::default());
            match newer.await {
                Ok(newer) if is_over(&newer, number) => experiment = newer,
                Ok(newer) => return Ok((newer, parts)),
                Err(error) if error.kind == ErrorKind::Unavailable => {
                    return Ok((experiment, parts));
                }
                Err(error) => return Err(Some(error)),
            }
        }
    }
}

/// Where the last `lines` of a rank begin.
async fn find(
    handle: &Handle,
    (attempt, rank): (&Attempt, u32),
    lines: u64,
) -> Result<Start, ServiceError> {
    let mut count = Count::new(lines);
    let segments = attempt.segments.iter();
    let mut segments: Vec<_> = segments.filter(|segment| segment.rank == rank).collect();
    segments.sort_by_key(|segment| segment.summary.end_sequence);
    let sealed = segments.last().map(|last| last.summary.end_sequence);
    let mut reader = RecordReader::new(handle, (attempt, rank), sealed.unwrap_or(0));
    let mut newest = Vec::new();
    if reader.is_over() {
        newest = decoded(&attempt.inline_records)?;
    } else {
        for _round in 0..MAX_TAIL_ROUNDS {
            let (records, ended) = reader.tail(0).await?;
            let is_last = records.is_empty() || ended;
            newest.extend(records);
            if is_last {
                break;
            }
        }
    }
    if let Some(start) = count.take(&newest) {
        return Ok(start);
    }
    drop(newest);
    for segment in segments.into_iter().rev() {
        let bytes = segment_bytes(handle, segment).await?;
        if let Some(start) = count.take(&decoded(&bytes)?) {
            return Ok(start);
        }
    }
    Ok(Start::default())
}

fn decoded(frames: &[u8]) -> Result<Vec<Record>, ServiceError> {
    let decoded = decode_frames(frames)
        .map_err(|error| ServiceError::new(ErrorKind::Internal, "segment", error.to_string()))?;
    Ok(decoded.0)
}

/// Counts ends of lines from the end of an output.
#[derive(Debug)]
struct Count {
    left: u64,
    /// Nothing of the output was seen yet: its last byte ends a line, or the last line has no end.
    at_end: bool,
    /// What overlaps is counted once.
    before: u64,
}

impl Count {
    fn new(lines: u64) -> Self {
        Self {
            left: lines,
            at_end: true,
            before: u64::MAX,
        }
    }

    /// Takes records that came before those that it has seen; where the lines begin, once all were found.
    fn take(&mut self, records: &[Record]) -> Option<Start> {
        for record in records.iter().rev() {
            if record.sequence >= self.before {
                continue;
            }
            self.before = record.sequence;
            let RecordBody::Console { bytes, .. } = &record.body else {
                continue;
            };
            for (place, byte) in bytes.iter().enumerate().rev() {
                let is_last = std::mem::replace(&mut self.at_end, false);
                if *byte != b'\n' || is_last {
                    continue;
                }
                self.left = self.left.saturating_sub(1);
                if self.left == 0 {
                    let (sequence, skip) = (record.sequence, place + 1);
                    return Some(Start { sequence, skip });
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use types::{ConsoleStream, Timestamp};

    use super::*;

    fn records(texts: &[&'static str]) -> Vec<Record> {
        let record = |(sequence, text): (u64, &&'static str)| Record {
            sequence,
            at: Timestamp(0),
            body: match text.is_empty() {
                true => RecordBody::Gap { bytes: 1 },
                false => RecordBody::Console {
                    stream: ConsoleStream::Stdout,
                    bytes: Bytes::from_static(text.as_bytes()),
                },
            },
        };
        (0..).zip(texts).map(record).collect()
    }

    /// What is shown of these records.
    fn shown(texts: &[&'static str], lines: u64) -> String {
        let all = records(texts);
        let start = Count::new(lines).take(&all).unwrap_or_default();
        let from = usize::try_from(start.sequence).unwrap();
        texts[from..].concat()[start.skip..].to_owned()
    }

    #[test]
    fn the_last_lines_are_found_wherever_records_cut_them() {
        let whole = ["one\ntw", "o\n", "", "three\nfo", "ur\n"];
        for (lines, expected) in [
            (1, "four\n"),
            (2, "three\nfour\n"),
            (3, "two\nthree\nfour\n"),
            (4, "one\ntwo\nthree\nfour\n"),
            (100, "one\ntwo\nthree\nfour\n"),
        ] {
            assert_eq!(shown(&whole, lines), expected, "{lines}");
        }
        assert_eq!(shown(&["one\n", "two\nthr", "ee"], 2), "two\nthree");
        assert_eq!(shown(&["one\n", "\n"], 1), "\n");
        assert_eq!(shown(&[], 1), "");
    }

    #[test]
    fn what_overlaps_is_counted_once() {
        let all = records(&["a\n", "b\n", "c\n"]);
        let mut count = Count::new(3);
        assert_eq!(count.take(&all[1..]), None);
        assert_eq!(count.take(&all[..2]), None, "only three lines in all");
        let mut count = Count::new(2);
        assert_eq!(count.take(&all[2..]), None);
        let start = Start {
            sequence: 0,
            skip: 2,
        };
        assert_eq!(count.take(&all), Some(start));
    }
}
