//! What can go wrong at start ([`Error`]) and what a request is refused with ([`Refusal`]). The only place
//! that turns an error into an HTTP status.

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use service::view::ErrorView;
use service::{ErrorKind, ServiceError};

use crate::bind::PortHolder;

/// The API could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address can be reached from other machines.
    #[error(
        "the API does not listen on {address} without TLS, since other machines reach that address: set tls_certificate and tls_key, or use 127.0.0.1 and an SSH tunnel"
    )]
    NotLoopback {
        /// What was asked for.
        address: SocketAddr,
    },
    /// A certificate or its key cannot be used.
    #[error("the API cannot use {path:?} for TLS: {problem}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Other machines would reach the API, and nobody could come in.
    #[error(
        "the API does not listen on {address}, which other machines reach, while nobody has a user token: start the node without --api-address, make a token with `muster user add NAME`, and start it again as now"
    )]
    NoUserToken {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Somebody listens there.
    #[error(
        "port {} of {} is in use by {holder}; stop it, or choose another port with --port",
        address.port(), address.ip()
    )]
    PortInUse {
        /// What was asked for.
        address: SocketAddr,
        /// Who has it.
        holder: PortHolder,
    },
    /// The system refused the address.
    #[error("listen on {address}")]
    BindTcp {
        /// What was asked for.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel's limit of a socket path.
    #[error("the socket path {path:?} is longer than {limit} bytes; choose a shorter directory")]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Most bytes.
        limit: usize,
    },
    /// A live process answers on the socket.
    #[error(
        "the socket {path:?} is in use by process {process}: is a node of this user running already?"
    )]
    SocketInUse {
        /// The path.
        path: PathBuf,
        /// Process id, or `?` where the kernel does not tell.
        process: String,
    },
    /// A file that is no socket is in the way; it is left alone.
    #[error("{path:?} exists and is not a socket; move it away")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A step of making the socket.
    #[error("{step} {path:?}")]
    Socket {
        /// `look at`, `create the directory` …
        step: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// An answer that is not the asked one: status and error body.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    view: ErrorView,
}

impl Refusal {
    fn new(status: StatusCode, code: &str, message: impl Into<String>, hint: &str) -> Self {
        let view = ErrorView {
            code: code.to_owned(),
            message: message.into(),
            hint: hint.to_owned(),
        };
        Self { status, view }
    }

    /// The request can't be understood.
    pub(crate) fn invalid(code: &str, message: impl Into<String>, hint: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message, hint)
    }

    /// Over TCP nobody is known without a token.
    pub(crate) fn token_needed(message: &str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "token-needed",
            message,
            "send `Authorization: Bearer <token>`; make a token with `muster user token NAME` in a shell on a node",
        )
    }

    /// The caller is known and may only read.
    pub(crate) fn read_only() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "read-only",
            "a viewer may read but not change anything",
            "ask an administrator for a token with the role member",
        )
    }

    /// The name in `Host` is not one of ours: a rebound DNS name, or a missing setting.
    pub(crate) fn wrong_host() -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "wrong-host",
            "the Host header names none of this node's names",
            "use 127.0.0.1 or localhost, or add the name to allowed_hosts in the node's configuration",
        )
    }

    /// A page of another origin asks.
    pub(crate) fn foreign_origin() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "foreign-origin",
            "the request was caused by a page of another site",
            "open the address yourself, or send no Origin and Sec-Fetch-Site headers",
        )
    }

    /// All places are taken.
    pub(crate) fn too_many_connections() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-many-connections",
            "the node has as many connections as it takes",
            "try again in a moment, and close connections that are not used",
        )
    }

    /// The body is not declared as JSON.
    pub(crate) fn json_needed() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "json-needed",
            "the body must be JSON",
            "send `Content-Type: application/json`",
        )
    }

    /// The body is over its limit.
    pub(crate) fn body_too_large(limit_bytes: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            format!("the body is larger than {limit_bytes} bytes"),
            "large data goes to PUT /api/v1/blobs/{hash}",
        )
    }

    /// The body did not come in time.
    pub(crate) fn body_too_slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-too-slow",
            "the body of the request stopped coming",
            "",
        )
    }

    /// The range begins where the file has ended.
    pub(crate) fn beyond(length: u64) -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range-beyond-end",
            format!("the file has {length} bytes, and nothing of it is in the range"),
            "ask for bytes that it has, or leave Range out",
        )
    }

    /// No such route.
    pub(crate) fn no_such_route(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no-such-route",
            format!("there is nothing at {path}"),
            "the routes are listed in /api/v1/openapi.json",
        )
    }

    /// The route exists with another method.
    pub(crate) fn wrong_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "wrong-method",
            "this route does not take this method",
            "the routes are listed in /api/v1/openapi.json",
        )
    }
}

impl Refusal {
    /// The body alone, where there is no request to answer.
    pub(crate) fn body(&self) -> Vec<u8> {
        serde_json::to_vec(&self.view).expect("an error has text keys only")
    }
}

/// Most of another library's refusal that is passed on.
const MAX_FOREIGN_BYTES: usize = 1_024;

/// Gives the refusals that come from below our routes (a path that is no text, say) the shape of ours.
pub(crate) async fn in_our_shape(response: Response) -> Response {
    let status = response.status();
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let said = axum::body::to_bytes(body, MAX_FOREIGN_BYTES).await;
    let said = said.unwrap_or_default(); // too long to be of use
    let said = String::from_utf8_lossy(&said);
    let said = match said.trim() {
        "" => parts.status.canonical_reason().unwrap_or("refused"),
        said => said,
    };
    let hint = "the routes are listed in /api/v1/openapi.json";
    let mut ours = Refusal::new(status, "bad-request", said, hint).into_response();
    for (name, value) in &parts.headers {
        if !matches!(*name, header::CONTENT_TYPE | header::CONTENT_LENGTH) {
            ours.headers_mut().append(name, value.clone());
        }
    }
    ours
}

impl From<ServiceError> for Refusal {
    fn from(error: ServiceError) -> Self {
        if error.kind == ErrorKind::Internal {
            tracing::error!(code = %error.code, error = %error.message, "request failed");
        }
        Self {
            status: status_of(error.kind),
            view: error_view(error),
        }
    }
}

/// The body that stands for `error`.
pub(crate) fn error_view(error: ServiceError) -> ErrorView {
    ErrorView {
        code: error.code,
        message: error.message,
        hint: error.hint,
    }
}

fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Seconds after which a refused client may try again: an election takes less.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Most bytes of a message: what was sent is named in it, not repeated.
const MAX_MESSAGE_BYTES: usize = 1_000;

fn shorten(message: &mut String) {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push('…');
    }
}

impl IntoResponse for Refusal {
    fn into_response(mut self) -> Response {
        shorten(&mut self.view.message);
        let mut response = (self.status, axum::Json(self.view)).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_does_not_repeat_all_that_was_sent() {
        let mut message = "ä".repeat(5_000);
        shorten(&mut message);
        assert!(message.len() <= MAX_MESSAGE_BYTES + 3 && message.ends_with('…'));
    }

    #[test]
    fn every_kind_has_its_status_and_only_waiting_helps_with_some() {
        let table = [
            (ErrorKind::Invalid, 400, false),
            (ErrorKind::Unauthenticated, 401, false),
            (ErrorKind::Forbidden, 403, false),
            (ErrorKind::NotFound, 404, false),
            (ErrorKind::Conflict, 409, false),
            (ErrorKind::TooLarge, 413, false),
            (ErrorKind::TooMany, 429, true),
            (ErrorKind::Unavailable, 503, true),
            (ErrorKind::Internal, 500, false),
        ];
        for (kind, status, retry) in table {
            let refusal = Refusal::from(ServiceError::new(kind, "code", "message"));
            let response = refusal.into_response();
            assert_eq!(response.status(), status, "{kind:?}");
            assert_eq!(
                response.headers().contains_key(header::RETRY_AFTER),
                retry,
                "{kind:?}"
            );
            assert_eq!(
                response.headers().contains_key(header::WWW_AUTHENTICATE),
                status == 401,
                "{kind:?}"
            );
        }
    }
}
