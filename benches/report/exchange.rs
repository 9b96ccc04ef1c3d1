//! HTTP exchanges: one connection, one request at a time. The same for everybody who is measured.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// A request body in one piece.
#[derive(Debug)]
pub(crate) struct Piece(Option<Bytes>);

impl Piece {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self((!bytes.is_empty()).then_some(bytes))
    }
}

impl Body for Piece {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Reads a response to its end; its trailers come with it.
pub(crate) async fn read_whole(mut body: Incoming) -> anyhow::Result<(Bytes, HeaderMap)> {
    let mut whole = BytesMut::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame.context("read a response")?.into_data() {
            Ok(data) => whole.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((whole.freeze(), trailers))
}

async fn connect(address: SocketAddr) -> anyhow::Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

/// HTTP/1.1 with keep-alive.
pub(crate) async fn connect_http1(
    address: SocketAddr,
) -> anyhow::Result<http1::SendRequest<Piece>> {
    let (sender, connection) = http1::handshake(connect(address).await?).await?;
    // Its errors show in the requests.
    drop(tokio::spawn(connection));
    Ok(sender)
}

/// HTTP/2 without TLS and without an upgrade.
pub(crate) async fn connect_http2(
    address: SocketAddr,
) -> anyhow::Result<http2::SendRequest<Piece>> {
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), connect(address).await?).await?;
    drop(tokio::spawn(connection));
    Ok(sender)
}
