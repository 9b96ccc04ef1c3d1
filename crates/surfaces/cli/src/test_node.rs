//! A node for tests: a real HTTP server on a real Unix socket that answers as it is told and remembers what came.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;

use crate::client::{Address, Client, next_piece};

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What to answer.
#[derive(Debug)]
pub(crate) struct Answer {
    status: u16,
    pieces: VecDeque<Result<Bytes, std::io::Error>>,
    /// What came before the break is on its way.
    is_flushed: bool,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            pieces: VecDeque::from([Ok(body.into())]),
            is_flushed: false,
        }
    }

    pub(crate) fn error(status: u16, message: &str) -> Self {
        let body = format!(r#"{{"code":"c","message":"{message}","hint":"do this"}}"#);
        Self::new(status, body)
    }

    /// After its bytes the connection breaks.
    pub(crate) fn broken(mut self) -> Self {
        self.pieces
            .push_back(Err(std::io::ErrorKind::BrokenPipe.into()));
        self
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if matches!(self.pieces.front(), Some(Err(_))) && !self.is_flushed {
            self.is_flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.pieces.pop_front().map(|piece| piece.map(Frame::data)))
    }
}

/// The node; it ends with its directory.
pub(crate) struct TestNode {
    _directory: tempfile::TempDir,
    path: PathBuf,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestNode {
    /// Serves `answer`, which is given each request and its number from 0.
    pub(crate) fn serve(answer: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("n1.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                let service = service_fn(move |request| {
                    respond(request, Arc::clone(&answer), Arc::clone(&log))
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A broken connection is what some tests want.
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Self {
            _directory: directory,
            path,
            seen,
            task,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::at(Address::Socket(self.path.clone()))
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn respond(
    request: hyper::Request<Incoming>,
    answer: Arc<impl Fn(usize, &Seen) -> Answer>,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Answer>, Infallible> {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Ok(Some(piece)) = next_piece(&mut body).await {
        bytes.extend_from_slice(&piece);
    }
    let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap().to_owned();
    let seen = Seen {
        line: format!("{} {}", head.method, head.uri),
        headers: head
            .headers
            .iter()
            .map(|(key, value)| (key.to_string(), text(value)))
            .collect(),
        body: bytes.into(),
    };
    let number = {
        let mut log = log.lock().unwrap();
        log.push(seen.clone());
        log.len() - 1
    };
    let answer = answer(number, &seen);
    let mut response = Response::new(answer);
    *response.status_mut() = StatusCode::from_u16(response.body().status).unwrap();
    Ok(response)
}
