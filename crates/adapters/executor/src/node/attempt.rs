//! One attempt as the node sees it, and the task that watches its holder.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use types::{AttemptToken, GpuUse, Timestamp};

use super::points::Lots;
use super::prepare::{PrepareError, make_directories, never_ran, prepare};
use super::{AttemptStatus, Event, GpuTenant, Phase, Shared, StartAttempt, adopt, build};
use crate::attempt_directory::AttemptDirectory;
use crate::environments::Pin;
use crate::error::Error;
use crate::protocol::{Notice, NoticeReader, Request, StopReason, frame};
use crate::segment::{self, SealedSegment};
use crate::stored::{Ended, Usage};
use crate::tail::TailReader;

/// Requests that may wait for one holder: it answers in microseconds.
const REQUEST_CAPACITY: usize = 16;

/// Between two tries to end an attempt whose holder is gone.
const SETTLE_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of an attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) token: AttemptToken,
    pub(super) rank: u32,
    /// What it was given of the GPUs; none where its order does not tell: an older program wrote it, or it is torn.
    pub(super) gpu_tenant: Option<GpuTenant>,
    pub(super) directory: AttemptDirectory,
    pub(super) requests: mpsc::Sender<Request>,
    /// Number after the last record, as told by the holder.
    pub(super) tail: watch::Sender<u64>,
    /// What it uses of the GPUs, for the holder. Not a request: only the newest counts, and a holder that does not listen
    /// for a while must not fill the queue in which stops wait.
    pub(super) gpus: watch::Sender<GpuUse>,
    /// Points of metrics on their way to the holder.
    pub(super) lots: Lots,
    reader: Mutex<TailReader>,
    known: Mutex<Known>,
}

/// The part that changes.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) phase: Phase,
    pub(super) pid: Option<u32>,
    /// Process id of its holder; none before it was started or found, or where the kernel does not tell.
    pub(super) holder_pid: Option<u32>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) deadline_boottime_ms: u64,
    pub(super) usage: Usage,
    pub(super) sealed: Vec<SealedSegment>,
    /// A stop that came while it was prepared.
    pub(super) stop: Option<StopReason>,
    /// Keeps its environment until it has ended.
    pub(super) pin: Option<Pin>,
}

impl Attempt {
    pub(super) fn new(
        shared: &Shared,
        token: AttemptToken,
        (rank, gpu_tenant): (u32, Option<GpuTenant>),
        deadline_boottime_ms: u64,
    ) -> (Arc<Self>, mpsc::Receiver<Request>) {
        let directory = AttemptDirectory::new(&shared.config.directory, &token);
        let (requests, receiver) = mpsc::channel(REQUEST_CAPACITY);
        let attempt = Self {
            token,
            rank,
            gpu_tenant,
            requests,
            tail: watch::Sender::new(0),
            gpus: watch::Sender::new(GpuUse::default()),
            lots: Lots::default(),
            reader: Mutex::new(TailReader::new(directory.records())),
            directory,
            known: Mutex::new(Known {
                phase: Phase::Preparing,
                pid: None,
                holder_pid: None,
                started_at: None,
                deadline_boottime_ms,
                usage: Usage::default(),
                sealed: Vec::new(),
                stop: None,
                pin: None,
            }),
        };
        (Arc::new(attempt), receiver)
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known
            .lock()
            .expect("no holder of this lock can panic: it only reads and writes fields")
    }

    pub(super) fn reader(&self) -> MutexGuard<'_, TailReader> {
        self.reader
            .lock()
            .expect("no holder of this lock can panic: it only reads files")
    }

    pub(super) fn status(&self) -> AttemptStatus {
        let known = self.known();
        AttemptStatus {
            token: self.token,
            rank: self.rank,
            phase: known.phase.clone(),
            pid: known.pid,
            started_at: known.started_at,
            deadline_boottime_ms: known.deadline_boottime_ms,
            usage: known.usage,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.known().phase, Phase::Ended(_))
    }
}

/// Starts a new attempt and watches it to its end.
pub(super) async fn launch(
    shared: Arc<Shared>,
    attempt: Arc<Attempt>,
    start: Box<StartAttempt>,
    mut requests: mpsc::Receiver<Request>,
) {
    let packages = match build::packages(&shared, &attempt, &start, &mut requests).await {
        Ok(packages) => packages,
        Err(error) => return end_unstarted(&shared, &attempt, &error).await,
    };
    let prepared = {
        let (shared, attempt) = (Arc::clone(&shared), Arc::clone(&attempt));
        tokio::task::spawn_blocking(move || {
            if start.environment.is_none() {
                make_directories(&attempt)?;
            }
            prepare(&shared, &attempt, &start, packages.as_ref())
        })
    };
    let started = match prepared.await {
        Ok(Ok(started)) => started,
        Ok(Err(error)) => return end_unstarted(&shared, &attempt, &error).await,
        Err(panicked) => {
            let error = PrepareError::Holder(std::io::Error::other(panicked));
            return end_unstarted(&shared, &attempt, &error).await;
        }
    };
    attempt.known().holder_pid = started.child.id();
    let stream = started
        .stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(started.stream));
    let stream = stream
        .inspect_err(
            |error| tracing::warn!(%error, token = %attempt.token, "holder connection failed"),
        )
        .ok(); // then it is connected by its socket, as after a restart
    supervise(&shared, &attempt, stream, &mut requests).await;
    reap(started.child).await;
}

/// Watches a holder, connecting again when the connection breaks, until the attempt has ended.
pub(super) async fn supervise(
    shared: &Arc<Shared>,
    attempt: &Arc<Attempt>,
    mut stream: Option<UnixStream>,
    requests: &mut mpsc::Receiver<Request>,
) {
    loop {
        let connected = match stream.take() {
            Some(connected) => Some(connected),
            None => adopt::connect(attempt).await,
        };
        let ended = match connected {
            Some(connected) => watch_holder(shared, attempt, connected, requests).await,
            None => settle(shared, attempt).await,
        };
        if let Some(ended) = ended {
            return finish(shared, attempt, ended).await;
        }
    }
}

/// Waits for the holder, so that it does not stay as a zombie.
async fn reap(mut child: Child) {
    if let Err(error) = child.wait().await {
        tracing::warn!(%error, "holder could not be waited for");
    }
}

async fn end_unstarted(shared: &Shared, attempt: &Arc<Attempt>, error: &PrepareError) {
    let mut ended = never_ran(shared, error.cause());
    // What the build of its environment said.
    ended.records = *attempt.tail.borrow();
    store_end(attempt, &ended).await;
    finish(shared, attempt, ended).await;
}

async fn store_end(attempt: &Arc<Attempt>, ended: &Ended) {
    let (directory, copy) = (attempt.directory.clone(), ended.clone());
    let stored = tokio::task::spawn_blocking(move || directory.write_exit(&copy)).await;
    let error = match stored {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(panicked) => std::io::Error::other(panicked),
    };
    // The report goes out all the same; a node that restarts before it is committed finds no holder and says so.
    tracing::warn!(%error, token = %attempt.token, "end of attempt is not durable on this node");
}

/// Passes requests to the holder and takes its notices. None if the connection broke before the end.
async fn watch_holder(
    shared: &Arc<Shared>,
    attempt: &Arc<Attempt>,
    stream: UnixStream,
    requests: &mut mpsc::Receiver<Request>,
) -> Option<Ended> {
    let (reading, mut writing) = stream.into_split();
    let mut notices = NoticeReader::new(reading);
    let mut gpus = attempt.gpus.subscribe();
    loop {
        tokio::select! {
            notice = notices.next() => match notice {
                Ok(Some(Notice::Ended(ended))) => {
                    if !attempt.directory.exit().exists() {
                        store_end(attempt, &ended).await;
                    }
                    return Some(ended);
                }
                Ok(Some(notice)) => take(shared, attempt, &notice).await,
                Ok(None) => return None,
                Err(error) => {
                    tracing::warn!(%error, token = %attempt.token, "holder connection broke");
                    return None;
                }
            },
            Some(request) = requests.recv() => ask(attempt, &mut writing, &request).await,
            Ok(()) = gpus.changed() => {
                let told = *gpus.borrow_and_update();
                ask(attempt, &mut writing, &Request::Gpus(told)).await;
            }
        }
    }
}

async fn ask(attempt: &Attempt, writing: &mut OwnedWriteHalf, request: &Request) {
    if let Err(error) = writing.write_all(&frame(request)).await {
        // Its end or its death follows on the reading side.
        tracing::debug!(%error, token = %attempt.token, "holder does not listen");
    }
}

async fn take(shared: &Arc<Shared>, attempt: &Arc<Attempt>, notice: &Notice) {
    let token = attempt.token;
    match notice {
        Notice::Started {
            pid,
            at,
            deadline_boottime_ms,
        } => {
            {
                let mut known = attempt.known();
                known.phase = Phase::Running;
                known.pid = Some(*pid);
                known.started_at = Some(*at);
                known.deadline_boottime_ms = known.deadline_boottime_ms.max(*deadline_boottime_ms);
            }
            let (pid, at) = (*pid, *at);
            shared.tell(Event::Started { token, pid, at }).await;
        }
        Notice::Tail {
            segment,
            next_sequence,
        } => {
            if attempt.known().sealed.len() < *segment as usize {
                seal(shared, attempt, Some(*segment)).await;
            }
            attempt.tail.send_replace(*next_sequence);
            // Full: the receiver has plenty to do, and the watch tells the rest.
            drop(shared.events.try_send(Event::TailGrew { token }));
        }
        Notice::Usage(usage) => attempt.known().usage = *usage,
        Notice::PointsTaken { lot, taken } => attempt.lots.answer(*lot, *taken),
        Notice::Ended(_) => {}
    }
}

/// The holder is gone without telling the end: it stored one, or it died. None if a holder lives after all, or the
/// attempt cannot be ended yet: as long as a process of it may be alive it is not over, or another attempt would run
/// beside it (invariant 11).
async fn settle(shared: &Arc<Shared>, attempt: &Arc<Attempt>) -> Option<Ended> {
    let (their_shared, their_attempt) = (Arc::clone(shared), Arc::clone(attempt));
    let ended = tokio::task::spawn_blocking(move || {
        adopt::end_without_holder(&their_shared, &their_attempt.directory)
    });
    let error = match ended.await {
        Ok(Ok(ended)) => return ended,
        Ok(Err(error)) => error,
        Err(panicked) => Error::Task(panicked),
    };
    let mut chain = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        chain = format!("{chain}: {cause}");
        source = cause.source();
    }
    tracing::error!(token = %attempt.token, error = chain, "attempt without a holder cannot be ended; trying again");
    tokio::time::sleep(SETTLE_INTERVAL).await;
    None
}

/// Tells the last segments, then the end.
pub(super) async fn finish(shared: &Shared, attempt: &Arc<Attempt>, ended: Ended) {
    seal(shared, attempt, None).await;
    {
        let mut known = attempt.known();
        known.phase = Phase::Ended(ended.clone());
        known.pin = None;
    }
    attempt
        .tail
        .send_modify(|next| *next = ended.records.max(*next));
    let token = attempt.token;
    shared.tell(Event::Ended { token, ended }).await;
}

/// Describes segments below `open` (all, if none is open) that were not yet described, and tells them.
async fn seal(shared: &Shared, attempt: &Arc<Attempt>, open: Option<u32>) {
    let known = attempt.known().sealed.last().map(|last| last.number);
    let directory = attempt.directory.records();
    let sealed = tokio::task::spawn_blocking(move || {
        let mut segments = segment::list(&directory)?;
        segments.retain(|segment| {
            known.is_none_or(|known| segment.number > known)
                && open.is_none_or(|open| segment.number < open)
        });
        segment::seal(&segments)
    });
    let sealed = match sealed.await {
        Ok(Ok(sealed)) => sealed,
        Ok(Err(error)) => {
            tracing::error!(%error, token = %attempt.token, "records cannot be sealed");
            return;
        }
        Err(error) => {
            tracing::error!(%error, token = %attempt.token, "sealing records failed");
            return;
        }
    };
    for segment in sealed {
        attempt.known().sealed.push(segment.clone());
        let token = attempt.token;
        shared.tell(Event::SegmentSealed { token, segment }).await;
    }
}
