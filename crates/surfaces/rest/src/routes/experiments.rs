//! Submitting, reading and steering experiments. `{id}` is an id, a unique prefix of one, or a name.

#![expect(
    unused_qualifications,
    reason = "`utoipa::path` writes `<T as …>::` around the types in `params`"
)]

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use service::view::{
    ExperimentDetail, ExperimentFilter, ExperimentList, ExperimentSummary, MoveRequest,
    SubmitReply, SubmitRequest, WhyView,
};
use utoipa::IntoParams;

use super::Api;
use crate::answer::{self, Consistency, Parameters, ReadQuery, SeenIndex};
use crate::body::Json;
use crate::error::Refusal;
use crate::identity::Authenticated;

/// Longest idempotency key: a UUID has 36 characters.
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// What to list, and how current.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Ended ones too.
    all: bool,
    /// Only this state.
    state: Option<String>,
    /// Only this user.
    user: Option<String>,
    /// Only this queue.
    queue: Option<String>,
    /// Only this name.
    name: Option<String>,
    /// Only those of this group, by its id or a unique start of it; ended ones too.
    group: Option<String>,
    /// At most so many; 100 by default.
    limit: u64,
    /// How current the answer must be; `linearizable` by default.
    #[param(inline)]
    consistency: Consistency,
}

/// Lists experiments, newest first.
#[utoipa::path(get, path = "/api/v1/experiments", tag = "experiments", params(ListQuery, SeenIndex),
    responses((status = 200, description = "The list", body = ExperimentList)))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<ListQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let filter = ExperimentFilter {
        all: query.all,
        state: query.state,
        user: query.user,
        queue: query.queue,
        name: query.name,
        group: query.group,
        limit: query.limit,
    };
    let list = api.service.experiments(&caller.0, filter, read).await?;
    Ok(answer::of_read(&list, query.consistency))
}

/// Submits an experiment. The same `Idempotency-Key` again gets the first outcome, also after a lost answer.
#[utoipa::path(post, path = "/api/v1/experiments", tag = "experiments", request_body = SubmitRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "Names this submission; at most 255 visible ASCII characters")),
    responses((status = 201, description = "It is in the log of a majority", body = SubmitReply)))]
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    headers: HeaderMap,
    Json(request): Json<SubmitRequest>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    let reply = api.service.submit(&caller.0, request, key).await?;
    Ok(answer::with_index(StatusCode::CREATED, reply.index, &reply))
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let visible = |key: &&str| {
        let length = 1..=MAX_IDEMPOTENCY_KEY_BYTES;
        length.contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match value.to_str().ok().filter(visible) {
        Some(key) => Ok(Some(key)),
        None => Err(Refusal::invalid(
            "bad-idempotency-key",
            "the Idempotency-Key is not 1 to 255 visible ASCII characters",
            "use a UUID",
        )),
    }
}

/// One experiment with its attempts.
#[utoipa::path(get, path = "/api/v1/experiments/{id}", tag = "experiments",
    params(("id" = String, Path, description = "Id, unique prefix, or name"), ReadQuery, SeenIndex),
    responses((status = 200, description = "The experiment", body = ExperimentDetail)))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Parameters(query): Parameters<ReadQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let detail = api.service.experiment(&caller.0, &id, read).await?;
    Ok(answer::of_read(&detail, query.consistency))
}

/// Why it waits, runs where it runs, or ended.
#[utoipa::path(get, path = "/api/v1/experiments/{id}/why", tag = "experiments",
    params(("id" = String, Path, description = "Id, unique prefix, or name"), ReadQuery, SeenIndex),
    responses((status = 200, description = "The reasons", body = WhyView)))]
pub(super) async fn why(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Parameters(query): Parameters<ReadQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let reasons = api.service.why(&caller.0, &id, read).await?;
    Ok(answer::of_read(&reasons, query.consistency))
}

/// Asks it to stop. The same `Idempotency-Key` again gets the first outcome, also after a lost answer.
#[utoipa::path(post, path = "/api/v1/experiments/{id}/stop", tag = "experiments",
    params(("id" = String, Path, description = "Id, unique prefix, or name of a single live one"),
        ("Idempotency-Key" = Option<String>, Header, description = "Names this request; at most 255 visible ASCII characters")),
    responses((status = 200, description = "The experiment with the wish recorded", body = ExperimentSummary)))]
pub(super) async fn stop(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    let stopped = api.service.stop(&caller.0, &id, key).await?;
    Ok(answer::with_index(
        StatusCode::OK,
        stopped.index,
        &stopped.body,
    ))
}

/// Which late result.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AcceptQuery {
    /// Number of the attempt; default: the newest that succeeded late.
    attempt: Option<u32>,
}

/// Takes the late success of an attempt that had been given up for the result.
#[utoipa::path(post, path = "/api/v1/experiments/{id}/accept", tag = "experiments",
    params(("id" = String, Path, description = "Id, unique prefix, or name"), AcceptQuery),
    responses((status = 200, description = "The experiment, finished", body = ExperimentSummary)))]
pub(super) async fn accept(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Parameters(query): Parameters<AcceptQuery>,
) -> Result<Response, Refusal> {
    let accepted = api
        .service
        .accept_late(&caller.0, &id, query.attempt)
        .await?;
    Ok(answer::with_index(
        StatusCode::OK,
        accepted.index,
        &accepted.body,
    ))
}

/// Moves a waiting experiment to another queue. The same `Idempotency-Key` again gets the first outcome.
#[utoipa::path(post, path = "/api/v1/experiments/{id}/move", tag = "experiments", request_body = MoveRequest,
    params(("id" = String, Path, description = "Id, unique prefix, or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "Names this request; at most 255 visible ASCII characters")),
    responses((status = 200, description = "The experiment in its new queue", body = ExperimentSummary)))]
pub(super) async fn move_to(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(request): Json<MoveRequest>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    let moved = api
        .service
        .move_experiment(&caller.0, &id, &request.queue, key)
        .await?;
    Ok(answer::with_index(StatusCode::OK, moved.index, &moved.body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_is_visible_and_bounded() {
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", value.parse().unwrap());
            idempotency_key(&headers).map(|key| key.map(str::to_owned))
        };
        assert_eq!(check("a-1").unwrap().as_deref(), Some("a-1"));
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
        for bad in ["", "a b", "\u{e9}", &"x".repeat(256)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
