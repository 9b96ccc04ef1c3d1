//! Output of an experiment as a body: server-sent events (with ids to resume at and keep-alives) or one JSON
//! object per line.

use std::convert::Infallible;
use std::fmt;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, ReadyChunks};
use futures::{Stream, StreamExt};
use service::ServiceError;
use service::view::LogItem;
use types::ResourceRequest;

use crate::error::error_view;

/// Silence after which a comment is sent, so that proxies keep the connection and a dead one is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Items that are put into one chunk when they wait already: fewer system calls, still small chunks.
const MAX_ITEMS_PER_CHUNK: usize = 128;

/// First bytes of an event stream: a client that is cut off comes back after a second.
const OPENING: &[u8] = b"retry: 1000\n\n";

/// What a follower has seen already, as the id of an event says: of an attempt the last record of each rank, in a gang of
/// those that have come so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Attempt.
    pub(crate) attempt: u32,
    /// Last record of each rank; none: nothing of it yet.
    last: Vec<Option<u64>>,
}

impl Position {
    /// Reads `<attempt>-<sequence>`, or `<attempt>-<sequence>,<sequence>…` by rank, empty for those not seen.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (attempt, last) = text.trim().split_once('-')?;
        let mut ranks = Vec::new();
        for text in last.split(',') {
            if ranks.len() == ResourceRequest::MAX_NODES as usize {
                return None;
            }
            ranks.push(match text {
                "" => None,
                number => Some(number.parse().ok()?), // none: not a position, whatever is wrong with it
            });
        }
        // The id of a record has the number of one.
        ranks.last()?.as_ref()?;
        Some(Self {
            attempt: attempt.parse().ok()?, // as above
            last: ranks,
        })
    }

    /// The first record that is new, by rank.
    pub(crate) fn after(&self) -> Vec<u64> {
        let next = |last: &Option<u64>| last.map_or(0, |last| last.saturating_add(1));
        self.last.iter().map(next).collect()
    }

    /// Moves on to `item`; false for those that are not records.
    fn take(&mut self, item: &LogItem) -> bool {
        let (attempt, rank, sequence) = match *item {
            LogItem::Console {
                attempt,
                rank,
                sequence,
                ..
            }
            | LogItem::Scalar {
                attempt,
                rank,
                sequence,
                ..
            } => (attempt, rank.unwrap_or(0) as usize, sequence),
            LogItem::Gap { .. } | LogItem::State { .. } | LogItem::End { .. } => return false,
        };
        if attempt != self.attempt {
            *self = Self {
                attempt,
                last: Vec::new(),
            };
        }
        if self.last.len() <= rank {
            self.last.resize(rank + 1, None);
        }
        self.last[rank] = Some(sequence);
        true
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.attempt)?;
        for (rank, last) in self.last.iter().enumerate() {
            if rank > 0 {
                f.write_str(",")?;
            }
            if let Some(last) = last {
                write!(f, "{last}")?;
            }
        }
        Ok(())
    }
}

type Items = BoxStream<'static, Result<LogItem, ServiceError>>;

/// The items as server-sent events, after those that a follower has `seen`. An error becomes an event `error` with its
/// body as data; it and `end` are the last.
pub(crate) fn events(
    items: Items,
    seen: Position,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    events_with(items, seen, KEEP_ALIVE_INTERVAL)
}

fn events_with(
    items: Items,
    seen: Position,
    silence: Duration,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let opening = futures::stream::once(async { Ok(Bytes::from_static(OPENING)) });
    let source = Some((items.ready_chunks(MAX_ITEMS_PER_CHUNK), seen));
    opening.chain(futures::stream::unfold(source, move |source| async move {
        let (chunk, source) = next_events(source?, silence).await?;
        Some((Ok(chunk), source))
    }))
}

/// Items with what was seen of them.
type Source = (ReadyChunks<Items>, Position);

/// The next chunk, and the source unless that was the last one.
async fn next_events(
    (mut items, mut seen): Source,
    silence: Duration,
) -> Option<(Bytes, Option<Source>)> {
    let Ok(next) = tokio::time::timeout(silence, items.next()).await else {
        let comment = Bytes::from_static(b": keep-alive\n\n");
        return Some((comment, Some((items, seen))));
    };
    let mut chunk = Vec::new();
    for item in next? {
        let last = matches!(item, Err(_) | Ok(LogItem::End { .. }));
        write_event(&mut chunk, item, &mut seen);
        if last {
            return Some((chunk.into(), None));
        }
    }
    Some((chunk.into(), Some((items, seen))))
}

fn write_event(chunk: &mut Vec<u8>, item: Result<LogItem, ServiceError>, seen: &mut Position) {
    if item.as_ref().is_ok_and(|item| seen.take(item)) {
        writeln!(chunk, "id: {seen}").expect("a vector takes everything");
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
            rank: None,
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

    async fn text<E: fmt::Debug>(body: impl Stream<Item = Result<Bytes, E>>) -> String {
        let chunks: Vec<_> = body.collect().await;
        let bytes: Vec<u8> = chunks.into_iter().flat_map(Result::unwrap).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn each_item_is_one_event_with_its_id_and_nothing_follows_the_end() {
        let items = vec![console(7, "line 1\nline 2\r"), end(), console(8, "never")];
        let body = text(events(
            futures::stream::iter(items).boxed(),
            Position::default(),
        ))
        .await;
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
        let body = text(events(
            futures::stream::iter(items).boxed(),
            Position::default(),
        ))
        .await;
        assert!(
            body.contains("event: error\ndata: {\"code\":\"records-away\""),
            "{body}"
        );
        assert!(!body.contains("never"));
    }

    #[tokio::test]
    async fn silence_is_filled_with_comments() {
        let silence = Duration::from_millis(1);
        let mut body = Box::pin(events_with(
            futures::stream::pending().boxed(),
            Position::default(),
            silence,
        ));
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
        let mut position = Position::default();
        assert!(position.take(&console(7, "").unwrap()));
        assert_eq!(position.to_string(), "2-7");
        assert_eq!(Position::parse("2-7"), Some(position));
        for bad in [
            "",
            "7",
            "2-",
            "-7",
            "a-b",
            "2-7-9",
            "4294967296-1",
            "2-7,",
            "2-,",
        ] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
        let many = "7,".repeat(64);
        assert_eq!(Position::parse(&format!("2-{many}7")), None);
    }

    #[test]
    fn the_position_in_a_gang_is_that_of_each_rank() {
        let item = |of: u32, rank: u32, sequence: u64| LogItem::Scalar {
            attempt: of,
            rank: Some(rank),
            sequence,
            at: 5,
            name: "loss".to_owned(),
            step: 1,
            value: 0.5,
        };
        let mut position = Position::parse("2-,4").unwrap();
        for (rank, sequence, expected) in [(1, 5, "2-,5"), (3, 0, "2-,5,,0"), (0, 8, "2-8,5,,0")] {
            assert!(position.take(&item(2, rank, sequence)));
            assert_eq!(position.to_string(), expected);
            assert_eq!(Position::parse(expected).as_ref(), Some(&position));
        }
        assert_eq!(position.after(), [9, 6, 0, 1]);
        position.take(&item(3, 1, 2));
        assert_eq!(position.to_string(), "3-,2", "another attempt begins anew");
    }
}

/// Reads text as the position of a reader that comes back.
#[cfg(fuzzing)]
pub(crate) fn fuzz(text: &str) {
    Position::parse(text);
}
