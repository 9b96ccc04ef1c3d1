//! Answers that go on: lines of JSON and server-sent events.

use std::time::Duration;

use hyper::body::Incoming;

use super::{LineBuffer, next_piece};
use crate::error::Error;

/// Longest silence of a followed stream: three and a half of the keep-alives that come each 10 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(35);

/// Reads an answer line by line.
#[derive(Debug)]
pub(crate) struct LineReader {
    body: Incoming,
    buffer: LineBuffer,
}

impl LineReader {
    /// Reads `body`.
    pub(crate) fn new(body: Incoming) -> Self {
        Self {
            body,
            buffer: LineBuffer::default(),
        }
    }

    /// The next line without its end; none at the end of the answer.
    ///
    /// # Errors
    /// The connection broke, was silent too long, or the line is too long.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(line) = self.buffer.next_line() {
                return Ok(Some(line));
            }
            let piece = tokio::time::timeout(SILENCE_LIMIT, next_piece(&mut self.body))
                .await
                .unwrap_or(Err(Error::TimedOut {
                    seconds: SILENCE_LIMIT.as_secs(),
                }))?;
            match piece {
                Some(piece) => self.buffer.push(&piece)?,
                None => return Ok(None),
            }
        }
    }
}

/// A server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its `id`, to go on after it.
    pub(crate) id: Option<String>,
    /// Its type.
    pub(crate) kind: String,
    /// Its data; empty for a sign of life.
    pub(crate) data: String,
}

/// Reads server-sent events (HTML standard, 9.2.6; without `retry`).
#[derive(Debug)]
pub(crate) struct EventReader {
    lines: LineReader,
    event: Event,
}

impl EventReader {
    /// Reads `body`.
    pub(crate) fn new(body: Incoming) -> Self {
        Self {
            lines: LineReader::new(body),
            event: Event::default(),
        }
    }

    /// The next event or sign of life; none at the end of the answer.
    ///
    /// # Errors
    /// As [`LineReader::next`].
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Error> {
        while let Some(line) = self.lines.next().await? {
            if let Some(event) = take_line(&mut self.event, &line) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

/// Adds a line to the event that is being read; returns the event when it is complete.
fn take_line(event: &mut Event, line: &str) -> Option<Event> {
    if line.is_empty() {
        return (!event.data.is_empty()).then(|| std::mem::take(event));
    }
    let (field, value) = line.split_once(':').unwrap_or((line, ""));
    let value = value.strip_prefix(' ').unwrap_or(value);
    match field {
        "" => return Some(Event::default()),
        "id" => event.id = Some(value.to_owned()),
        "data" => {
            if !event.data.is_empty() {
                event.data.push('\n');
            }
            event.data.push_str(value);
        }
        "event" => value.clone_into(&mut event.kind),
        _ => {} // Unknown fields are to be ignored.
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_the_standard_says() {
        let text =
            ": alive\nid: 1-7\nevent: console\ndata: {\"a\":\ndata:1}\n\nid: 1-8\n\ndata: x\n\n";
        let mut event = Event::default();
        let events: Vec<Event> = text
            .lines()
            .filter_map(|line| take_line(&mut event, line))
            .collect();
        let expected = [
            (None, "", ""),
            (Some("1-7"), "console", "{\"a\":\n1}"),
            (Some("1-8"), "", "x"),
        ]
        .map(|(id, kind, data)| Event {
            id: id.map(str::to_owned),
            kind: kind.to_owned(),
            data: data.to_owned(),
        });
        assert_eq!(events, expected);
    }
}
