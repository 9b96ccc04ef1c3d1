//! Experiments made from others, and side by side. `{id}` is an id, a unique prefix of one, or a name.

#![expect(
    unused_qualifications,
    reason = "`utoipa::path` writes `<T as …>::` around the types in `params`"
)]

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use service::view::{CloneRequest, CompareView, RerunRequest, SubmitReply};
use utoipa::IntoParams;

use super::Api;
use super::experiments::idempotency_key;
use crate::answer::{self, Consistency, Parameters, SeenIndex};
use crate::body::Json;
use crate::error::Refusal;
use crate::identity::Authenticated;

/// Submits an experiment that is another with changes; its source is not sent again. The same `Idempotency-Key` again
/// gets the first outcome.
#[utoipa::path(post, path = "/api/v1/experiments/{id}/clone", tag = "experiments", request_body = CloneRequest,
    operation_id = "clone",
    params(("id" = String, Path, description = "Id, unique prefix, or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "Names this request; at most 255 visible ASCII characters")),
    responses((status = 201, description = "It is in the log of a majority", body = SubmitReply)))]
pub(super) async fn make_clone(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(request): Json<CloneRequest>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    let service = &api.service;
    let reply = service
        .clone_experiment(&caller.0, &id, request, key)
        .await?;
    Ok(answer::with_index(StatusCode::CREATED, reply.index, &reply))
}

/// Submits an experiment exactly as it was. The same `Idempotency-Key` again gets the first outcome.
#[utoipa::path(post, path = "/api/v1/experiments/{id}/rerun", tag = "experiments", request_body = RerunRequest,
    params(("id" = String, Path, description = "Id, unique prefix, or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "Names this request; at most 255 visible ASCII characters")),
    responses((status = 201, description = "It is in the log of a majority", body = SubmitReply)))]
pub(super) async fn rerun(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(request): Json<RerunRequest>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    let reply = api.service.rerun(&caller.0, &id, request, key).await?;
    Ok(answer::with_index(StatusCode::CREATED, reply.index, &reply))
}

/// What to compare.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CompareQuery {
    /// Two to eight ids, unique prefixes or names, with commas between.
    ids: String,
    /// How current the answer must be; `linearizable` by default.
    #[serde(default)]
    #[param(inline)]
    consistency: Consistency,
}

/// Experiments side by side: what was asked for, what ran, what came out, and what differs in the code.
#[utoipa::path(get, path = "/api/v1/compare", tag = "experiments", params(CompareQuery, SeenIndex),
    responses((status = 200, description = "The comparison", body = CompareView)))]
pub(super) async fn compare(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<CompareQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let ids: Vec<String> = query.ids.split(',').map(str::to_owned).collect();
    let compared = api.service.compare(&caller.0, &ids, read).await?;
    Ok(axum::Json(compared).into_response())
}
