//! Streams that end with their connection.
//!
//! When this end closes a connection, yamux wakes no stream of it: a reader waits for bytes that cannot come, and so does
//! a writer whose window is used up, for ever. And closing waits until the other end has room for what is queued, which
//! on a dead connection takes TCP many seconds more. Both keep calls on a connection that was given up.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::StreamMuxer;
use libp2p::core::muxing::StreamMuxerEvent;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// Time to tell the other end that the connection closes.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection whose streams end when it is closed or dropped.
pub(crate) struct Ending<M> {
    inner: M,
    /// Its streams end with it.
    end: DropGuard,
    farewell: Option<Pin<Box<Sleep>>>,
}

impl<M> Ending<M> {
    pub(crate) fn new(inner: M) -> Self {
        Self {
            inner,
            end: CancellationToken::new().drop_guard(),
            farewell: None,
        }
    }
}

impl<M> StreamMuxer for Ending<M>
where
    M: StreamMuxer<Error: Into<io::Error>, Substream: Unpin> + Unpin,
{
    type Substream = EndingStream<M::Substream>;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let opened = Pin::new(&mut self.inner).poll_inbound(cx);
        let opened = opened.map_ok(|stream| EndingStream::new(stream, self.end.token()));
        opened.map_err(Into::into)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let opened = Pin::new(&mut self.inner).poll_outbound(cx);
        let opened = opened.map_ok(|stream| EndingStream::new(stream, self.end.token()));
        opened.map_err(Into::into)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = &mut *self;
        let closed = Pin::new(&mut this.inner).poll_close(cx);
        // Only now: whoever is woken finds the connection closing, and what was queued before is still sent.
        this.end.token().cancel();
        if closed.is_ready() {
            return closed.map_err(Into::into);
        }
        let farewell = this
            .farewell
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(FAREWELL)));
        match farewell.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx).map_err(Into::into)
    }
}

/// A stream of such a connection: what has arrived can still be read, then reading and writing fail.
pub(crate) struct EndingStream<S> {
    inner: S,
    reading: End,
    writing: End,
}

/// The end of the connection, as one half of a stream waits for it: each half may be in a task of its own.
type End = Pin<Box<WaitForCancellationFutureOwned>>;

impl<S> EndingStream<S> {
    fn new(inner: S, end: &CancellationToken) -> Self {
        let end = || Box::pin(end.clone().cancelled_owned());
        Self {
            inner,
            reading: end(),
            writing: end(),
        }
    }
}

/// What the stream says, unless it would wait on a connection that has ended.
fn unless_ended<T>(
    answer: Poll<io::Result<T>>,
    end: &mut End,
    cx: &mut Context<'_>,
) -> Poll<io::Result<T>> {
    if answer.is_pending() && end.as_mut().poll(cx).is_ready() {
        return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
    }
    answer
}

impl<S: AsyncRead + Unpin> AsyncRead for EndingStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let answer = Pin::new(&mut self.inner).poll_read(cx, buffer);
        unless_ended(answer, &mut self.reading, cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for EndingStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let answer = Pin::new(&mut self.inner).poll_write(cx, bytes);
        unless_ended(answer, &mut self.writing, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let answer = Pin::new(&mut self.inner).poll_flush(cx);
        unless_ended(answer, &mut self.writing, cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let answer = Pin::new(&mut self.inner).poll_close(cx);
        unless_ended(answer, &mut self.writing, cx)
    }
}
