//! Console output: from the pipes into records.

mod flood;
mod tail;

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use diagnosis::{LossWatch, Said};
use types::{ConsoleStream, MetricPoint, RecordBody, StopRule};

use self::flood::{Allowance, Verdict};
use self::tail::Tail;
use super::metric::MetricLines;
use super::points::{self, PointQuota};
use super::recorder::Recorder;
use crate::clock::boottime_ms;

/// Largest console record; also what one read takes off a pipe.
const MAX_CONSOLE_BYTES: usize = 64 << 10;

/// Reads the pipes; memory is bounded by one read each and by the recorder, the pipe itself holds the job back.
#[derive(Debug)]
pub(super) struct Console {
    buffer: Vec<u8>,
    metrics: MetricLines,
    /// What the metrics say of losses.
    pub(super) losses: LossWatch,
    tail: Tail,
    /// Bytes since they were last asked for.
    written: u64,
    allowance: Allowance,
    points: PointQuota,
    stop_rule: Option<StopRule>,
    /// What the rule to stop by found, until it is taken.
    met_rule: Option<String>,
}

impl Console {
    pub(super) fn new(stop_rule: Option<StopRule>) -> Self {
        Self {
            buffer: vec![0; MAX_CONSOLE_BYTES],
            metrics: MetricLines::default(),
            losses: LossWatch::default(),
            tail: Tail::default(),
            written: 0,
            allowance: Allowance::new(boottime_ms()),
            points: PointQuota::new(boottime_ms()),
            stop_rule,
            met_rule: None,
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
        // Also what is dropped: the last words of a job that floods say why it failed.
        self.tail.add(stream, bytes, boottime_ms());
        self.written = self.written.saturating_add(length as u64);
        if let Verdict::Keep { dropped } = self.allowance.judge(length as u64, boottime_ms()) {
            mark(recorder, dropped);
            recorder.append(RecordBody::Console {
                stream,
                bytes: Bytes::copy_from_slice(bytes),
            });
        }
        // Also of what is dropped: metrics have a quota of their own.
        if stream == ConsoleStream::Stdout {
            for scalar in self.metrics.take(bytes) {
                self.take_scalar(scalar, recorder);
            }
        }
        Ok(true)
    }

    /// Takes points that came by a request.
    pub(super) fn take_points(&mut self, points: Vec<MetricPoint>, recorder: &mut Recorder) {
        for point in points
            .into_iter()
            .filter(|point| MetricPoint::is_name(&point.name))
        {
            let scalar = RecordBody::Scalar {
                name: point.name,
                step: point.step,
                value_bits: point.value_bits,
            };
            self.take_scalar(scalar, recorder);
        }
    }

    /// Takes a point of a metric, wherever it came from.
    fn take_scalar(&mut self, scalar: RecordBody, recorder: &mut Recorder) {
        self.judge(&scalar);
        let (keeps, said) = match self.points.judge(&scalar, boottime_ms()) {
            points::Verdict::Keep(said) => (true, said),
            points::Verdict::Drop(said) => (false, said),
        };
        if let Some(line) = said {
            say(recorder, &line);
        }
        if keeps {
            recorder.append(scalar);
        }
    }

    /// Looks at a value for the diagnosis, and with the rule to stop by; only the first that meets it counts.
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
        self.losses.see(name, *step, value);
        let Some(rule) = self.stop_rule.take_if(|rule| rule.ends(name, *step, value)) else {
            return;
        };
        self.met_rule = Some(format!("{rule} ({name} = {value} at step {step})"));
    }

    /// The rule by which it must end, once.
    pub(super) fn take_met_rule(&mut self) -> Option<String> {
        self.met_rule.take()
    }

    /// Marks what was dropped last, when nothing more is read.
    pub(super) fn close(&mut self, recorder: &mut Recorder) {
        mark(recorder, self.allowance.take_dropped());
    }

    /// Until when the pipes are left alone, because the job floods them: it waits for its own output meanwhile.
    pub(super) fn rest_until_ms(&self) -> Option<u64> {
        self.allowance.rest_until_ms(boottime_ms())
    }

    /// The last of what it said.
    pub(super) fn last_words(&self) -> Vec<Said> {
        self.tail.said(boottime_ms())
    }

    /// Bytes that it wrote since the last call.
    pub(super) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
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
