//! What a running holder writes to its disk, handed to a thread that does nothing else. A disk may hang for seconds or
//! for ever, and the lease does not wait for it: the supervisor leaves records at the desk and goes on.

mod desk;
mod writing;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use types::{Record, RecordBody, encode_frame};

use self::desk::Desk;
use self::writing::Writing;
use super::log;
use crate::attempt_directory::AttemptDirectory;
use crate::clock::wall_clock;
use crate::segment::{self, SegmentLimits};
use crate::stored::Status;

/// Up to where the records are in files, durable or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Number of the open segment.
    pub(super) segment: u32,
    /// Number after the last record.
    pub(super) next_sequence: u64,
}

/// The supervisor's side. Nothing here waits for the disk, except [`Self::finish`].
#[derive(Debug)]
pub(super) struct Recorder {
    desk: Arc<Desk>,
    /// None once it was waited for.
    thread: Option<JoinHandle<()>>,
    next_sequence: u64,
    written: Written,
    failed: bool,
}

impl Recorder {
    /// Starts the thread, which stores `status` and opens a segment first: number 0, or the one
    /// after what the build of the environment said. It must not start processes: the job's death
    /// signal comes when the thread that made it ends (`prctl(2)`).
    pub(super) fn start(
        directory: AttemptDirectory,
        status: Status,
        limits: SegmentLimits,
    ) -> io::Result<Self> {
        let begin = segment::next(&directory.records())?;
        let desk = Arc::new(Desk::new()?);
        let writing = Writing::new(
            Arc::clone(&desk),
            directory,
            status,
            (limits, begin.clone()),
        );
        let thread = Builder::new()
            .name("records".to_owned())
            .spawn(move || writing.run())?;
        Ok(Self {
            desk,
            thread: Some(thread),
            next_sequence: begin.first_sequence,
            written: Written {
                segment: begin.number,
                next_sequence: begin.first_sequence,
            },
            failed: false,
        })
    }

    /// Numbers and frames a record and leaves it to be written. Dropped after a failure.
    pub(super) fn append(&mut self, body: RecordBody) {
        if self.failed {
            return;
        }
        let record = Record {
            sequence: self.next_sequence,
            at: wall_clock(),
            body,
        };
        self.next_sequence += 1;
        self.desk.leave(self.next_sequence, |frames| {
            encode_frame(&record, frames);
        });
    }

    /// So much waits for the disk that the job has to wait too.
    pub(super) fn is_full(&self) -> bool {
        self.desk.is_full()
    }

    /// Writes a line to `holder.log`, which is on the same disk.
    pub(super) fn log(&self, line: &str) {
        if self.thread.is_some() {
            self.desk.leave_log(line);
        } else {
            log(line);
        }
    }

    /// Readable when [`Self::news`] has something to say, or when there is room again.
    pub(super) fn wake(&self) -> &OwnedFd {
        &self.desk.wake
    }

    /// As of the last [`Self::news`].
    pub(super) fn written(&self) -> Written {
        self.written
    }

    /// Whether anything was written since the last call.
    ///
    /// # Errors
    /// Something could not be written or made durable, told once: what is on disk stays, nothing is added.
    pub(super) fn news(&mut self) -> io::Result<bool> {
        let told = self.desk.hear();
        let (written, failure) = told.inspect_err(|_| self.failed = true)?;
        let grew = written != self.written;
        self.written = written;
        let dead = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
        let failure = match failure {
            None if dead && !self.failed => Some(dead_thread()),
            failure => failure,
        };
        self.failed |= failure.is_some();
        failure.map_or(Ok(grew), Err)
    }

    /// Waits until all that was left is durable; the last act.
    ///
    /// # Errors
    /// As for [`Self::news`].
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.desk.leave_last();
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        self.news()?;
        match ended {
            Err(_panic) if !self.failed => Err(dead_thread()),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// It panicked; the message is in `holder.log`.
fn dead_thread() -> io::Error {
    io::Error::other("the thread that writes them is gone")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hold::console::say;
    use crate::segment;

    const LIMITS: SegmentLimits = SegmentLimits {
        max_bytes: 1 << 20,
        max_age_ms: 60_000,
    };

    fn start(root: &std::path::Path) -> Recorder {
        let directory = AttemptDirectory {
            root: root.to_owned(),
        };
        let status = Status::V1 {
            holder_pid: 1,
            pid: 2,
            started_at: wall_clock(),
        };
        Recorder::start(directory, status, LIMITS).unwrap()
    }

    #[test]
    fn all_that_was_left_is_in_the_files_in_order_once_finished() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("records")).unwrap();
        let mut recorder = start(root.path());
        for number in 0..1_000 {
            say(&mut recorder, &number.to_string());
        }
        recorder.finish().unwrap();
        let written = Written {
            segment: 0,
            next_sequence: 1_000,
        };
        assert_eq!(recorder.written(), written);
        let files = segment::list(&root.path().join("records")).unwrap();
        let found = segment::survey(&files[0]).unwrap().summary;
        assert_eq!((files.len(), found.end_sequence), (1, 1_000));
    }

    #[test]
    fn what_cannot_be_written_is_told_once_and_nothing_waits_for_it() {
        let root = tempfile::tempdir().unwrap();
        let mut recorder = start(root.path());
        let error = loop {
            say(&mut recorder, "lost");
            if let Err(error) = recorder.news() {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        for _ in 0..100_000 {
            say(&mut recorder, "dropped");
        }
        assert!(!recorder.is_full());
        recorder.finish().unwrap();
        assert_eq!(recorder.written(), Written::default());
    }
}
