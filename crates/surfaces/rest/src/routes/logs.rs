//! What an experiment prints and reports, so far or as it comes.

#![expect(
    unused_qualifications,
    reason = "`utoipa::path` writes `<T as …>::` around the types in `params`"
)]

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Deserialize;
use service::LogOptions;
use service::view::LogItem;
use types::ResourceRequest;
use utoipa::IntoParams;

use super::Api;
use crate::answer::{Consistency, Parameters};
use crate::error::Refusal;
use crate::identity::Authenticated;
use crate::log_stream::{self, Position};

/// Which part of the output, and whether to wait for more.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// Wait for more until the experiment is over; by default as the `Accept` header wants events.
    follow: Option<bool>,
    /// Start with this attempt; by default the first when following, else the last.
    attempt: Option<u32>,
    /// Only this rank of experiments on several nodes; by default all.
    rank: Option<u32>,
    /// Start with this record of that attempt, and of that rank or each of them.
    from: Option<u64>,
    /// Start with the last so many lines of each rank, 1 to 1,000,000; of the last attempt unless one is named. Not together
    /// with `from`.
    tail: Option<u64>,
    /// How current the answer must be; `stale` needs no majority.
    #[param(inline)]
    consistency: Consistency,
}

/// Output and history of an experiment: events if followed or asked for, else one JSON object per line.
#[utoipa::path(get, path = "/api/v1/experiments/{id}/logs", tag = "experiments",
    params(
        ("id" = String, Path, description = "Id, unique prefix, or name"),
        LogQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event seen: goes on after it")
    ),
    responses((status = 200, description = "Items: `id: <attempt>-<sequence>`, with the sequences of all ranks seen so far joined by commas, `event: <type>`, `data: <item>`; `end` is the last. A failure meanwhile is an event `error` with an ErrorView", content(
        (LogItem = "text/event-stream"),
        (LogItem = "application/x-ndjson")
    ))))]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Parameters(query): Parameters<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let accepts_events = headers
        .get(header::ACCEPT)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    let follow = query.follow.unwrap_or(accepts_events);
    let seen = last_event(&headers)?;
    if query.tail.is_some() && query.from.is_some() {
        return Err(Refusal::invalid(
            "bad-query",
            "tail and from both say where to start",
            "leave one of them out",
        ));
    }
    let (attempt, from) = start(&query, seen.as_ref());
    let options = LogOptions {
        follow,
        attempt,
        rank: query.rank,
        from,
        // Who comes back has seen them.
        last_lines: query.tail.filter(|_| seen.is_none()),
        stale: query.consistency == Consistency::Stale,
    };
    let items = api.service.logs(&caller.0, &id, options).await?;
    let (media_type, body) = if accepts_events || follow {
        // A follower comes back when its events stop before `end`; a listing must not look whole when it is not.
        let shutdown = api.shutdown.clone().cancelled_owned();
        let events =
            log_stream::events(items.take_until(shutdown).boxed(), seen.unwrap_or_default());
        ("text/event-stream", Body::from_stream(events))
    } else {
        let lines = log_stream::lines(items);
        ("application/x-ndjson", Body::from_stream(lines))
    };
    Ok(([(header::CONTENT_TYPE, media_type)], body).into_response())
}

/// Attempt and records to start with: after the last event seen, else as the query says.
fn start(query: &LogQuery, seen: Option<&Position>) -> (Option<u32>, Vec<u64>) {
    match (seen, query.from) {
        (Some(seen), _) => (Some(seen.attempt), seen.after()),
        (None, None) => (query.attempt, Vec::new()),
        (None, Some(from)) => {
            let ranks = ResourceRequest::MAX_NODES as usize;
            (query.attempt, vec![from; ranks])
        }
    }
}

fn last_event(headers: &HeaderMap) -> Result<Option<Position>, Refusal> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    match value.to_str().ok().and_then(Position::parse) {
        Some(position) => Ok(Some(position)),
        None => Err(Refusal::invalid(
            "bad-event-id",
            "the Last-Event-ID is none that this interface gave",
            "send back the id of the last event, or nothing",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_that_comes_back_goes_on_after_its_last_event() {
        let query = LogQuery {
            follow: Some(true),
            attempt: Some(1),
            from: Some(5),
            ..LogQuery::default()
        };
        let (attempt, from) = start(&query, None);
        assert_eq!((attempt, from[0], from[63]), (Some(1), 5, 5));
        let seen = Position::parse("2-9").unwrap();
        assert_eq!(start(&query, Some(&seen)), (Some(2), vec![10]));
        let seen = Position::parse("2-9,,17").unwrap();
        assert_eq!(start(&query, Some(&seen)), (Some(2), vec![10, 0, 18]));
    }

    #[test]
    fn a_broken_last_event_id_is_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(last_event(&headers).unwrap(), None);
        headers.insert("last-event-id", "2-9".parse().unwrap());
        assert!(last_event(&headers).unwrap().is_some());
        headers.insert("last-event-id", "nine".parse().unwrap());
        assert!(last_event(&headers).is_err());
    }
}
