//! Sweeps and the groups of experiments that they make. `{id}` is the id of a group or a unique start of one.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use service::view::{GroupReply, GroupRequest, GroupSummary, GroupView};

use super::Api;
use super::experiments::idempotency_key;
use crate::answer::{self, Parameters, ReadQuery, SeenIndex};
use crate::body::Json;
use crate::error::Refusal;
use crate::identity::Authenticated;

/// Lists the groups of which an experiment is left, newest first.
#[utoipa::path(get, path = "/api/v1/groups", tag = "groups", params(ReadQuery, SeenIndex),
    responses((status = 200, description = "The list", body = [GroupSummary])))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<ReadQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let list = api.service.groups(&caller.0, read).await?;
    Ok(answer::of_read(&list, query.consistency))
}

/// Submits one experiment for each combination of a sweep, all of them or none. The same `Idempotency-Key` again gets
/// the first outcome, also after a lost answer.
#[utoipa::path(post, path = "/api/v1/groups", tag = "groups", request_body = GroupRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "Names this submission; at most 255 visible ASCII characters")),
    responses((status = 201, description = "All of them are in the log of a majority", body = GroupReply)))]
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    headers: HeaderMap,
    Json(request): Json<GroupRequest>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    let reply = api.service.submit_group(&caller.0, request, key).await?;
    Ok(answer::with_index(StatusCode::CREATED, reply.index, &reply))
}

/// A group: for each of its experiments what is varied, its state, and the last value of each metric.
#[utoipa::path(get, path = "/api/v1/groups/{id}", tag = "groups",
    params(("id" = String, Path, description = "Id or unique prefix"), ReadQuery, SeenIndex),
    responses((status = 200, description = "The group", body = GroupView)))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Parameters(query): Parameters<ReadQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let group = api.service.group(&caller.0, &id, read).await?;
    Ok(answer::of_read(&group, query.consistency))
}

/// Asks all experiments of a group to stop that are not over. The same `Idempotency-Key` again gets the first outcome.
#[utoipa::path(post, path = "/api/v1/groups/{id}/stop", tag = "groups",
    params(("id" = String, Path, description = "Id or unique prefix"),
        ("Idempotency-Key" = Option<String>, Header, description = "Names this request; at most 255 visible ASCII characters")),
    responses((status = 200, description = "The group with the wish recorded", body = GroupSummary)))]
pub(super) async fn stop(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    let stopped = api.service.stop_group(&caller.0, &id, key).await?;
    Ok(answer::with_index(
        StatusCode::OK,
        stopped.index,
        &stopped.body,
    ))
}
