//! What the rest of the node asks of the executor.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use types::{AttemptToken, DurationMs, GpuUse};

use super::artifacts;
use super::attempt::Attempt;
use super::runner::Launch;
use super::{AttemptStatus, GpuTenant, Phase, Shared, StartAttempt};
use crate::error::Error;
use crate::outputs::{self, Left};
use crate::protocol::{Request, StopReason};
use crate::remove_tree::remove_tree;
use crate::segment::{self, SealedSegment};
use crate::tail::{MAX_READ_BYTES, TailRead};

/// Asks the executor. Clones share it.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    launches: mpsc::Sender<Launch>,
}

/// Bytes of one segment, for the mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsealedRead {
    /// Number of the first record of the segment; with it the mirror knows where the segment belongs.
    pub first_sequence: u64,
    /// What is there from the asked offset on.
    pub bytes: Bytes,
    /// The segment ends after `bytes`: go on at offset 0 of the next number, unless `ended`.
    pub complete: bool,
    /// The attempt has ended and this was its last segment.
    pub ended: bool,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, launches: mpsc::Sender<Launch>) -> Self {
        Self { shared, launches }
    }

    /// What a person should know: jobs can read the node's keys, or are not held to what they asked for, and why.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let keys = self.shared.protection.warning.clone();
        let limits = match self.shared.config.use_cgroups {
            true => self.shared.cgroups.warning(),
            false => Some("experiments are not held to their memory and cores here: `cgroups = false` in its settings".to_owned()),
        };
        keys.into_iter().chain(limits).collect()
    }

    /// As whom jobs run, in words.
    #[must_use]
    pub fn job_user(&self) -> String {
        self.shared.protection.describe()
    }

    /// Accepts an attempt; events tell the rest. One that is known already is not started again.
    ///
    /// # Errors
    /// The run loop has ended.
    pub async fn start_attempt(&self, start: StartAttempt) -> Result<(), Error> {
        let token = start.wanted.token;
        let tenant = GpuTenant {
            rank: start.wanted.rank,
            terms: start.gpu_terms(),
            is_adopted: false,
        };
        let permit = self
            .launches
            .reserve()
            .await
            .map_err(|_closed| Error::Stopped)?;
        let (attempt, requests) = Attempt::new(
            &self.shared,
            token,
            (start.wanted.rank, Some(tenant)),
            start.deadline_boottime_ms,
        );
        {
            let mut attempts = self.shared.attempts();
            if attempts.contains_key(&token) {
                return Ok(());
            }
            attempts.insert(token, Arc::clone(&attempt));
        }
        permit.send(Launch {
            attempt,
            requests,
            start: Box::new(start),
        });
        Ok(())
    }

    /// Pushes the lease forward; an earlier deadline changes nothing, nor does any after the end.
    ///
    /// # Errors
    /// The attempt is not known here.
    pub async fn extend_lease(
        &self,
        token: &AttemptToken,
        deadline_boottime_ms: u64,
    ) -> Result<(), Error> {
        let attempt = self.shared.attempt(token)?;
        {
            let mut known = attempt.known();
            known.deadline_boottime_ms = known.deadline_boottime_ms.max(deadline_boottime_ms);
        }
        let request = Request::Extend {
            deadline_boottime_ms,
        };
        send(&attempt, request).await;
        Ok(())
    }

    /// Ends the tree: SIGTERM, `grace`, SIGKILL of everything. Repeats and stops after the end change
    /// nothing, but a shorter grace hastens it.
    ///
    /// # Errors
    /// The attempt is not known here.
    pub async fn stop(
        &self,
        token: &AttemptToken,
        reason: StopReason,
        grace: DurationMs,
    ) -> Result<(), Error> {
        let attempt = self.shared.attempt(token)?;
        {
            let mut known = attempt.known();
            if known.phase == Phase::Preparing {
                known.stop.get_or_insert_with(|| reason.clone());
            }
        }
        let request = Request::Stop {
            reason,
            grace_ms: grace.0,
        };
        send(&attempt, request).await;
        Ok(())
    }

    /// Tells the holder of an attempt what its processes use of the GPUs now: bytes of memory and the sum of percents of
    /// time, both over all GPUs. Figures count for 10 s and go into the attempt's samples. Does not wait: while the holder
    /// does not listen, the newest figures take the place of older ones.
    ///
    /// # Errors
    /// The attempt is not known here.
    pub fn tell_gpus(
        &self,
        token: &AttemptToken,
        vram_bytes: u64,
        utilisation_percent: u32,
    ) -> Result<(), Error> {
        let attempt = self.shared.attempt(token)?;
        attempt.gpus.send_replace(GpuUse {
            vram_bytes,
            utilisation_percent,
        });
        Ok(())
    }

    /// The attempts that run here, each with the process id of its holder: what is below it is the attempt's. One whose
    /// holder is just being started or found again is missing for a moment.
    #[must_use]
    pub fn trees(&self) -> Vec<(AttemptToken, u32)> {
        let attempts = self.shared.attempts();
        let running = attempts.values().filter(|attempt| !attempt.has_ended());
        running
            .filter_map(|attempt| Some((attempt.token, attempt.known().holder_pid?)))
            .collect()
    }

    /// What an attempt was given of the GPUs, until it is released; none if it is not known here, or nobody knows what it was
    /// given.
    #[must_use]
    pub fn gpu_tenant(&self, token: &AttemptToken) -> Option<GpuTenant> {
        self.shared.attempts().get(token)?.gpu_tenant.clone()
    }

    /// All attempts known on this node, with those that ended and are not yet released.
    #[must_use]
    pub fn running(&self) -> Vec<AttemptStatus> {
        let attempts = self.shared.attempts();
        attempts.values().map(|attempt| attempt.status()).collect()
    }

    /// Forgets an ended attempt and removes its directory: its report is committed and its records are
    /// stored elsewhere. One that is not known is released already.
    ///
    /// # Errors
    /// It still runs, or its directory cannot be removed.
    pub async fn release(&self, token: &AttemptToken) -> Result<(), Error> {
        let Ok(attempt) = self.shared.attempt(token) else {
            return Ok(());
        };
        if !attempt.has_ended() {
            return Err(Error::StillRunning { token: *token });
        }
        let path = attempt.directory.root.clone();
        let removed = tokio::task::spawn_blocking(move || {
            remove_tree(&path).map_err(|source| Error::Remove { path, source })
        });
        removed.await.map_err(Error::Task)??;
        self.shared.attempts().remove(token);
        Ok(())
    }

    /// Records from number `from_sequence` on that are on this node: about `max_bytes` of whole frames, at
    /// least one if there is one.
    ///
    /// # Errors
    /// The attempt is not known here, or its records cannot be read.
    pub async fn read_tail(
        &self,
        token: &AttemptToken,
        from_sequence: u64,
        max_bytes: usize,
    ) -> Result<TailRead, Error> {
        let attempt = self.shared.attempt(token)?;
        let read = tokio::task::spawn_blocking(move || {
            // Asked before the files are read, so that `ended` is never said of a file that still grew.
            let ended = attempt.has_ended();
            let mut read = attempt.reader().read(from_sequence, max_bytes)?;
            let records = match &attempt.known().phase {
                Phase::Ended(end) => end.records,
                Phase::Preparing | Phase::Running => u64::MAX,
            };
            read.ended = ended && read.next_sequence >= records;
            Ok(read)
        });
        read.await.map_err(Error::Task)?
    }

    /// Grows when there are new records: the number after the last. Also woken by the end.
    ///
    /// # Errors
    /// The attempt is not known here.
    pub fn tail_changed(&self, token: &AttemptToken) -> Result<watch::Receiver<u64>, Error> {
        Ok(self.shared.attempt(token)?.tail.subscribe())
    }

    /// Complete segments, oldest first; after [`super::Event::Ended`] that is all of them.
    ///
    /// # Errors
    /// The attempt is not known here.
    pub fn sealed_segments(&self, token: &AttemptToken) -> Result<Vec<SealedSegment>, Error> {
        Ok(self.shared.attempt(token)?.known().sealed.clone())
    }

    pub(super) fn attempt(&self, token: &AttemptToken) -> Result<Arc<Attempt>, Error> {
        self.shared.attempt(token)
    }

    /// A variable of the job of an attempt, as its order has it.
    ///
    /// # Errors
    /// The attempt is not known here, or its order cannot be read.
    pub async fn variable(
        &self,
        token: &AttemptToken,
        name: &'static str,
    ) -> Result<Option<String>, Error> {
        let attempt = self.shared.attempt(token)?;
        let read = tokio::task::spawn_blocking(move || {
            let order = attempt.directory.read_order()?;
            let variables = order.map(|order| order.variables).unwrap_or_default();
            // The last one wins, as in the job's environment.
            let mut found = variables
                .into_iter()
                .rev()
                .filter(|(known, _)| known == name);
            Ok(found.next().map(|(_, value)| value))
        });
        read.await.map_err(Error::Task)?
    }

    /// What an ended attempt left of its outputs; none if it was asked for nothing.
    ///
    /// # Errors
    /// The attempt is not known here, still runs, or its order cannot be read.
    pub async fn left_by(&self, token: &AttemptToken) -> Result<Option<Left>, Error> {
        let attempt = self.shared.attempt(token)?;
        if !attempt.has_ended() {
            return Err(Error::StillRunning { token: *token });
        }
        let found = tokio::task::spawn_blocking(move || {
            let Some(order) = attempt.directory.read_order()? else {
                return Ok(None); // It never came to a start.
            };
            let (work, below) = (attempt.directory.work(), &order.working_directory);
            let asked = !order.outputs.paths.is_empty();
            let left = asked.then(|| outputs::find((&work, below), &order.outputs));
            Ok(artifacts::add_to(left, &attempt.directory))
        });
        found.await.map_err(Error::Task)?
    }

    /// Opens a file of what [`Self::left_by`] found.
    ///
    /// # Errors
    /// The attempt is not known here, or the file is not there any more.
    pub async fn open_left(&self, token: &AttemptToken, path: String) -> Result<File, Error> {
        let attempt = self.shared.attempt(token)?;
        let opened = tokio::task::spawn_blocking(move || {
            let order = attempt.directory.read_order()?;
            let below = order.map(|order| order.working_directory);
            let (work, below) = (attempt.directory.work(), below.unwrap_or_default());
            if let Some(artifact) = artifacts::open(&attempt.directory, &path) {
                return Ok(artifact);
            }
            outputs::open((&work, &below), &path).map_err(|source| Error::Read {
                path: work.join(&below).join(&path),
                source,
            })
        });
        opened.await.map_err(Error::Task)?
    }

    /// Bytes of segment `segment` from `offset` on, at most `max_bytes` (and 4 MiB), to be sent to the mirror.
    ///
    /// # Errors
    /// The attempt is not known here, or the file cannot be read.
    pub async fn unsealed(
        &self,
        token: &AttemptToken,
        segment: u32,
        offset: u64,
        max_bytes: usize,
    ) -> Result<UnsealedRead, Error> {
        let attempt = self.shared.attempt(token)?;
        let read = tokio::task::spawn_blocking(move || {
            let ended = attempt.has_ended();
            read_segment(&attempt, segment, offset, max_bytes.min(MAX_READ_BYTES)).map(|read| {
                let last = read.last && ended;
                UnsealedRead {
                    first_sequence: read.first_sequence,
                    complete: read.at_end && (last || !read.last),
                    ended: read.at_end && last,
                    bytes: read.bytes,
                }
            })
        });
        read.await.map_err(Error::Task)?
    }
}

struct SegmentRead {
    first_sequence: u64,
    bytes: Bytes,
    /// Nothing follows in the file as it was.
    at_end: bool,
    /// There was no segment with a higher number before the file was read.
    last: bool,
}

fn read_segment(
    attempt: &Attempt,
    number: u32,
    offset: u64,
    max_bytes: usize,
) -> Result<SegmentRead, Error> {
    // Listed first: a file with a successor in the list does not grow any more.
    let segments = segment::list(&attempt.directory.records())?;
    let last = segments.last().is_none_or(|last| last.number <= number);
    let Some(found) = segments.iter().find(|segment| segment.number == number) else {
        return Ok(SegmentRead {
            first_sequence: 0,
            bytes: Bytes::new(),
            at_end: true,
            last,
        });
    };
    let error = |source| Error::Read {
        path: found.path.clone(),
        source,
    };
    let file = File::open(&found.path).map_err(error)?;
    let left = file.metadata().map_err(error)?.len().saturating_sub(offset);
    let take = usize::try_from(left).map_or(max_bytes, |left| left.min(max_bytes));
    let mut bytes = vec![0; take];
    file.read_exact_at(&mut bytes, offset).map_err(error)?;
    Ok(SegmentRead {
        first_sequence: found.first_sequence,
        at_end: take as u64 == left,
        bytes: bytes.into(),
        last,
    })
}

pub(super) async fn send(attempt: &Attempt, request: Request) {
    if attempt.requests.send(request).await.is_err() {
        // Its task is over: the attempt has ended, and there is nothing to ask of it.
        tracing::debug!(token = %attempt.token, "request after the end of the attempt");
    }
}
