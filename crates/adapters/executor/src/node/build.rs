//! The packages of an attempt, put together before its command runs: what the build says goes into its records.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use types::{EnvironmentSpec, Record, RecordBody, encode_frame};

use super::attempt::Attempt;
use super::prepare::{PrepareError, make_directories};
use super::{Event, Shared, StartAttempt};
use crate::clock::{boottime_ms, wall_clock};
use crate::environments::{Line, Provided};
use crate::job_user::open_path;
use crate::protocol::Request;
use crate::segment::{SegmentFile, SegmentLimits, SegmentWriter};

/// Names the environment for programs in it, and for the node that finds the attempt again.
pub(super) const VARIABLE: &str = "VIRTUAL_ENV";

/// Batches of lines that wait for the disk.
const LINES_WAITING: usize = 16;

/// The packages of one attempt.
#[derive(Clone, Debug)]
pub(super) struct Packages {
    /// Directory of the virtual environment.
    pub(super) path: String,
    /// Where the command imports from besides, absolute.
    import_paths: Vec<String>,
}

impl Packages {
    /// Makes them the ones that a command finds first.
    pub(super) fn add_to(&self, variables: &mut Vec<(String, String)>) {
        for (_, value) in variables.iter_mut().filter(|(name, _)| name == "PATH") {
            *value = format!("{}/bin:{value}", self.path);
        }
        variables.push((VARIABLE.to_owned(), self.path.clone()));
        if !self.import_paths.is_empty() {
            variables.push(("PYTHONPATH".to_owned(), self.import_paths.join(":")));
        }
    }
}

/// Builds or finds them; none if the attempt runs with those of the machine. Ends early when the attempt is stopped or
/// its lease is over.
pub(super) async fn packages(
    shared: &Arc<Shared>,
    attempt: &Arc<Attempt>,
    start: &StartAttempt,
    requests: &mut mpsc::Receiver<Request>,
) -> Result<Option<Packages>, PrepareError> {
    let Some(spec) = &start.environment else {
        return Ok(None);
    };
    let own = Arc::clone(attempt);
    let made = tokio::task::spawn_blocking(move || make_directories(&own)).await;
    made.map_err(|panicked| PrepareError::Directory(std::io::Error::other(panicked)))??;
    let confinement = shared
        .protection
        .confine(&start.wanted.submitted_by, shared.config.max_processes);
    let mut variables = shared.host_variables.clone();
    if let Some(account) = &confinement.account {
        for (_, value) in variables.iter_mut().filter(|(name, _)| name == "PATH") {
            *value = open_path(account, value);
        }
    }
    let (say, lines) = mpsc::channel(LINES_WAITING);
    let notes = Notes::new(shared, attempt);
    let writing = tokio::task::spawn_blocking(move || notes.run(lines));
    let provided = {
        let provide = shared
            .environments
            .provide(spec, &confinement, &variables, &say);
        tokio::pin!(provide);
        loop {
            let left = attempt.known().deadline_boottime_ms;
            let left = left.saturating_sub(boottime_ms() + shared.config.stop_margin.0);
            tokio::select! {
                provided = &mut provide => break provided.map_err(PrepareError::Environment),
                // A later deadline or a stop; which, is known already.
                Some(_request) = requests.recv() => {
                    if let Some(reason) = attempt.known().stop.clone() {
                        break Err(PrepareError::Stopped(reason));
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(left)) => break Err(PrepareError::LeaseOver),
            }
        }
    };
    drop(say);
    if let Err(error) = writing.await {
        tracing::error!(%error, token = %attempt.token, "writing down what the build says failed");
    }
    let (provided, pin) = provided?;
    attempt.known().pin = Some(pin);
    Ok(Some(packages_in(attempt, spec, &provided)))
}

fn packages_in(attempt: &Attempt, spec: &EnvironmentSpec, provided: &Provided) -> Packages {
    let EnvironmentSpec::V1(spec) = spec;
    tracing::info!(
        token = %attempt.token, key = provided.built.key, cached = provided.cached,
        packages = provided.built.packages.len(), build_ms = provided.built.build_ms, "environment ready"
    );
    let work = attempt.directory.work();
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned(); // the data directory is text
    Packages {
        path: text(&provided.path),
        import_paths: spec
            .import_paths
            .iter()
            .map(|path| text(&work.join(path)).trim_end_matches('/').to_owned())
            .collect(),
    }
}

/// Writes lines into the attempt's records, in segments before those of the holder.
struct Notes {
    shared: Arc<Shared>,
    attempt: Arc<Attempt>,
    /// None before the first line, and after a failure.
    writer: Option<SegmentWriter>,
    failed: bool,
}

impl Notes {
    fn new(shared: &Arc<Shared>, attempt: &Arc<Attempt>) -> Self {
        Self {
            shared: Arc::clone(shared),
            attempt: Arc::clone(attempt),
            writer: None,
            failed: false,
        }
    }

    /// Until there are no more. Blocking: a disk may hang.
    fn run(mut self, mut lines: mpsc::Receiver<Vec<Line>>) {
        while let Some(lines) = lines.blocking_recv() {
            self.write(&lines);
        }
        self.finish();
    }

    fn write(&mut self, lines: &[Line]) {
        if self.failed {
            return;
        }
        if let Err(error) = self.append(lines) {
            tracing::warn!(%error, token = %self.attempt.token, "what the build says is not recorded");
            self.failed = true;
        }
        let next = self
            .writer
            .as_ref()
            .map_or(0, |writer| writer.next_sequence);
        self.attempt.tail.send_replace(next);
        let token = self.attempt.token;
        // Full: the receiver has plenty to do, and the watch tells the rest.
        drop(self.shared.events.try_send(Event::TailGrew { token }));
    }

    fn append(&mut self, lines: &[Line]) -> std::io::Result<()> {
        let now_ms = boottime_ms();
        let directory = self.attempt.directory.records();
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let limits = SegmentLimits {
                    max_bytes: u64::MAX, // lines are counted where they come from
                    max_age_ms: u64::MAX,
                };
                let first = SegmentFile::new(&directory, 0, 0);
                let writer = SegmentWriter::create(&directory, &first, limits, now_ms)?;
                self.writer.insert(writer)
            }
        };
        let mut frames = Vec::new();
        let mut sequence = writer.next_sequence;
        for line in lines {
            let record = Record {
                sequence,
                at: wall_clock(),
                body: RecordBody::Console {
                    stream: line.stream,
                    bytes: Bytes::from(format!("{}\n", line.text)),
                },
            };
            encode_frame(&record, &mut frames);
            sequence += 1;
        }
        writer.write(&frames, sequence, now_ms)
    }

    fn finish(&mut self) {
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.finish()
        {
            tracing::warn!(%error, token = %self.attempt.token, "what the build says is not durable");
        }
    }
}
