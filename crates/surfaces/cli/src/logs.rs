//! The output of an experiment: reading it, following it, and printing it.

mod follower;
mod printer;

use hyper::Method;
use rest::wire::LogItem;

use crate::client::{Client, LineReader, Payload, Request, encode, parse};
use crate::error::Error;

pub(crate) use follower::Follower;
pub(crate) use printer::LogPrinter;

/// Which part of which output.
#[derive(Clone, Debug)]
pub(crate) struct LogQuery {
    /// Id, prefix or name.
    pub(crate) experiment: String,
    /// Only this attempt.
    pub(crate) attempt: Option<u32>,
    /// Only this rank.
    pub(crate) rank: Option<u32>,
    /// From this record on.
    pub(crate) from: Option<u64>,
    /// Only the last so many lines.
    pub(crate) tail: Option<u64>,
}

impl LogQuery {
    /// All output of an experiment.
    pub(crate) fn all_of(experiment: &str) -> Self {
        Self {
            experiment: experiment.to_owned(),
            attempt: None,
            rank: None,
            from: None,
            tail: None,
        }
    }

    /// Whether an item belongs to an attempt after the only one that is wanted; the node goes on to the next by itself.
    fn is_over_at(&self, item: &ReadItem) -> bool {
        self.attempt
            .zip(item.attempt())
            .is_some_and(|(only, attempt)| attempt > only)
    }

    fn path(&self, follow: bool) -> String {
        let mut path = format!(
            "/experiments/{}/logs?follow={follow}",
            encode(&self.experiment)
        );
        if let Some(attempt) = self.attempt {
            path.push_str(&format!("&attempt={attempt}"));
        }
        if let Some(rank) = self.rank {
            path.push_str(&format!("&rank={rank}"));
        }
        if let Some(from) = self.from {
            path.push_str(&format!("&from={from}"));
        }
        if let Some(tail) = self.tail {
            path.push_str(&format!("&tail={tail}"));
        }
        path
    }
}

/// An item with its JSON as it came.
#[derive(Clone, Debug)]
pub(crate) struct ReadItem {
    /// The item.
    pub(crate) item: LogItem,
    /// Its JSON.
    pub(crate) json: String,
}

impl ReadItem {
    fn parse(json: String) -> Result<Self, Error> {
        let item = parse(json.as_bytes(), "a piece of output")?;
        Ok(Self { item, json })
    }

    fn attempt(&self) -> Option<u32> {
        match &self.item {
            LogItem::Console { attempt, .. }
            | LogItem::Scalar { attempt, .. }
            | LogItem::Gap { attempt, .. } => Some(*attempt),
            LogItem::State { .. } | LogItem::End { .. } => None,
        }
    }

    /// Rank, and attempt and number of the record, for items that are records.
    fn place(&self) -> Option<(u32, (u32, u64))> {
        match &self.item {
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
            } => Some((rank.unwrap_or(0), (*attempt, *sequence))),
            LogItem::Gap { .. } | LogItem::State { .. } | LogItem::End { .. } => None,
        }
    }
}

/// Reads the output that is there now.
pub(crate) struct LogReader {
    query: LogQuery,
    lines: LineReader,
}

impl LogReader {
    /// Asks for it.
    ///
    /// # Errors
    /// There is no such experiment, or the node cannot answer.
    pub(crate) async fn open(client: &Client, query: &LogQuery) -> Result<Self, Error> {
        let request = Request::new(
            Method::GET,
            client.consistent(&query.path(false)),
            Payload::empty(),
        );
        let response = client.open(request).await?;
        Ok(Self {
            query: query.clone(),
            lines: LineReader::new(response.into_body()),
        })
    }

    /// The next item; none at the end.
    ///
    /// # Errors
    /// The connection broke or the answer makes no sense.
    pub(crate) async fn next(&mut self) -> Result<Option<ReadItem>, Error> {
        while let Some(line) = self.lines.next().await? {
            if line.is_empty() {
                continue;
            }
            let item = ReadItem::parse(line)?;
            return Ok((!self.query.is_over_at(&item)).then_some(item));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
