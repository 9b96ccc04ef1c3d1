//! The node and the cluster around it.

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use service::view::{ClusterView, NodesView};

use super::Api;
use crate::answer::{self, Parameters, ReadQuery, SeenIndex};
use crate::error::Refusal;
use crate::identity::Authenticated;

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

/// The document, made once: it can't change while the program runs.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let text = super::openapi().to_json();
    text.expect("the document has text keys only").into()
});

/// Says that the process answers; nothing about the cluster.
#[utoipa::path(get, path = "/api/v1/health", tag = "cluster", security(()),
    responses((status = 200, description = "`{\"status\":\"ok\"}`")))]
pub(super) async fn health() -> Response {
    (JSON, "{\"status\":\"ok\"}").into_response()
}

/// Describes every route.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "cluster", security(()),
    responses((status = 200, description = "This document")))]
pub(super) async fn document() -> Response {
    (JSON, DOCUMENT.clone()).into_response()
}

/// What this node knows of its cluster; always answers.
#[utoipa::path(get, path = "/api/v1/cluster", tag = "cluster",
    responses((status = 200, description = "The cluster as this node sees it", body = ClusterView)))]
pub(super) async fn show(State(api): State<Arc<Api>>, _caller: Authenticated) -> Response {
    axum::Json(api.service.cluster()).into_response()
}

/// All members with their machines.
#[utoipa::path(get, path = "/api/v1/nodes", tag = "cluster", params(ReadQuery, SeenIndex),
    responses((status = 200, description = "The nodes", body = NodesView)))]
pub(super) async fn nodes(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<ReadQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let nodes = api.service.nodes(&caller.0, read).await?;
    Ok(answer::of_read(&nodes, query.consistency))
}
