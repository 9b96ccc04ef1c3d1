//! What people do with what waits. `{id}` is an id, a unique prefix of one, or a name.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use service::view::{
    Answer, ExperimentSummary, HoldRequest, OrderRequest, PriorityRequest, WeightRequest,
};

use super::Api;
use crate::answer;
use crate::body::Json;
use crate::error::Refusal;
use crate::identity::Authenticated;

fn changed(change: &Answer<ExperimentSummary>) -> Response {
    answer::with_index(StatusCode::OK, change.index, &change.body)
}

/// Keeps a waiting experiment from being placed.
#[utoipa::path(post, path = "/api/v1/experiments/{id}/hold", tag = "experiments", request_body = HoldRequest,
    params(("id" = String, Path, description = "Id, unique prefix, or name")),
    responses((status = 200, description = "The experiment", body = ExperimentSummary)))]
pub(super) async fn hold(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Json(request): Json<HoldRequest>,
) -> Result<Response, Refusal> {
    Ok(changed(&api.service.hold(&caller.0, &id, request).await?))
}

/// Lets a held experiment be placed again.
#[utoipa::path(post, path = "/api/v1/experiments/{id}/release", tag = "experiments",
    params(("id" = String, Path, description = "Id, unique prefix, or name")),
    responses((status = 200, description = "The experiment", body = ExperimentSummary)))]
pub(super) async fn release(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    Ok(changed(&api.service.release(&caller.0, &id).await?))
}

/// Gives a waiting experiment another place in its queue; a member goes in front while nobody else waits there.
#[utoipa::path(post, path = "/api/v1/experiments/{id}/order", tag = "experiments", request_body = OrderRequest,
    params(("id" = String, Path, description = "Id, unique prefix, or name")),
    responses((status = 200, description = "The experiment", body = ExperimentSummary)))]
pub(super) async fn order(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Json(request): Json<OrderRequest>,
) -> Result<Response, Refusal> {
    Ok(changed(&api.service.order(&caller.0, &id, request).await?))
}

/// Gives a waiting experiment another priority.
#[utoipa::path(post, path = "/api/v1/experiments/{id}/priority", tag = "experiments", request_body = PriorityRequest,
    params(("id" = String, Path, description = "Id, unique prefix, or name")),
    responses((status = 200, description = "The experiment", body = ExperimentSummary)))]
pub(super) async fn priority(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Json(request): Json<PriorityRequest>,
) -> Result<Response, Refusal> {
    let changed_to = api.service.set_priority(&caller.0, &id, request);
    Ok(changed(&changed_to.await?))
}

/// Gives a user another part among those of a queue.
#[utoipa::path(post, path = "/api/v1/users/{name}/weight", tag = "users", request_body = WeightRequest,
    params(("name" = String, Path, description = "The user, without a node")),
    responses((status = 204, description = "It is so")))]
pub(super) async fn weigh(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(name): Path<String>,
    Json(request): Json<WeightRequest>,
) -> Result<StatusCode, Refusal> {
    api.service
        .weigh_user(&caller.0, &name, request.weight)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
