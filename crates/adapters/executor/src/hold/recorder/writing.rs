//! The thread that writes: it alone waits for the disk.

use std::io;
use std::sync::Arc;

use types::codec;

use super::Written;
use super::desk::{Batch, Desk};
use crate::attempt_directory::AttemptDirectory;
use crate::clock::boottime_ms;
use crate::durable_file;
use crate::hold::log;
use crate::segment::{SegmentFile, SegmentLimits, SegmentWriter};
use crate::stored::Status;

#[derive(Debug)]
pub(super) struct Writing {
    desk: Arc<Desk>,
    directory: AttemptDirectory,
    status: Status,
    limits: SegmentLimits,
    begin: SegmentFile,
}

impl Writing {
    pub(super) fn new(
        desk: Arc<Desk>,
        directory: AttemptDirectory,
        status: Status,
        (limits, begin): (SegmentLimits, SegmentFile),
    ) -> Self {
        Self {
            desk,
            directory,
            status,
            limits,
            begin,
        }
    }

    /// Until the last batch; after a failure only the log is written.
    pub(super) fn run(self) {
        let mut writer = match self.begin() {
            Ok(writer) => Some(writer),
            Err(error) => {
                self.desk.fail(error);
                None
            }
        };
        let mut frames = Vec::new();
        loop {
            let due_ms = writer.as_ref().and_then(SegmentWriter::next_tick_ms);
            let batch = self.desk.take(&mut frames, due_ms);
            if !batch.log.is_empty() {
                log(batch.log.trim_end());
            }
            if let Some(open) = &mut writer
                && let Err(error) = self.keep(open, &frames, &batch)
            {
                self.desk.fail(error);
                writer = None;
            }
            if batch.last {
                return;
            }
        }
    }

    fn begin(&self) -> io::Result<SegmentWriter> {
        durable_file::create(&self.directory.status(), &codec::encode(&self.status))?;
        SegmentWriter::create(
            &self.directory.records(),
            &self.begin,
            self.limits,
            boottime_ms(),
        )
    }

    /// Writes, says so, then syncs what is due: who follows the records need not wait for that.
    fn keep(&self, writer: &mut SegmentWriter, frames: &[u8], batch: &Batch) -> io::Result<()> {
        let now_ms = boottime_ms();
        let written = writer.write(frames, batch.next_sequence, now_ms);
        self.desk.report(Written {
            segment: writer.segment,
            next_sequence: writer.next_sequence,
        });
        written?;
        if batch.last {
            writer.finish()
        } else {
            writer.tick(now_ms)
        }
    }
}
