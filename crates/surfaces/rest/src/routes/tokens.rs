//! Tokens that let machines join, and the end of any token.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use service::view::{CreateJoinTokenRequest, JoinTokenView, TokenCreated};

use super::Api;
use crate::answer::{self, Parameters, ReadQuery, SeenIndex};
use crate::body::Json;
use crate::error::Refusal;
use crate::identity::Authenticated;

/// Makes a token that admits machines.
#[utoipa::path(post, path = "/api/v1/join-tokens", tag = "tokens", request_body = CreateJoinTokenRequest,
    responses((status = 201, description = "The token; its secret is shown this once", body = TokenCreated)))]
pub(super) async fn create_join(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Json(request): Json<CreateJoinTokenRequest>,
) -> Result<Response, Refusal> {
    let token = api.service.create_join_token(&caller.0, request).await?;
    Ok((StatusCode::CREATED, axum::Json(token)).into_response())
}

/// Lists the join tokens that are not yet forgotten.
#[utoipa::path(get, path = "/api/v1/join-tokens", tag = "tokens", params(ReadQuery, SeenIndex),
    responses((status = 200, description = "The tokens, without their secrets", body = [JoinTokenView])))]
pub(super) async fn list_join(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<ReadQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let tokens = api.service.join_tokens(&caller.0, read).await?;
    Ok(answer::of_read(&tokens, query.consistency))
}

/// Ends a token.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "Public half of the token")),
    responses((status = 204, description = "It is worth nothing any more")))]
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    api.service.revoke_token(&caller.0, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
