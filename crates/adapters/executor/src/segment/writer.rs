//! The one writer of an attempt's records, inside the holder.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use types::{Record, RecordBody, encode_frame};

use super::SegmentFile;
use crate::clock::wall_clock;
use crate::durable_file::sync_directory;

/// Records are made durable at this interval: what a power cut may take.
pub(crate) const SYNC_INTERVAL_MS: u64 = 1_000;

/// When a segment is complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentLimits {
    pub(crate) max_bytes: u64,
    pub(crate) max_age_ms: u64,
}

/// Numbers records, frames them and writes them to the open segment.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    directory: PathBuf,
    limits: SegmentLimits,
    file: File,
    /// Number of the open segment.
    pub(crate) segment: u32,
    segment_bytes: u64,
    opened_at_ms: u64,
    /// Number of the next record.
    pub(crate) next_sequence: u64,
    /// Number after the last record on disk.
    written_sequence: u64,
    buffer: Vec<u8>,
    unsynced_since_ms: Option<u64>,
    /// A write failed: what is on disk stays as it is, nothing is added.
    failed: bool,
}

impl SegmentWriter {
    /// Opens segment 0 of an attempt that has no records yet.
    pub(crate) fn create(directory: &Path, limits: SegmentLimits, now_ms: u64) -> io::Result<Self> {
        Ok(Self {
            directory: directory.to_owned(),
            limits,
            file: open_new(&SegmentFile::new(directory, 0, 0).path)?,
            segment: 0,
            segment_bytes: 0,
            opened_at_ms: now_ms,
            next_sequence: 0,
            written_sequence: 0,
            buffer: Vec::new(),
            unsynced_since_ms: None,
            failed: false,
        })
    }

    /// Numbers and frames a record; written by the next [`Self::flush`]. Dropped after a failed write.
    pub(crate) fn append(&mut self, body: RecordBody) {
        if self.failed {
            return;
        }
        let record = Record {
            sequence: self.next_sequence,
            at: wall_clock(),
            body,
        };
        encode_frame(&record, &mut self.buffer);
        self.next_sequence += 1;
    }

    /// Writes what was appended and completes the segment if it is full or old. True if anything was written.
    pub(crate) fn flush(&mut self, now_ms: u64) -> io::Result<bool> {
        let wrote = !self.buffer.is_empty();
        if wrote {
            if let Err(error) = self.file.write_all(&self.buffer) {
                self.give_up()?;
                return Err(error);
            }
            self.segment_bytes += self.buffer.len() as u64;
            self.written_sequence = self.next_sequence;
            self.buffer.clear();
            self.unsynced_since_ms.get_or_insert(now_ms);
        }
        if self.failed {
            return Ok(false);
        }
        let old = now_ms >= self.opened_at_ms.saturating_add(self.limits.max_age_ms);
        if self.segment_bytes >= self.limits.max_bytes || (old && self.segment_bytes > 0) {
            self.rotate(now_ms)?;
        }
        Ok(wrote)
    }

    /// When [`Self::tick`] has something to do next; none while everything is durable and the segment is empty.
    pub(crate) fn next_tick_ms(&self) -> Option<u64> {
        let sync = self.unsynced_since_ms.map(|since| since + SYNC_INTERVAL_MS);
        let age = (self.segment_bytes > 0)
            .then_some(self.opened_at_ms.saturating_add(self.limits.max_age_ms));
        sync.into_iter().chain(age).min()
    }

    /// Makes records durable that are due. Completing by age happens in [`Self::flush`].
    pub(crate) fn tick(&mut self, now_ms: u64) -> io::Result<()> {
        match self.unsynced_since_ms {
            Some(since) if now_ms >= since + SYNC_INTERVAL_MS => self.sync(),
            Some(_) | None => Ok(()),
        }
    }

    /// Writes and makes durable everything; the writer's last act.
    pub(crate) fn finish(&mut self, now_ms: u64) -> io::Result<()> {
        if self.failed {
            return Ok(());
        }
        self.flush(now_ms)?;
        self.sync()?;
        sync_directory(&self.directory)
    }

    /// Writes nothing any more; what is on disk stays.
    pub(crate) fn stop(&mut self) {
        self.failed = true;
        self.buffer.clear();
        self.next_sequence = self.written_sequence;
        self.unsynced_since_ms = None;
    }

    /// Takes back a half-written batch, so that the file ends with a whole record.
    fn give_up(&mut self) -> io::Result<()> {
        self.stop();
        self.file.set_len(self.segment_bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.unsynced_since_ms = None;
        Ok(())
    }

    fn rotate(&mut self, now_ms: u64) -> io::Result<()> {
        self.sync()?;
        let next = SegmentFile::new(&self.directory, self.segment + 1, self.next_sequence);
        self.file = open_new(&next.path)?;
        sync_directory(&self.directory)?;
        self.segment = next.number;
        self.segment_bytes = 0;
        self.opened_at_ms = now_ms;
        Ok(())
    }
}

fn open_new(path: &Path) -> io::Result<File> {
    File::options().append(true).create_new(true).open(path)
}
