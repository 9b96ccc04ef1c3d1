//! Following output over lost connections.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use hyper::header::{ACCEPT, HeaderName, HeaderValue};
use rest::wire::LogItem;

use super::{LogQuery, ReadItem};
use crate::client::{Client, EventReader, Payload, Request, header_value, parse};
use crate::error::Error;
use crate::retry::Patience;
use crate::terminal::Terminal;

/// How long a lost node is tried again: a restart of a node takes some seconds.
pub(crate) const RECONNECT_WINDOW: Duration = Duration::from_secs(30);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Follows one experiment's output until its end.
#[derive(Debug)]
pub(crate) struct Follower {
    client: Client,
    terminal: Terminal,
    query: LogQuery,
    window: Duration,
    events: Option<EventReader>,
    /// Runs out while there is no connection; none while there is one.
    patience: Option<Patience>,
    last_id: Option<String>,
    /// The newest record of each rank that was handed out before the connection was lost.
    resumed_after: BTreeMap<u32, (u32, u64)>,
    newest: BTreeMap<u32, (u32, u64)>,
    is_over: bool,
}

impl Follower {
    /// Follows `query`; nothing is asked yet.
    pub(crate) fn new(client: &Client, query: LogQuery, terminal: &Terminal) -> Self {
        Self {
            client: client.clone(),
            terminal: *terminal,
            query,
            window: RECONNECT_WINDOW,
            events: None,
            patience: None,
            last_id: None,
            resumed_after: BTreeMap::new(),
            newest: BTreeMap::new(),
            is_over: false,
        }
    }

    /// The same with another patience.
    #[cfg(test)]
    pub(crate) fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// The next item; none after the experiment's end or the only attempt's. A lost connection is made again, and the output goes on
    /// where it stopped.
    ///
    /// # Errors
    /// The node was gone for the whole window, or refuses.
    pub(crate) async fn next(&mut self) -> Result<Option<ReadItem>, Error> {
        while !self.is_over {
            match self.read().await {
                Ok(Some(item)) if self.query.is_over_at(&item) => self.is_over = true,
                Ok(Some(item)) => {
                    self.is_over = matches!(item.item, LogItem::End { .. });
                    return Ok(Some(item));
                }
                Ok(None) => {} // A sign of life, or a record that was shown before.
                Err(error) => self.lose(error).await?,
            }
        }
        Ok(None)
    }

    async fn lose(&mut self, error: Error) -> Result<(), Error> {
        self.events = None;
        self.resumed_after = self.newest.clone();
        let window = self.window;
        self.patience
            .get_or_insert_with(|| Patience::new(window))
            .after(error, &self.terminal)
            .await
    }

    async fn read(&mut self) -> Result<Option<ReadItem>, Error> {
        let events = match &mut self.events {
            Some(events) => events,
            None => {
                let events = self.connect().await?;
                self.events.insert(events)
            }
        };
        let event = events.next().await?.ok_or(Error::StreamEnded)?;
        if event.kind == "error" {
            return Err(Error::StreamFailed {
                view: parse(event.data.as_bytes(), "an error")?,
            });
        }
        self.patience = None;
        if event.id.is_some() {
            self.last_id = event.id;
        }
        if event.data.is_empty() {
            return Ok(None);
        }
        let item = ReadItem::parse(event.data)?;
        if let Some((rank, place)) = item.place() {
            let before = self.resumed_after.get(&rank);
            if before.is_some_and(|before| place <= *before) {
                return Ok(None);
            }
            self.newest.insert(rank, place);
        }
        Ok(Some(item))
    }

    async fn connect(&self) -> Result<EventReader, Error> {
        let request = Request::new(
            Method::GET,
            self.client.consistent(&self.query.path(true)),
            Payload::empty(),
        )
        .header(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let request = match &self.last_id {
            Some(id) => request.header(LAST_EVENT_ID, header_value(id, "the event's id")?),
            None => request,
        };
        let response = self.client.open(request).await?;
        Ok(EventReader::new(response.into_body()))
    }
}
