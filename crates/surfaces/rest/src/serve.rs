//! Connections: bounded in number, in header time and at the end; one task each.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::bind::{Bound, SocketListener};
use crate::front::Front;
use crate::identity::Door;
use crate::origin::HostNames;
use crate::routes;

/// Most connections of each door: with both full, half of a usual limit of 1,024 descriptors is left for the
/// node, and strangers on TCP can't take the command line's door.
const MAX_CONNECTIONS_PER_DOOR: usize = 256;

/// Longest time until a request's headers are there, also between requests: against slow and idle clients.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a connection's read buffer, so also the longest header section.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// Time that running requests get at a shutdown; systemd gives a service 90 s in all.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Wait after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves `bound` until `shutdown`; then lets running requests end and removes the socket file.
///
/// # Errors
/// None so far: a connection that fails ends alone, and a failed accept is tried again.
pub async fn serve(
    bound: Bound,
    service: service::Handle,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let router = routes::router(service, shutdown.clone());
    serve_router(bound, router, shutdown).await;
    Ok(())
}

async fn serve_router(bound: Bound, router: Router, shutdown: CancellationToken) {
    let server = Server {
        front: Front::new(router, HostNames::new(&bound.allowed_hosts)),
        connections: TaskTracker::new(),
        shutdown,
    };
    tokio::join!(
        server.accept_tcp(bound.tcp),
        server.accept_socket(&bound.socket)
    );
    bound.socket.remove().await;
    server.connections.close();
    server.connections.wait().await;
}

struct Server {
    front: Front,
    connections: TaskTracker,
    shutdown: CancellationToken,
}

impl Server {
    async fn accept_tcp(&self, listener: Option<TcpListener>) {
        let Some(listener) = listener else {
            return;
        };
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS_PER_DOOR));
        while let Some(permit) = self.place(&places).await {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "nodelay not set"); // the peer is gone
                    }
                    let connection = self.connection(permit);
                    self.connections
                        .spawn(connection.run(Door::Tcp(peer.ip()), stream));
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    async fn accept_socket(&self, listener: &SocketListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS_PER_DOOR));
        while let Some(permit) = self.place(&places).await {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => {
                    let connection = self.connection(permit);
                    self.connections.spawn(connection.run_for_peer(stream));
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    /// A free place; none at the shutdown. While all are taken new connections wait in the kernel.
    async fn place(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            () = self.shutdown.cancelled() => None,
            permit = Arc::clone(places).acquire_owned() => permit.ok(), // never closed
        }
    }

    fn connection(&self, permit: OwnedSemaphorePermit) -> Connection {
        Connection {
            front: self.front.clone(),
            shutdown: self.shutdown.clone(),
            _permit: permit,
        }
    }
}

async fn accept_failed(error: &std::io::Error) {
    tracing::warn!(%error, "connection not accepted");
    tokio::time::sleep(ACCEPT_RETRY).await;
}

/// One connection; its place is free again when it is dropped.
struct Connection {
    front: Front,
    shutdown: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn run_for_peer(self, stream: UnixStream) {
        match stream.peer_cred() {
            Ok(credentials) => {
                let door = Door::of_user(credentials.uid()).await;
                self.run(door, stream).await;
            }
            Err(error) => tracing::warn!(%error, "credentials of a socket peer not readable"),
        }
    }

    async fn run(self, door: Door, stream: impl AsyncRead + AsyncWrite + Unpin) {
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

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use axum::Extension;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use types::Role;

    use super::*;
    use crate::{Config, bind};

    /// Long enough for a loaded machine; reached only by a failure.
    const DEADLINE: Duration = Duration::from_secs(20);

    struct Running {
        tcp: SocketAddr,
        socket: PathBuf,
        shutdown: CancellationToken,
        serving: tokio::task::JoinHandle<()>,
        _directory: tempfile::TempDir,
    }

    async fn start(router: Router) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let config = Config {
            tcp: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            ..Config::new(socket.clone())
        };
        let bound = bind(&config).await.unwrap();
        let tcp = bound.tcp_address().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve_router(bound, router, shutdown.clone()));
        Running {
            tcp,
            socket,
            shutdown,
            serving,
            _directory: directory,
        }
    }

    async fn in_time<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(DEADLINE, future).await.unwrap()
    }

    async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        in_time(stream.read_to_string(&mut answer)).await.unwrap();
        answer
    }

    async fn who(Extension(door): Extension<Door>) -> String {
        match door {
            Door::Tcp(_) => "a stranger".to_owned(),
            Door::Socket(caller) => format!("{} the {:?}", caller.user, caller.role),
        }
    }

    #[tokio::test]
    async fn a_socket_user_is_known_by_the_kernel_and_a_tcp_user_is_not() {
        let running = start(Router::new().route("/", get(who))).await;
        let user_id = rustix::process::geteuid().as_raw();
        let expected = format!(
            "{} the {:?}",
            crate::passwd::user_name(user_id).await,
            Role::Admin
        );
        let by_socket = ask(UnixStream::connect(&running.socket).await.unwrap()).await;
        assert!(by_socket.ends_with(&expected), "{by_socket}");
        let by_tcp = ask(TcpStream::connect(running.tcp).await.unwrap()).await;
        assert!(by_tcp.ends_with("a stranger"), "{by_tcp}");
    }

    #[tokio::test]
    async fn a_shutdown_ends_idle_connections_and_removes_the_socket() {
        let running = start(Router::new().route("/", get(who))).await;
        let mut idle = TcpStream::connect(running.tcp).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 15];
        in_time(idle.read_exact(&mut first)).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        running.shutdown.cancel();
        in_time(running.serving).await.unwrap();
        let mut rest = Vec::new();
        in_time(idle.read_to_end(&mut rest)).await.unwrap();
        assert!(!running.socket.exists());
    }

    #[tokio::test]
    async fn a_running_request_is_answered_during_a_shutdown() {
        let entered = Arc::new(tokio::sync::Notify::new());
        let go_on = Arc::new(tokio::sync::Notify::new());
        let (inside, released) = (Arc::clone(&entered), Arc::clone(&go_on));
        let slow = async move || {
            inside.notify_one();
            released.notified().await;
            "answered"
        };
        let running = start(Router::new().route("/", get(slow))).await;
        let asking = tokio::spawn(ask(TcpStream::connect(running.tcp).await.unwrap()));
        in_time(entered.notified()).await;
        running.shutdown.cancel();
        go_on.notify_one();
        assert!(in_time(asking).await.unwrap().ends_with("answered"));
        in_time(running.serving).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_door_does_not_close_the_other() {
        let running = start(Router::new().route("/", get(who))).await;
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS_PER_DOOR {
            held.push(TcpStream::connect(running.tcp).await.unwrap());
        }
        let mut waiting = TcpStream::connect(running.tcp).await.unwrap();
        waiting
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let by_socket = ask(UnixStream::connect(&running.socket).await.unwrap()).await;
        assert!(by_socket.starts_with("HTTP/1.1 200"), "{by_socket}");
        let mut byte = [0];
        let early = waiting.try_read(&mut byte);
        assert!(early.is_err(), "a connection over the limit was served");
        held.pop();
        in_time(waiting.read_exact(&mut byte)).await.unwrap();
    }
}
