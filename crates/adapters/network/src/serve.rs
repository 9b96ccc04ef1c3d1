//! The answering end of streams: accepts them from members and hands their calls to the owner.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, Stream};
use libp2p_stream::IncomingStreams;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use types::NodeId;

use crate::admission::Admission;
use crate::bulk_stream::{BulkStream, SendLimit};
use crate::connector::ACCEPTED;
use crate::event::{Event, RaftCall, Reply};
use crate::frame::{FrameReader, write_frames};
use crate::identity::node_id;
use crate::protocol::{
    MAX_BULK_FRAME_BYTES, MAX_CALLS_IN_FLIGHT, MAX_RAFT_FRAME_BYTES, MAX_STREAMS_PER_PEER,
};

/// What an accepted stream is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Raft,
    BulkCall,
    BulkStream,
}

/// What all accepting tasks share.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) admission: Arc<Admission>,
    pub(crate) limit: SendLimit,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) raft: mpsc::Sender<RaftCall>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Server {
    /// Accepts streams of one protocol until the network stops.
    pub(crate) async fn accept(self, mut incoming: IncomingStreams, purpose: Purpose) {
        let mut places: HashMap<PeerId, Arc<Semaphore>> = HashMap::new();
        loop {
            let next = tokio::select! {
                () = self.stop.cancelled() => return,
                next = incoming.next() => next,
            };
            let Some((peer, stream)) = next else { return };
            if !self.admission.is_member(&peer) {
                continue;
            }
            places.retain(|peer, _| self.admission.is_member(peer));
            let places = places
                .entry(peer)
                .or_insert_with(|| Arc::new(Semaphore::new(MAX_STREAMS_PER_PEER)));
            let Ok(place) = Arc::clone(places).try_acquire_owned() else {
                tracing::warn!(peer_id = %peer, ?purpose, "too many streams of one peer");
                continue;
            };
            let server = self.clone();
            self.tasks.spawn(async move {
                let stop = server.stop.clone();
                let ended = tokio::select! {
                    () = stop.cancelled() => return,
                    ended = server.serve(peer, stream, purpose, place) => ended,
                };
                if let Err(error) = ended {
                    tracing::debug!(peer_id = %peer, ?purpose, %error, "stream ended");
                }
            });
        }
    }

    async fn serve(
        &self,
        peer: PeerId,
        mut stream: Stream,
        purpose: Purpose,
        place: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        stream.write_all(&[ACCEPTED]).await?;
        stream.flush().await?;
        match purpose {
            Purpose::Raft => {
                self.answer(peer, stream, purpose, MAX_RAFT_FRAME_BYTES)
                    .await
            }
            Purpose::BulkCall => {
                let stream = BulkStream::new(stream, self.limit.clone(), Some(place)).compat();
                self.answer(peer, stream, purpose, MAX_BULK_FRAME_BYTES)
                    .await
            }
            Purpose::BulkStream => {
                let stream = BulkStream::new(stream, self.limit.clone(), Some(place));
                let from = node_id(&peer);
                let sent = self.events.send(Event::BulkStream { from, stream }).await;
                sent.map_err(|_closed| io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    /// Reads calls and writes their answers, in whatever order these come.
    async fn answer<S>(
        &self,
        peer: PeerId,
        stream: S,
        purpose: Purpose,
        limit: usize,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let (read, write) = stream.split();
        let (answers, mut queue) = mpsc::channel(MAX_CALLS_IN_FLIGHT);
        let read = async {
            let from = node_id(&peer);
            let mut reader = FrameReader::new(read, limit);
            while let Some(frame) = reader.next().await? {
                // The table may have changed since the stream came.
                if !self.admission.is_member(&peer) {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                // A place for the answer first: calls beyond the limit wait here.
                let Ok(slot) = answers.clone().reserve_owned().await else {
                    return Ok(());
                };
                let reply = Reply::frame(frame.id, slot, limit);
                let request = frame.into_body();
                if !self.deliver(&from, request, reply, purpose).await {
                    return Ok(());
                }
            }
            Ok(())
        };
        tokio::select! {
            ended = read => ended,
            ended = write_frames(write, &mut queue, |_| true) => ended,
        }
    }

    /// Hands a call to the owner, waiting for room; false if the owner is gone.
    async fn deliver(
        &self,
        from: &NodeId,
        request: bytes::Bytes,
        reply: Reply,
        purpose: Purpose,
    ) -> bool {
        let from = from.clone();
        match purpose {
            Purpose::Raft => {
                let call = RaftCall {
                    from,
                    request,
                    reply,
                };
                self.raft.send(call).await.is_ok()
            }
            Purpose::BulkCall | Purpose::BulkStream => {
                let call = Event::BulkCall {
                    from,
                    request,
                    reply,
                };
                self.events.send(call).await.is_ok()
            }
        }
    }
}
