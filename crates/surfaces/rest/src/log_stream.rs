//! Output of an experiment as a body: server-sent events (with ids to resume at and keep-alives) or one JSON
//! object per line.

use std::convert::Infallible;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, ReadyChunks};
use futures::{Stream, StreamExt};
use service::ServiceError;
use service::view::LogItem;

use crate::error::error_view;

/// Silence after which a comment is sent, so that proxies keep the connection and a dead one is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Items that are put into one chunk when they wait already: fewer system calls, still small chunks.
const MAX_ITEMS_PER_CHUNK: usize = 128;

/// First bytes of an event stream: a client that is cut off comes back after a second.
const OPENING: &[u8] = b"retry: 1000\n\n";

/// What a follower has seen already, as the id of an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Attempt.
    pub(crate) attempt: u32,
    /// Record of the attempt.
    pub(crate) sequence: u64,
}

impl Position {
    /// Reads `<attempt>-<sequence>`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (attempt, sequence) = text.trim().split_once('-')?;
        Some(Self {
            attempt: attempt.parse().ok()?, // none: not a position, whatever is wrong with it
            sequence: sequence.parse().ok()?,
        })
    }

    /// Position of `item`; none for those that are not records.
    fn of(item: &LogItem) -> Option<Self> {
        match *item {
            LogItem::Console {
                attempt, sequence, ..
            }
            | LogItem::Scalar {
                attempt, sequence, ..
            } => Some(Self { attempt, sequence }),
            LogItem::Gap { .. } | LogItem::State { .. } | LogItem::End { .. } => None,
        }
    }
}

type Items = BoxStream<'static, Result<LogItem, ServiceError>>;

/// The items as server-sent events. An error becomes an event `error` with its body as data; it and `end` are
/// the last.
pub(crate) fn events(items: Items) -> impl Stream<Item = Result<Bytes, Infallible>> {
    events_with(items, KEEP_ALIVE_INTERVAL)
}

fn events_with(items: Items, silence: Duration) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let opening = futures::stream::once(async { Ok(Bytes::from_static(OPENING)) });
    let source = Some(items.ready_chunks(MAX_ITEMS_PER_CHUNK));
    opening.chain(futures::stream::unfold(source, move |source| async move {
        let (chunk, source) = next_events(source?, silence).await?;
        Some((Ok(chunk), source))
    }))
}

/// The next chunk, and the source unless that was the last one.
async fn next_events(
    mut source: ReadyChunks<Items>,
    silence: Duration,
) -> Option<(Bytes, Option<ReadyChunks<Items>>)> {
    let Ok(next) = tokio::time::timeout(silence, source.next()).await else {
        return Some((Bytes::from_static(b": keep-alive\n\n"), Some(source)));
    };
    let mut chunk = Vec::new();
    for item in next? {
        let last = matches!(item, Err(_) | Ok(LogItem::End { .. }));
        write_event(&mut chunk, item);
        if last {
            return Some((chunk.into(), None));
        }
    }
    Some((chunk.into(), Some(source)))
}

fn write_event(chunk: &mut Vec<u8>, item: Result<LogItem, ServiceError>) {
    if let Some(Position { attempt, sequence }) = item.as_ref().ok().and_then(Position::of) {
        writeln!(chunk, "id: {attempt}-{sequence}").expect("a vector takes everything");
    }
    write!(chunk, "event: {}\ndata: ", event_name(item.as_ref()))
        .expect("a vector takes everything");
    match item {
        Ok(item) => write_json(chunk, &item),
        Err(error) => write_json(chunk, &error_view(error)),
    }
    chunk.extend_from_slice(b"\n\n");
}

fn event_name(item: Result<&LogItem, &ServiceError>) -> &'static str {
    match item {
        Ok(LogItem::Console { .. }) => "console",
        Ok(LogItem::Scalar { .. }) => "scalar",
        Ok(LogItem::Gap { .. }) => "gap",
        Ok(LogItem::State { .. }) => "state",
        Ok(LogItem::End { .. }) => "end",
        Err(_) => "error",
    }
}

/// JSON has no raw line breaks, so it is one `data` line and one line of a list.
fn write_json<T: serde::Serialize>(chunk: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(chunk, value)
        .expect("the wire model has text keys only, and a vector takes everything");
}

/// The items one per line. An error cuts the body off, so that no client takes a part for the whole.
pub(crate) fn lines(items: Items) -> impl Stream<Item = Result<Bytes, ServiceError>> {
    items.ready_chunks(MAX_ITEMS_PER_CHUNK).map(|items| {
        let mut chunk = Vec::new();
        for item in items {
            let item = item.inspect_err(
                |error| tracing::warn!(code = %error.code, %error, "log listing cut off"),
            )?;
            write_json(&mut chunk, &item);
            chunk.push(b'\n');
        }
        Ok(chunk.into())
    })
}

#[cfg(test)]
mod tests {
    use service::ErrorKind;
    use service::view::CauseView;

    use super::*;

    fn console(sequence: u64, text: &str) -> Result<LogItem, ServiceError> {
        Ok(LogItem::Console {
            attempt: 2,
            sequence,
            at: 5,
            stream: "stdout".to_owned(),
            text: text.to_owned(),
        })
    }

    fn end() -> Result<LogItem, ServiceError> {
        let cause = CauseView {
            kind: "finished".to_owned(),
            text: String::new(),
            evidence: Vec::new(),
            exit_code: 0,
            advice: Vec::new(),
            findings: Vec::new(),
        };
        Ok(LogItem::End { cause })
    }

    fn failure() -> Result<LogItem, ServiceError> {
        Err(ServiceError::new(
            ErrorKind::Unavailable,
            "records-away",
            "the node that has them is away",
        ))
    }

    async fn text<E: std::fmt::Debug>(body: impl Stream<Item = Result<Bytes, E>>) -> String {
        let chunks: Vec<_> = body.collect().await;
        let bytes: Vec<u8> = chunks.into_iter().flat_map(Result::unwrap).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn each_item_is_one_event_with_its_id_and_nothing_follows_the_end() {
        let items = vec![console(7, "line 1\nline 2\r"), end(), console(8, "never")];
        let body = text(events(futures::stream::iter(items).boxed())).await;
        let expected = concat!(
            "retry: 1000\n\n",
            "id: 2-7\nevent: console\n",
            r#"data: {"type":"console","attempt":2,"sequence":7,"at":5,"stream":"stdout","text":"line 1\nline 2\r"}"#,
            "\n\nevent: end\n",
            r#"data: {"type":"end","cause":{"kind":"finished","text":"","evidence":[],"exit_code":0,"advice":[],"findings":[]}}"#,
            "\n\n",
        );
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn an_error_is_the_last_event() {
        let items = vec![failure(), console(8, "never")];
        let body = text(events(futures::stream::iter(items).boxed())).await;
        assert!(
            body.contains("event: error\ndata: {\"code\":\"records-away\""),
            "{body}"
        );
        assert!(!body.contains("never"));
    }

    #[tokio::test]
    async fn silence_is_filled_with_comments() {
        let silence = Duration::from_millis(1);
        let mut body = Box::pin(events_with(futures::stream::pending().boxed(), silence));
        assert_eq!(body.next().await.unwrap().unwrap(), OPENING);
        assert_eq!(body.next().await.unwrap().unwrap(), ": keep-alive\n\n");
        assert_eq!(body.next().await.unwrap().unwrap(), ": keep-alive\n\n");
    }

    #[tokio::test]
    async fn a_listing_has_one_item_per_line_and_is_cut_off_by_an_error() {
        let whole = vec![console(7, "a\nb"), end()];
        let body = text(lines(futures::stream::iter(whole).boxed())).await;
        let items: Vec<LogItem> = body
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(items.len(), 2);
        let cut = vec![console(7, "a"), failure()];
        let chunks: Vec<_> = lines(futures::stream::iter(cut).boxed()).collect().await;
        assert!(chunks.last().unwrap().is_err());
    }

    #[test]
    fn positions_are_read_back() {
        let position = Position::parse("2-7").unwrap();
        assert_eq!(Position::of(&console(7, "").unwrap()), Some(position));
        for bad in ["", "7", "2-", "-7", "a-b", "2-7-9", "4294967296-1"] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }
}

/// Reads text as the position of a reader that comes back.
#[cfg(fuzzing)]
pub(crate) fn fuzz(text: &str) {
    Position::parse(text);
}
