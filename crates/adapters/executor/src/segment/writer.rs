//! The one writer of an attempt's records, inside the holder.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::SegmentFile;
use crate::durable_file::sync_directory;

/// Records are made durable at this interval: what a power cut may take.
pub(crate) const SYNC_INTERVAL_MS: u64 = 1_000;

/// When a segment is complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentLimits {
    pub(crate) max_bytes: u64,
    pub(crate) max_age_ms: u64,
}

/// Writes frames to the open segment. After an error it must not be used any more: what is on disk stays as it is.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    directory: PathBuf,
    limits: SegmentLimits,
    file: File,
    /// Number of the open segment.
    pub(crate) segment: u32,
    segment_bytes: u64,
    opened_at_ms: u64,
    /// Number after the last record on disk.
    pub(crate) next_sequence: u64,
    unsynced_since_ms: Option<u64>,
}

impl SegmentWriter {
    /// Opens the segment `begin` of an attempt, which [`super::next`] named.
    pub(crate) fn create(
        directory: &Path,
        begin: &SegmentFile,
        limits: SegmentLimits,
        now_ms: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            directory: directory.to_owned(),
            limits,
            file: open_new(&begin.path)?,
            segment: begin.number,
            segment_bytes: 0,
            opened_at_ms: now_ms,
            next_sequence: begin.first_sequence,
            unsynced_since_ms: None,
        })
    }

    /// Writes whole frames, of which the last record is the one before number `next_sequence`, and completes the segment
    /// if it is full or old. Without frames it only does the latter.
    pub(crate) fn write(
        &mut self,
        frames: &[u8],
        next_sequence: u64,
        now_ms: u64,
    ) -> io::Result<()> {
        if !frames.is_empty() {
            if let Err(error) = self.file.write_all(frames) {
                // Takes back a half-written batch, so that the file ends with a whole record.
                self.file.set_len(self.segment_bytes)?;
                return Err(error);
            }
            self.segment_bytes += frames.len() as u64;
            self.next_sequence = next_sequence;
            self.unsynced_since_ms.get_or_insert(now_ms);
        }
        let old = now_ms >= self.opened_at_ms.saturating_add(self.limits.max_age_ms);
        if self.segment_bytes >= self.limits.max_bytes || (old && self.segment_bytes > 0) {
            self.rotate(now_ms)?;
        }
        Ok(())
    }

    /// When [`Self::tick`] has something to do next; none while everything is durable and the segment is empty.
    pub(crate) fn next_tick_ms(&self) -> Option<u64> {
        let sync = self.unsynced_since_ms.map(|since| since + SYNC_INTERVAL_MS);
        let age = (self.segment_bytes > 0)
            .then_some(self.opened_at_ms.saturating_add(self.limits.max_age_ms));
        sync.into_iter().chain(age).min()
    }

    /// Makes records durable that are due. Completing by age happens in [`Self::write`].
    pub(crate) fn tick(&mut self, now_ms: u64) -> io::Result<()> {
        match self.unsynced_since_ms {
            Some(since) if now_ms >= since + SYNC_INTERVAL_MS => self.sync(),
            Some(_) | None => Ok(()),
        }
    }

    /// Makes durable everything; the writer's last act.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.sync()?;
        sync_directory(&self.directory)
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
