//! One connection: HTTP/1.1, bounded in header time and size, or turned away where all places are taken.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::error::Refusal;
use crate::front::Front;
use crate::identity::Door;
use crate::sources::Place;
use crate::tls::Tls;

/// Longest time until a request's headers are there, also between requests: against slow and idle clients.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a connection's read buffer, so also the longest header section.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// Time that running requests get at a shutdown; systemd gives a service 90 s in all.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Time for a client to take its refusal when all places are taken.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// One connection; its places are free again when it is dropped.
pub(crate) struct Connection {
    pub(crate) front: Front,
    pub(crate) shutdown: CancellationToken,
    pub(crate) _permit: OwnedSemaphorePermit,
    pub(crate) _place: Option<Place>,
}

impl Connection {
    /// Serves a client of the Unix socket, whom the kernel knows.
    pub(crate) async fn run_for_peer(self, stream: UnixStream) {
        match stream.peer_cred() {
            Ok(credentials) => {
                let door = Door::of_user(credentials.uid()).await;
                self.run(door, stream).await;
            }
            Err(error) => tracing::warn!(%error, "credentials of a socket peer not readable"),
        }
    }

    /// Serves a client on TCP, after the handshake where the door speaks TLS.
    pub(crate) async fn run_tcp(self, stream: TcpStream, door: Door, tls: Option<Tls>) {
        let Some(tls) = tls else {
            return self.run(door, stream).await;
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.run(door, Box::new(stream)).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"), // the client's affair
            Err(_elapsed) => tracing::debug!("TLS handshake took too long"),
        }
    }

    pub(crate) async fn run(self, door: Door, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let front = self.front;
        let answer = service_fn(move |request: hyper::Request<Incoming>| {
            let (front, door) = (front.clone(), door.clone());
            async move {
                let request: Request = request.map(Body::new);
                Ok::<_, Infallible>(front.answer(door, request).await)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_READ_TIMEOUT)
            .max_buf_size(MAX_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), answer);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(SHUTDOWN_GRACE, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended early"); // the client's affair
        }
    }
}

/// Tells a client that all places are taken, whatever it asks.
pub(crate) async fn turn_away(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let body = Refusal::too_many_connections().body();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let telling = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.shutdown().await?;
        // Unread bytes at the close would reset the connection before the client has read the answer.
        let mut request = [0; 4_096];
        while stream.read(&mut request).await? > 0 {}
        std::io::Result::Ok(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(TURN_AWAY_TIMEOUT, telling).await {
        tracing::trace!(%error, "client did not take its refusal");
    }
}
