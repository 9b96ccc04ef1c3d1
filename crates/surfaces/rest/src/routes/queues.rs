//! Where experiments wait.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use service::view::{CreateQueueRequest, PauseRequest, QueueView, ShapeQueueRequest};

use super::Api;
use crate::answer::{self, Parameters, ReadQuery, SeenIndex};
use crate::body::Json;
use crate::error::Refusal;
use crate::identity::Authenticated;

/// Lists the queues.
#[utoipa::path(get, path = "/api/v1/queues", tag = "queues", params(ReadQuery, SeenIndex),
    responses((status = 200, description = "The queues", body = [QueueView])))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<ReadQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let queues = api.service.queues(&caller.0, read).await?;
    Ok(answer::of_read(&queues, query.consistency))
}

/// Makes a queue.
#[utoipa::path(post, path = "/api/v1/queues", tag = "queues", request_body = CreateQueueRequest,
    responses((status = 201, description = "The new queue", body = QueueView)))]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Json(request): Json<CreateQueueRequest>,
) -> Result<Response, Refusal> {
    let queue = api.service.create_queue(&caller.0, request).await?;
    Ok(answer::with_index(
        StatusCode::CREATED,
        queue.index,
        &queue.body,
    ))
}

/// Keeps all of a queue from being placed; what runs goes on.
#[utoipa::path(post, path = "/api/v1/queues/{name}/pause", tag = "queues", request_body = PauseRequest,
    params(("name" = String, Path, description = "The queue")),
    responses((status = 200, description = "The queue", body = QueueView)))]
pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(name): Path<String>,
    Json(request): Json<PauseRequest>,
) -> Result<Response, Refusal> {
    let queue = api.service.pause_queue(&caller.0, &name, request).await?;
    Ok(answer::with_index(StatusCode::OK, queue.index, &queue.body))
}

/// Lets a paused queue go on.
#[utoipa::path(post, path = "/api/v1/queues/{name}/resume", tag = "queues",
    params(("name" = String, Path, description = "The queue")),
    responses((status = 200, description = "The queue", body = QueueView)))]
pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let queue = api.service.resume_queue(&caller.0, &name).await?;
    Ok(answer::with_index(StatusCode::OK, queue.index, &queue.body))
}

/// Sets priority, part and limits of a queue; what is absent stays.
#[utoipa::path(post, path = "/api/v1/queues/{name}/shape", tag = "queues", request_body = ShapeQueueRequest,
    params(("name" = String, Path, description = "The queue")),
    responses((status = 200, description = "The queue", body = QueueView)))]
pub(super) async fn shape(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(name): Path<String>,
    Json(request): Json<ShapeQueueRequest>,
) -> Result<Response, Refusal> {
    let queue = api.service.shape_queue(&caller.0, &name, request).await?;
    Ok(answer::with_index(StatusCode::OK, queue.index, &queue.body))
}
