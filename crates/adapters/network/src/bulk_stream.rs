//! A stream of the bulk plane, under the rate limit of the node.

use std::fmt;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::{AsyncRead as _, AsyncWrite as _};
use tokio::io::ReadBuf;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use crate::rate::Bucket;

/// Bytes that one write may send at once under a limit, so that streams take turns.
const CHUNK_BYTES: usize = 32 << 10;

/// Bytes worth a write of their own under a limit: less would go out as crumbs, each with its frames around it.
const LEAST_BYTES: u64 = 4 << 10;

/// The limit that all bulk streams of a node share; none is no limit.
#[derive(Clone, Debug)]
pub(crate) struct SendLimit(Option<Arc<Mutex<Bucket>>>);

impl SendLimit {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self(bytes_per_second.map(|rate| {
            // A tenth of a second at once, and always a few chunks.
            let burst = (rate / 10).max(2 * CHUNK_BYTES as u64);
            Arc::new(Mutex::new(Bucket::new(rate, burst, Instant::now())))
        }))
    }
}

/// A byte stream to or from a member, with flow control. Bytes written are limited to the rate of the node.
pub struct BulkStream {
    stream: libp2p::Stream,
    limit: SendLimit,
    wait: Option<Pin<Box<Sleep>>>,
    /// Counts against the streams that one peer may have open here.
    _place: Option<OwnedSemaphorePermit>,
}

impl BulkStream {
    pub(crate) fn new(
        stream: libp2p::Stream,
        limit: SendLimit,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            stream,
            limit,
            wait: None,
            _place: place,
        }
    }
}

impl fmt::Debug for BulkStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkStream").finish_non_exhaustive()
    }
}

impl tokio::io::AsyncRead for BulkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let unfilled = buffer.initialize_unfilled();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, unfilled))?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for BulkStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Some(bucket) = &this.limit.0 else {
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        };
        loop {
            if let Some(wait) = &mut this.wait {
                ready!(wait.as_mut().poll(context));
                this.wait = None;
            }
            let want = bytes.len().min(CHUNK_BYTES);
            let taken = lock(bucket).take_at_least(LEAST_BYTES, want as u64, Instant::now());
            let granted = match taken {
                Ok(granted) => usize::try_from(granted).unwrap_or(want),
                Err(wait) => {
                    this.wait = Some(Box::pin(tokio::time::sleep(wait)));
                    continue;
                }
            };
            let written = Pin::new(&mut this.stream).poll_write(context, &bytes[..granted]);
            let used = match &written {
                Poll::Ready(Ok(used)) => *used,
                Poll::Ready(Err(_)) | Poll::Pending => 0,
            };
            lock(bucket).give_back((granted - used) as u64);
            return written;
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

fn lock(bucket: &Mutex<Bucket>) -> std::sync::MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}
