//! The body of a request.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::mpsc;

/// The body of a request: nothing, bytes, or a file that is read while it is sent.
#[derive(Debug)]
pub(crate) enum Payload {
    /// Bytes; taken when they are sent.
    Whole(Option<Bytes>),
    /// Pieces from a reader.
    Pieces {
        /// The reader's end fails the request by an error and ends it by hanging up.
        receiver: mpsc::Receiver<std::io::Result<Bytes>>,
        /// Bytes that are still to come.
        left: u64,
    },
}

impl Payload {
    /// No body.
    pub(crate) const fn empty() -> Self {
        Self::Whole(None)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces { receiver, left } => {
                let piece = std::task::ready!(receiver.poll_recv(context));
                if let Some(Ok(bytes)) = &piece {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Pieces { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Pieces { left, .. } => SizeHint::with_exact(*left),
        }
    }
}
