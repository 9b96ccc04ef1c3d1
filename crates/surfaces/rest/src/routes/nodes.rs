//! What admins do with machines.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use service::view::{
    Answer, DrainRequest, LabelRequest, NodeChangeView, PinRequest, RemoveNodeRequest,
    ReserveRequest,
};

use super::Api;
use crate::answer;
use crate::body::Json;
use crate::error::Refusal;
use crate::identity::Authenticated;

fn changed(change: &Answer<NodeChangeView>) -> Response {
    answer::with_index(StatusCode::OK, change.index, &change.body)
}

/// Places nothing new on a node and gives its vote back.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/drain", tag = "nodes", request_body = DrainRequest,
    params(("id" = String, Path, description = "Name, id, or unique start of either")),
    responses((status = 200, description = "What holds now", body = NodeChangeView)))]
pub(super) async fn drain(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Json(request): Json<DrainRequest>,
) -> Result<Response, Refusal> {
    let change = api.service.drain_node(&caller.0, &id, request).await?;
    Ok(changed(&change))
}

/// Takes a node into use again.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/undrain", tag = "nodes",
    params(("id" = String, Path, description = "Name, id, or unique start of either")),
    responses((status = 200, description = "What holds now", body = NodeChangeView)))]
pub(super) async fn undrain(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let change = api.service.undrain_node(&caller.0, &id).await?;
    Ok(changed(&change))
}

/// Makes a node vote or not vote, or leaves it to the rule again.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/pin", tag = "nodes", request_body = PinRequest,
    params(("id" = String, Path, description = "Name, id, or unique start of either")),
    responses((status = 200, description = "What holds now", body = NodeChangeView)))]
pub(super) async fn pin(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Json(request): Json<PinRequest>,
) -> Result<Response, Refusal> {
    let change = api.service.pin_node(&caller.0, &id, &request).await?;
    Ok(changed(&change))
}

/// Takes a node out of the cluster.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/remove", tag = "nodes", request_body = RemoveNodeRequest,
    params(("id" = String, Path, description = "Name, id, or unique start of either")),
    responses((status = 200, description = "What holds now", body = NodeChangeView)))]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Json(request): Json<RemoveNodeRequest>,
) -> Result<Response, Refusal> {
    let change = api.service.remove_node(&caller.0, &id, request).await?;
    Ok(changed(&change))
}

/// Gives labels to a node, or takes them off.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/label", tag = "nodes", request_body = LabelRequest,
    params(("id" = String, Path, description = "Name, id, or unique start of either")),
    responses((status = 200, description = "What holds now", body = NodeChangeView)))]
pub(super) async fn label(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Json(request): Json<LabelRequest>,
) -> Result<Response, Refusal> {
    let change = api.service.label_node(&caller.0, &id, request).await?;
    Ok(changed(&change))
}

/// Gives a node to one person for a time.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/reserve", tag = "nodes", request_body = ReserveRequest,
    params(("id" = String, Path, description = "Name, id, or unique start of either")),
    responses((status = 200, description = "What holds now", body = NodeChangeView)))]
pub(super) async fn reserve(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Json(request): Json<ReserveRequest>,
) -> Result<Response, Refusal> {
    let reserved = api.service.reserve_node(&caller.0, &id, Some(request));
    Ok(changed(&reserved.await?))
}

/// Gives a node to everybody again.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/unreserve", tag = "nodes",
    params(("id" = String, Path, description = "Name, id, or unique start of either")),
    responses((status = 200, description = "What holds now", body = NodeChangeView)))]
pub(super) async fn unreserve(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let change = api.service.reserve_node(&caller.0, &id, None).await?;
    Ok(changed(&change))
}
