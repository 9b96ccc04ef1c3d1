//! Console output: from the pipes into records.

mod flood;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use types::{ConsoleStream, RecordBody, StopRule};

use self::flood::{Allowance, Verdict};
use super::metric::MetricLines;
use super::recorder::Recorder;
use crate::clock::boottime_ms;

/// Largest console record; also what one read takes off a pipe.
const MAX_CONSOLE_BYTES: usize = 64 << 10;
/// What is kept of standard error as evidence of a failure: eight lines are shown.
const EVIDENCE_BYTES: usize = 8 << 10;
/// Lines of standard error in the evidence.
const EVIDENCE_LINES: usize = 8;

/// Reads the pipes; memory is bounded by one read each and by the recorder, the pipe itself holds the job back.
#[derive(Debug)]
pub(super) struct Console {
    buffer: Vec<u8>,
    metrics: MetricLines,
    stderr_tail: VecDeque<u8>,
    allowance: Allowance,
    stop_rule: Option<StopRule>,
    /// What the rule to stop by found, until it is taken.
    broken_rule: Option<String>,
}

impl Console {
    pub(super) fn new(stop_rule: Option<StopRule>) -> Self {
        Self {
            buffer: vec![0; MAX_CONSOLE_BYTES],
            metrics: MetricLines::default(),
            stderr_tail: VecDeque::new(),
            allowance: Allowance::new(boottime_ms()),
            stop_rule,
            broken_rule: None,
        }
    }

    /// Takes what one read gives and appends it as a record, unless the job floods; reads nothing while the recorder is
    /// full. Closes the pipe at end of file. True if there was something.
    pub(super) fn read(
        &mut self,
        pipe: &mut Option<OwnedFd>,
        stream: ConsoleStream,
        recorder: &mut Recorder,
    ) -> io::Result<bool> {
        let Some(open) = pipe else {
            return Ok(false);
        };
        if self.rest_until_ms().is_some() || recorder.is_full() {
            return Ok(false);
        }
        let length = match rustix::io::read(&*open, &mut self.buffer) {
            Ok(0) => {
                *pipe = None;
                mark(recorder, self.allowance.take_dropped());
                return Ok(false);
            }
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let bytes = &self.buffer[..length];
        if stream == ConsoleStream::Stderr {
            // Also of what is dropped: the last words of a job that floods say why it failed.
            self.stderr_tail
                .extend(&bytes[length.saturating_sub(EVIDENCE_BYTES)..]);
            let surplus = self.stderr_tail.len().saturating_sub(EVIDENCE_BYTES);
            self.stderr_tail.drain(..surplus);
        }
        match self.allowance.judge(length as u64, boottime_ms()) {
            Verdict::Keep { dropped } => mark(recorder, dropped),
            Verdict::Drop => return Ok(true),
        }
        recorder.append(RecordBody::Console {
            stream,
            bytes: Bytes::copy_from_slice(bytes),
        });
        if stream == ConsoleStream::Stdout {
            for scalar in self.metrics.take(bytes) {
                self.judge(&scalar);
                recorder.append(scalar);
            }
        }
        Ok(true)
    }

    /// Looks at a value with the rule to stop by; only the first that breaks it counts.
    fn judge(&mut self, scalar: &RecordBody) {
        let RecordBody::Scalar {
            name,
            step,
            value_bits,
        } = scalar
        else {
            return;
        };
        let value = f64::from_bits(*value_bits);
        let Some(rule) = self.stop_rule.take_if(|rule| rule.ends(name, *step, value)) else {
            return;
        };
        self.broken_rule = Some(format!("its rule {rule} ({name} = {value} at step {step})"));
    }

    /// The rule by which it must end, once.
    pub(super) fn take_broken_rule(&mut self) -> Option<String> {
        self.broken_rule.take()
    }

    /// Marks what was dropped last, when nothing more is read.
    pub(super) fn close(&mut self, recorder: &mut Recorder) {
        mark(recorder, self.allowance.take_dropped());
    }

    /// Until when the pipes are left alone, because the job floods them: it waits for its own output meanwhile.
    pub(super) fn rest_until_ms(&self) -> Option<u64> {
        self.allowance.rest_until_ms(boottime_ms())
    }

    /// The last lines of standard error.
    pub(super) fn last_stderr_lines(&self) -> Vec<String> {
        let bytes: Vec<u8> = self.stderr_tail.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let from = lines.len().saturating_sub(EVIDENCE_LINES);
        lines[from..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect()
    }
}

/// Marks where output was dropped.
fn mark(recorder: &mut Recorder, dropped: u64) {
    if dropped > 0 {
        recorder.append(RecordBody::Gap { bytes: dropped });
    }
}

/// Appends a line of muster itself.
pub(super) fn say(recorder: &mut Recorder, line: &str) {
    recorder.append(RecordBody::Console {
        stream: ConsoleStream::Muster,
        bytes: Bytes::from(format!("{line}\n")),
    });
}
