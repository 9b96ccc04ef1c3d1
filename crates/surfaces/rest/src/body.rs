//! Bodies that are read whole: bounded in size and time, JSON only where it is declared.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::DeserializeOwned;

use crate::error::Refusal;

/// Most bytes of a JSON body: a submission with a long command line and environment has a few KiB.
pub(crate) const MAX_JSON_BYTES: usize = 1024 * 1024;

/// Longest wait for the next bytes of a body, against clients that trickle.
pub(crate) const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for the whole of a body that is read into memory.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A JSON body; refuses another or no content type, so that no form of a foreign page is taken.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            return Err(Refusal::json_needed());
        }
        let bytes = read_whole(request, MAX_JSON_BYTES).await?;
        // A list would be taken for the fields in their order, which is in no contract.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            let message = "the body is not what this route takes: a list instead of an object";
            return Err(Refusal::invalid("bad-json", message, ""));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            Refusal::invalid(
                "bad-json",
                format!("the body is not what this route takes: {error}"),
                "",
            )
        })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.to_str())
    else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// The whole body, at most `limit_bytes`; a larger declared one is refused unread.
pub(crate) async fn read_whole(request: Request, limit_bytes: usize) -> Result<Bytes, Refusal> {
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<usize>().ok()); // hyper checked it; none: chunked
    if declared.is_some_and(|bytes| bytes > limit_bytes) {
        return Err(Refusal::body_too_large(limit_bytes));
    }
    let reading = collect(
        request.into_body(),
        declared.unwrap_or_default(),
        limit_bytes,
    );
    tokio::time::timeout(BODY_TIMEOUT, reading)
        .await
        .unwrap_or_else(|_elapsed| Err(Refusal::body_too_slow()))
}

/// `declared_bytes` is the announced length, 0 where none was; it saves copies and decides nothing.
async fn collect(body: Body, declared_bytes: usize, limit_bytes: usize) -> Result<Bytes, Refusal> {
    let mut frames = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|error| {
            Refusal::invalid("body-cut-off", format!("the body ended early: {error}"), "")
        })?;
        if whole.len() + frame.len() > limit_bytes {
            return Err(Refusal::body_too_large(limit_bytes));
        }
        if whole.is_empty() {
            if frame.len() == declared_bytes {
                return Ok(frame); // the usual case: one frame, no copy
            }
            whole.reserve(declared_bytes.max(frame.len()));
        }
        whole.extend_from_slice(&frame);
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use service::view::CreateQueueRequest;

    use super::*;

    async fn status(content_type: Option<&str>, body: Body) -> u16 {
        let mut request = Request::builder();
        if let Some(value) = content_type {
            request = request.header(header::CONTENT_TYPE, value);
        }
        let request = request.body(body).unwrap();
        match Json::<CreateQueueRequest>::from_request(request, &()).await {
            Ok(_) => 200,
            Err(refusal) => refusal.into_response().status().as_u16(),
        }
    }

    #[tokio::test]
    async fn json_must_be_declared_and_be_what_the_route_takes() {
        let good = r#"{"name":"nightly"}"#;
        assert_eq!(status(Some("application/json"), good.into()).await, 200);
        assert_eq!(
            status(Some("Application/JSON; charset=utf-8"), good.into()).await,
            200
        );
        assert_eq!(status(Some("text/plain"), good.into()).await, 415);
        assert_eq!(status(Some("application/jsonp"), good.into()).await, 415);
        assert_eq!(status(None, good.into()).await, 415);
        assert_eq!(status(Some("application/json"), "{".into()).await, 400);
        let fields_in_order = r#" ["nightly", 1]"#;
        let given = status(Some("application/json"), fields_in_order.into());
        assert_eq!(given.await, 400);
        let unknown = r#"{"name":"nightly","color":"red"}"#;
        assert_eq!(status(Some("application/json"), unknown.into()).await, 400);
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_whether_declared_or_streamed() {
        let declared = Request::builder()
            .header(header::CONTENT_LENGTH, 11)
            .body(Body::empty())
            .unwrap();
        assert!(read_whole(declared, 10).await.is_err());
        let frames = futures::stream::iter(["12345", "67890", "1"].map(Ok::<_, std::io::Error>));
        let streamed = Request::new(Body::from_stream(frames));
        assert!(read_whole(streamed, 10).await.is_err());
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together() {
        let frames = futures::stream::iter(["123", "45", "6789"].map(Ok::<_, std::io::Error>));
        let request = Request::new(Body::from_stream(frames));
        assert_eq!(read_whole(request, 9).await.unwrap(), "123456789");
    }
}
