//! Bodies that are read whole: bounded in size and time, JSON only where it is declared.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::error::Refusal;

/// Most bytes of a JSON body: a submission with a long command line and environment has a few KiB.
pub(crate) const MAX_JSON_BYTES: usize = 1024 * 1024;

/// Longest wait for the next bytes of a body that is passed on as it comes.
const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Such a body may keep its place a second longer for each so many bytes: there are 256 places, and whoever holds one
/// must use it. A tenth of what a telephone sends at the edge of its cell, so that it hits nobody with a blob to store.
const MIN_BODY_BYTES_PER_SECOND: u32 = 1024;

/// Waiting that a body has in advance, and the most that it can save up: a network that is away for a moment.
const BODY_CREDIT: Duration = Duration::from_secs(60);

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
    read_within(request, limit_bytes, BODY_TIMEOUT).await
}

async fn read_within(
    request: Request,
    limit_bytes: usize,
    limit: Duration,
) -> Result<Bytes, Refusal> {
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
    timeout(limit, reading)
        .await
        .unwrap_or_else(|_elapsed| Err(Refusal::body_too_slow()))
}

/// How much longer a body may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    idle: Duration,
    credit: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            idle: BODY_IDLE_TIMEOUT,
            credit: BODY_CREDIT,
        }
    }
}

impl Patience {
    /// For the next bytes.
    fn next(self) -> Duration {
        self.idle.min(self.credit)
    }

    /// When so many bytes have come after so much waiting; what storing them takes does not count.
    fn after(self, waited: Duration, bytes: usize) -> Self {
        let earned = Duration::from_secs(bytes as u64) / MIN_BODY_BYTES_PER_SECOND;
        let credit = self.credit.saturating_sub(waited) + earned;
        Self {
            credit: credit.min(BODY_CREDIT),
            ..self
        }
    }
}

/// The frames of a body that is passed on, and whether it was given up because they came too slowly.
pub(crate) fn paced(
    body: Body,
    patience: Patience,
) -> (impl Stream<Item = io::Result<Bytes>>, Arc<AtomicBool>) {
    let too_slow = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&too_slow);
    let start = (body.into_data_stream(), patience);
    let frames = stream::try_unfold(start, move |(mut frames, patience)| {
        let flag = Arc::clone(&flag);
        async move {
            let began = Instant::now();
            let Ok(next) = timeout(patience.next(), frames.next()).await else {
                flag.store(true, Ordering::Relaxed);
                return Err(io::ErrorKind::TimedOut.into());
            };
            let Some(frame) = next.transpose().map_err(io::Error::other)? else {
                return Ok(None);
            };
            let patience = patience.after(began.elapsed(), frame.len());
            Ok(Some((frame, (frames, patience))))
        }
    });
    (frames, too_slow)
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
        let frames = stream::iter(["12345", "67890", "1"].map(Ok::<_, io::Error>));
        let streamed = Request::new(Body::from_stream(frames));
        assert!(read_whole(streamed, 10).await.is_err());
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together() {
        let frames = stream::iter(["123", "45", "6789"].map(Ok::<_, io::Error>));
        let request = Request::new(Body::from_stream(frames));
        assert_eq!(read_whole(request, 9).await.unwrap(), "123456789");
    }

    /// A body that begins and then never ends.
    fn stuck() -> Body {
        let begun = stream::iter([Ok::<_, io::Error>("begun")]);
        Body::from_stream(begun.chain(stream::pending()))
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_is_refused_as_too_slow() {
        let moment = Duration::from_millis(20);
        let request = Request::new(stuck());
        let refusal = read_within(request, 100, moment).await.unwrap_err();
        assert_eq!(refusal.into_response().status(), 408);

        let patience = Patience {
            idle: moment,
            ..Patience::default()
        };
        let (frames, too_slow) = paced(stuck(), patience);
        let frames: Vec<_> = frames.collect().await;
        assert_eq!(frames[0].as_ref().unwrap(), "begun");
        let kind = frames[1].as_ref().unwrap_err().kind();
        assert_eq!((frames.len(), kind), (2, io::ErrorKind::TimedOut));
        assert!(too_slow.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_body_that_comes_is_passed_on_whole_and_a_broken_one_is_not_called_slow() {
        let frames = stream::iter(["123", "45"].map(Ok::<_, io::Error>));
        let (frames, too_slow) = paced(Body::from_stream(frames), Patience::default());
        let whole: Vec<_> = frames.map(Result::unwrap).collect().await;
        assert_eq!(whole.concat(), b"12345");
        assert!(!too_slow.load(Ordering::Relaxed));
        let broken = stream::iter([Err::<Bytes, _>(io::Error::other("cut"))]);
        let (frames, too_slow) = paced(Body::from_stream(broken), Patience::default());
        assert!(frames.collect::<Vec<_>>().await[0].is_err());
        assert!(!too_slow.load(Ordering::Relaxed));
    }

    /// How long a body is listened to that brings so many bytes after each pause, and the bytes; none: to its end.
    fn listen(pieces: u32, bytes: usize, pause: Duration) -> (Option<Duration>, usize) {
        let mut patience = Patience::default();
        for piece in 0..pieces {
            if pause > patience.next() {
                let took = pause * piece + patience.next();
                return (Some(took), bytes * piece as usize);
            }
            patience = patience.after(pause, bytes);
        }
        (None, bytes * pieces as usize)
    }

    #[test]
    fn a_body_that_trickles_is_given_up_however_often_a_byte_comes() {
        for pause in [Duration::from_secs(29), Duration::from_millis(100)] {
            let (took, bytes) = listen(u32::MAX, 1, pause);
            let took = took.expect("it is given up");
            assert!(took < BODY_CREDIT + Duration::from_secs(2), "{took:?}");
            assert!(bytes < 1_000, "{bytes}");
        }
        let silent = listen(1, 1, Duration::from_secs(3_600));
        assert_eq!(silent, (Some(BODY_IDLE_TIMEOUT), 0));
        // What came fast buys no hour of trickling later.
        let rich = Patience::default().after(Duration::ZERO, 4 << 30);
        assert_eq!(rich, Patience::default());
    }

    #[test]
    fn a_large_body_may_take_hours_at_the_least_rate_and_make_good_a_gap() {
        let pause = Duration::from_secs(10);
        let at_least = 10 * MIN_BODY_BYTES_PER_SECOND as usize;
        assert_eq!(listen(10_000, at_least, pause), (None, 10_000 * at_least));
        let (took, _) = listen(10_000, at_least / 2, pause);
        assert!(took.is_some(), "at half of it");
        let after_gap = Patience::default().after(Duration::from_secs(29), 64 << 10);
        assert_eq!(after_gap, Patience::default());
    }
}
