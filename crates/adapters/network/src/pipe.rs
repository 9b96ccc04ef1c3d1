//! The calling end of framed streams: one long-lived stream per member, many calls in flight on it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use libp2p::StreamProtocol;
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use types::NodeId;

use crate::CallError;
use crate::bulk_stream::{BulkStream, SendLimit};
use crate::connector::Connector;
use crate::frame::{Frame, FrameReader, write_frames};
use crate::protocol::MAX_CALLS_IN_FLIGHT;
use crate::wire::Outcome;

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Pipe>>>>;
type OpenSlot = tokio::sync::OwnedMutexGuard<Option<Arc<Pipe>>>;

/// Time to connect and open a stream; on a live connection it takes two ways there and back. Short: an opening that
/// hangs, as on a connection that is about to end, keeps every call to that member waiting, heartbeats too.
const OPEN_PATIENCE: Duration = Duration::from_millis(1_500);
/// The same on bulk, where no heartbeat waits.
const BULK_OPEN_PATIENCE: Duration = Duration::from_secs(5);

/// The pipes of one protocol to all members.
pub(crate) struct Pipes {
    opener: Opener,
    slots: Mutex<HashMap<NodeId, Slot>>,
}

/// What it takes to open one.
#[derive(Clone)]
struct Opener {
    connector: Connector,
    protocol: StreamProtocol,
    /// Largest frame.
    limit: usize,
    /// The rate limit, if this is a bulk protocol.
    bulk: Option<SendLimit>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Pipes {
    pub(crate) fn new(
        connector: Connector,
        protocol: StreamProtocol,
        limit: usize,
        bulk: Option<SendLimit>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            opener: Opener {
                connector,
                protocol,
                limit,
                bulk,
                tasks,
                stop,
            },
            slots: Mutex::default(),
        }
    }

    /// Asks a member and waits for its answer.
    pub(crate) async fn call(
        &self,
        to: &NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        if request.len() > self.opener.limit {
            return Err(CallError::TooLarge {
                to: to.clone(),
                bytes: request.len(),
                limit: self.opener.limit,
            });
        }
        let answer = async { self.pipe(to).await?.call(to, request).await };
        match tokio::time::timeout(deadline, answer).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(CallError::Timeout {
                to: to.clone(),
                deadline,
            }),
        }
    }

    /// The open pipe to a member, or a new one. It is opened also when the caller has given up meanwhile: a heartbeat
    /// waits for less time than it takes to open a stream on a slow day, and then the next would begin anew, for ever.
    async fn pipe(&self, to: &NodeId) -> Result<Arc<Pipe>, CallError> {
        // Held while connecting, so that all callers share the one stream.
        let slot = self.slot(to).lock_owned().await;
        if let Some(pipe) = slot.as_ref().filter(|pipe| !pipe.queue.is_closed()) {
            return Ok(Arc::clone(pipe));
        }
        let opening = self.opener.clone().open(slot, to.clone());
        match self.opener.tasks.spawn(opening).await {
            Ok(opened) => opened,
            Err(_aborted) => Err(CallError::Stopped),
        }
    }

    fn slot(&self, to: &NodeId) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(to) {
            return Arc::clone(slot);
        }
        // Before it grows: members that left.
        slots.retain(|node, _| self.opener.connector.member(node).is_ok());
        Arc::clone(slots.entry(to.clone()).or_default())
    }
}

impl Opener {
    /// Opens a pipe and puts it into its slot.
    async fn open(self, mut slot: OpenSlot, to: NodeId) -> Result<Arc<Pipe>, CallError> {
        let opening = self.connector.open(&to, &self.protocol);
        let deadline = match &self.bulk {
            None => OPEN_PATIENCE,
            Some(_) => BULK_OPEN_PATIENCE,
        };
        let opened = tokio::select! {
            () = self.stop.cancelled() => return Err(CallError::Stopped),
            opened = tokio::time::timeout(deadline, opening) => opened,
        };
        let stream = opened.map_err(|_elapsed| CallError::Timeout {
            to: to.clone(),
            deadline,
        })??;
        let pipe = match &self.bulk {
            None => self.start(stream),
            Some(limit) => self.start(BulkStream::new(stream, limit.clone(), None).compat()),
        };
        *slot = Some(Arc::clone(&pipe));
        Ok(pipe)
    }

    fn start<S>(&self, stream: S) -> Arc<Pipe>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (queue, mut frames) = mpsc::channel(MAX_CALLS_IN_FLIGHT);
        let calls = Arc::new(Calls::default());
        let pipe = Arc::new(Pipe {
            queue,
            calls: Arc::clone(&calls),
            next: AtomicU64::new(0),
        });
        let stop = self.stop.clone();
        let limit = self.limit;
        self.tasks.spawn(async move {
            let (read, write) = stream.split();
            let ended = tokio::select! {
                () = stop.cancelled() => Ok(()),
                ended = read_answers(read, limit, &calls) => ended,
                ended = write_frames(write, &mut frames, |frame| calls.wants(frame.id)) => ended,
            };
            frames.close();
            let reason = ended
                .err()
                .map_or("closed".to_owned(), |error| error.to_string());
            calls.end(&reason);
        });
        pipe
    }
}

/// One stream.
struct Pipe {
    queue: mpsc::Sender<Frame>,
    calls: Arc<Calls>,
    next: AtomicU64,
}

impl Pipe {
    async fn call(&self, to: &NodeId, request: Bytes) -> Result<Bytes, CallError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let closed = |reason| CallError::Closed {
            to: to.clone(),
            reason,
        };
        let waiting = self.calls.begin(id).map_err(&closed)?;
        // Forgets the call when the caller gives up, too.
        let _forget = Forget {
            calls: &self.calls,
            id,
        };
        if self.queue.send(Frame::request(id, request)).await.is_err() {
            return Err(closed(self.calls.reason()));
        }
        match waiting.await {
            Ok(Outcome::Answer(answer)) => Ok(answer),
            Ok(Outcome::Failed(failure)) => Err(CallError::Remote {
                to: to.clone(),
                code: failure.code(),
            }),
            Err(_dropped) => Err(closed(self.calls.reason())),
        }
    }
}

struct Forget<'a> {
    calls: &'a Calls,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.calls.lock().waiting.remove(&self.id);
    }
}

/// The calls that wait for an answer.
#[derive(Default)]
struct Calls {
    state: Mutex<CallsState>,
}

#[derive(Default)]
struct CallsState {
    /// Why there will be no more answers.
    ended: Option<String>,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
}

impl Calls {
    fn begin(&self, id: u64) -> Result<oneshot::Receiver<Outcome>, String> {
        let mut state = self.lock();
        if let Some(reason) = &state.ended {
            return Err(reason.clone());
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.insert(id, sender);
        Ok(receiver)
    }

    fn wants(&self, id: u64) -> bool {
        self.lock().waiting.contains_key(&id)
    }

    fn answer(&self, id: u64, outcome: Outcome) {
        let waiting = self.lock().waiting.remove(&id);
        if let Some(waiting) = waiting {
            // A caller whose deadline passed is gone.
            drop(waiting.send(outcome));
        }
    }

    fn end(&self, reason: &str) {
        let mut state = self.lock();
        state.ended = Some(reason.to_owned());
        state.waiting.clear();
    }

    fn reason(&self) -> String {
        self.lock().ended.clone().unwrap_or_default()
    }

    // Each change is one call on the map, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, CallsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_answers<R>(read: R, limit: usize, calls: &Calls) -> io::Result<()>
where
    R: AsyncRead + Unpin + Send,
{
    let mut reader = FrameReader::new(read, limit);
    while let Some(frame) = reader.next().await? {
        let id = frame.id;
        calls.answer(id, frame.into_outcome()?);
    }
    Ok(())
}
