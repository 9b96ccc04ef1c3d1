//! The two doors: connections bounded in number, one task each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::bind::{Bound, SocketListener};
use crate::connection::{Connection, turn_away};
use crate::front::Front;
use crate::identity::Door;
use crate::origin::HostNames;
use crate::routes;
use crate::sources::{Place, Sources};
use crate::tls::Tls;

/// Most connections of each door: with both full, half of a usual limit of 1,024 descriptors is left for the
/// node, and strangers on TCP can't take the command line's door.
const MAX_CONNECTIONS_PER_DOOR: usize = 256;

/// Clients that are told at the same time that all places are taken; beyond, they are just closed.
const MAX_TURNED_AWAY: usize = 32;

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
        sources: Sources::default(),
        turned_away: Arc::new(Semaphore::new(MAX_TURNED_AWAY)),
        shutdown,
    };
    tokio::join!(
        server.accept_tcp(bound.tcp, bound.tls),
        server.accept_socket(&bound.socket)
    );
    bound.socket.remove().await;
    server.connections.close();
    server.connections.wait().await;
}

struct Server {
    front: Front,
    connections: TaskTracker,
    sources: Sources,
    turned_away: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Server {
    async fn accept_tcp(&self, listener: Option<TcpListener>, tls: Option<Tls>) {
        let Some(listener) = listener else {
            return;
        };
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS_PER_DOOR));
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.take_tcp(stream, peer, &places, tls.clone()),
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    fn take_tcp(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        places: &Arc<Semaphore>,
        tls: Option<Tls>,
    ) {
        let free = self.sources.enter(peer.ip()).zip(free_place(places));
        let Some((place, permit)) = free else {
            tracing::debug!(%peer, "no place for a connection");
            if tls.is_none() {
                self.turn_away(stream);
            }
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay not set"); // the peer is gone
        }
        // Gone already: then no name is good, and nobody waits for the answer.
        let local = stream.local_addr().ok().map(|address| address.ip());
        let door = Door::Tcp {
            source: peer.ip(),
            local,
        };
        let connection = self.connection(permit, place);
        self.connections
            .spawn(connection.run_tcp(stream, door, tls));
    }

    async fn accept_socket(&self, listener: &SocketListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS_PER_DOOR));
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match (accepted, free_place(&places)) {
                (Ok(stream), Some(permit)) => {
                    let connection = self.connection(permit, None);
                    self.connections.spawn(connection.run_for_peer(stream));
                }
                (Ok(stream), None) => self.turn_away(stream),
                (Err(error), _) => accept_failed(&error).await,
            }
        }
    }

    /// Says that all places are taken, to some at a time.
    fn turn_away(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        if let Some(permit) = free_place(&self.turned_away) {
            self.connections.spawn(async move {
                turn_away(stream).await;
                drop(permit);
            });
        }
    }

    fn connection(&self, permit: OwnedSemaphorePermit, place: Option<Place>) -> Connection {
        Connection {
            front: self.front.clone(),
            shutdown: self.shutdown.clone(),
            _permit: permit,
            _place: place,
        }
    }
}

fn free_place(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(places).try_acquire_owned().ok() // all taken; it is never closed
}

async fn accept_failed(error: &std::io::Error) {
    tracing::warn!(%error, "connection not accepted");
    tokio::time::sleep(ACCEPT_RETRY).await;
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use axum::Extension;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
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
        start_with(router, false).await
    }

    async fn start_with(router: Router, tls: bool) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let config = Config {
            tcp: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            tls: tls.then(|| crate::TlsFiles {
                certificate: directory.path().join("api.crt"),
                key: directory.path().join("api.key"),
                make_for: Some(vec!["localhost".to_owned()]),
            }),
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
            Door::Tcp { .. } => "a stranger".to_owned(),
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
        // The last of them has its place once it is answered.
        let mut last = held.pop().unwrap();
        wait_served(&mut last).await;
        held.push(last);
        let refused = ask(TcpStream::connect(running.tcp).await.unwrap()).await;
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
        for part in ["retry-after: 1", "\"too-many-connections\""] {
            assert!(refused.contains(part), "{refused}");
        }
        let by_socket = ask(UnixStream::connect(&running.socket).await.unwrap()).await;
        assert!(by_socket.starts_with("HTTP/1.1 200"), "{by_socket}");
        held.pop();
        in_time(async {
            while !ask(TcpStream::connect(running.tcp).await.unwrap())
                .await
                .starts_with("HTTP/1.1 200")
            {}
        })
        .await;
    }

    async fn wait_served(stream: &mut TcpStream) {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 15];
        in_time(stream.read_exact(&mut first)).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn a_client_whose_headers_do_not_come_is_closed() {
        let running = start(Router::new().route("/", get(who))).await;
        let mut slow = TcpStream::connect(running.tcp).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: loc")
            .await
            .unwrap();
        let mut answer = Vec::new();
        in_time(slow.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn with_a_certificate_the_door_speaks_tls_and_nothing_else() {
        let running = start_with(Router::new().route("/", get(who)), true).await;
        let plain = TcpStream::connect(running.tcp).await.unwrap();
        assert!(
            !ask(plain).await.starts_with("HTTP"),
            "plain text was answered"
        );
        let mut garbage = TcpStream::connect(running.tcp).await.unwrap();
        garbage.write_all(&[0x16, 3, 1, 0xff, 0xff]).await.unwrap();
        let by_socket = ask(UnixStream::connect(&running.socket).await.unwrap()).await;
        assert!(by_socket.starts_with("HTTP/1.1 200"), "{by_socket}");
    }
}
