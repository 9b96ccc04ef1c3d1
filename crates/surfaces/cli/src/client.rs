//! HTTP with one node, over its Unix socket or TCP.

mod lines;
mod locate;
mod payload;
mod stream;
mod tls;

use std::pin::Pin;
use std::time::Duration;

use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use rest::wire::ErrorView;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};

use crate::error::Error;
use crate::globals::Globals;
use crate::surroundings::Surroundings;

pub(crate) use lines::LineBuffer;
pub(crate) use locate::Address;
pub(crate) use payload::Payload;
pub(crate) use stream::{EventReader, LineReader};
use tls::Trust;

/// Root of the interface.
const BASE: &str = "/api/v1";
/// Longest answer that is read into memory: a list of ten thousand experiments has about 4 MiB.
const ANSWER_LIMIT_BYTES: u64 = 64 << 20;
/// Longest wait for an answer: the node itself gives up on the cluster sooner.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Slowest acceptable upload, for the time limit of large bodies: a poor disk.
const UPLOAD_BYTES_PER_SECOND: u64 = 1 << 20;

/// A node, as one asks it. Each request has a connection of its own: on a Unix socket that costs some 50 µs.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: Address,
    trust: Option<Trust>,
    stale: bool,
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Request {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    payload: Payload,
}

impl Request {
    /// A request without headers of its own; `path` starts after `/api/v1`.
    pub(crate) fn new(method: Method, path: String, payload: impl Into<Payload>) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            payload: payload.into(),
        }
    }

    /// A request with a JSON body.
    pub(crate) fn json(path: &str, body: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(body).expect("wire types have string keys only");
        Self::new(Method::POST, path.to_owned(), Bytes::from(bytes))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
    }

    /// The same with a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl Client {
    /// Finds the node that `globals` mean.
    ///
    /// # Errors
    /// There is none, or several.
    pub(crate) fn locate(globals: &Globals, surroundings: &Surroundings) -> Result<Self, Error> {
        let address = locate::locate(globals.node.as_deref(), surroundings)?;
        Ok(Self {
            address,
            trust: Trust::read(globals.pin.as_deref(), globals.ca.as_deref())?,
            stale: globals.stale,
        })
    }

    /// A client of a known address.
    #[cfg(test)]
    pub(crate) fn at(address: Address) -> Self {
        Self {
            address,
            trust: None,
            stale: false,
        }
    }

    /// The path of a read, with what `--stale` asks for.
    pub(crate) fn consistent(&self, path: &str) -> String {
        match (self.stale, path.contains('?')) {
            (false, _) => path.to_owned(),
            (true, false) => format!("{path}?consistency=stale"),
            (true, true) => format!("{path}&consistency=stale"),
        }
    }

    /// Asks for the state under `path`; the JSON as it came.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, Error> {
        let request = Request::new(Method::GET, self.consistent(path), Payload::empty());
        self.ask(request).await
    }

    /// Sends a request and reads the answer.
    pub(crate) async fn ask(&self, request: Request) -> Result<Bytes, Error> {
        let sent = hyper::body::Body::size_hint(&request.payload).exact();
        let limit = ANSWER_LIMIT + Duration::from_secs(sent.unwrap_or(0) / UPLOAD_BYTES_PER_SECOND);
        let answer = async {
            let response = self.open(request).await?;
            read_whole(response.into_body()).await
        };
        tokio::time::timeout(limit, answer)
            .await
            .unwrap_or(Err(Error::TimedOut {
                seconds: limit.as_secs(),
            }))
    }

    /// Sends a request; the body of a good answer is still to be read.
    pub(crate) async fn open(&self, request: Request) -> Result<Response<Incoming>, Error> {
        let request = self.complete(request)?;
        let response = match &self.address {
            Address::Socket(path) => {
                let stream = UnixStream::connect(path).await;
                self.exchange(stream.map_err(|error| self.unreachable(error))?, request)
                    .await?
            }
            Address::Tcp {
                authority, is_tls, ..
            } => {
                let stream = TcpStream::connect(authority.as_str()).await;
                let stream = stream.map_err(|error| self.unreachable(error))?;
                if *is_tls {
                    let trust = self.trust.as_ref().ok_or(Error::NoTrust)?;
                    let stream = tls::connect(stream, authority, trust).await?;
                    self.exchange(stream, request).await?
                } else {
                    self.exchange(stream, request).await?
                }
            }
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = read_whole(response.into_body()).await?;
        Err(refusal(status, &body))
    }

    fn complete(&self, request: Request) -> Result<hyper::Request<Payload>, Error> {
        let (host, token) = match &self.address {
            Address::Socket(_) => ("localhost", None),
            Address::Tcp {
                authority, token, ..
            } => (authority.as_str(), token.as_deref()),
        };
        let mut complete = hyper::Request::new(request.payload);
        *complete.method_mut() = request.method;
        let path = format!("{BASE}{}", request.path);
        *complete.uri_mut() = path
            .parse()
            .map_err(|_invalid| Error::HeaderValue { name: "the path" })?;
        let headers = complete.headers_mut();
        headers.insert(HOST, header_value(host, "the address")?);
        if let Some(token) = token {
            let mut value = header_value(&format!("Bearer {token}"), "MUSTER_TOKEN")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        headers.extend(
            request
                .headers
                .into_iter()
                .map(|(name, value)| (Some(name), value)),
        );
        Ok(complete)
    }

    async fn exchange<S>(
        &self,
        stream: S,
        request: hyper::Request<Payload>,
    ) -> Result<Response<Incoming>, Error>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let broken = |source| Error::Talk {
            step: "asking",
            source,
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Its error is also the error of the request or of its body, which are looked at.
        tokio::spawn(async move { drop(connection.await) });
        sender.send_request(request).await.map_err(broken)
    }

    fn unreachable(&self, source: std::io::Error) -> Error {
        Error::Connect {
            address: self.address.to_string(),
            source,
        }
    }
}

/// Makes a header's value.
///
/// # Errors
/// The text holds control characters.
pub(crate) fn header_value(text: &str, name: &'static str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_invalid| Error::HeaderValue { name })
}

/// Reads a JSON answer.
///
/// # Errors
/// It is not `what`.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Unreadable { what, source })
}

/// Writes a text as a part of a path or a query.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            // A part that is only dots would be taken for a way up.
            b'.' if !text.bytes().all(|byte| byte == b'.') => encoded.push('.'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The next piece of a body; none at its end.
pub(crate) async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, Error> {
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        match frame {
            None => return Ok(None),
            Some(Err(source)) => {
                return Err(Error::Talk {
                    step: "reading",
                    source,
                });
            }
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

async fn read_whole(mut body: Incoming) -> Result<Bytes, Error> {
    let mut whole = Vec::new();
    while let Some(piece) = next_piece(&mut body).await? {
        if (whole.len() + piece.len()) as u64 > ANSWER_LIMIT_BYTES {
            return Err(Error::AnswerTooLong {
                limit: ANSWER_LIMIT_BYTES,
            });
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

/// The error in an answer; something that is not muster may answer too.
fn refusal(status: u16, body: &[u8]) -> Error {
    let view = serde_json::from_slice(body).unwrap_or_else(|_not_json| ErrorView {
        code: "unknown".to_owned(),
        message: format!("the node answered with HTTP status {status}"),
        hint: "is that a muster node?".to_owned(),
    });
    Error::Refused {
        status,
        view: Box::new(view),
    }
}

#[cfg(test)]
mod tests;
