//! Tokens for machines and people.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use service::view::{CreateJoinTokenRequest, CreateUserTokenRequest, TokenCreated};

use super::Api;
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

/// Makes a token for a person.
#[utoipa::path(post, path = "/api/v1/user-tokens", tag = "tokens", request_body = CreateUserTokenRequest,
    responses((status = 201, description = "The token; its secret is shown this once", body = TokenCreated)))]
pub(super) async fn create_user(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Json(request): Json<CreateUserTokenRequest>,
) -> Result<Response, Refusal> {
    let token = api.service.create_user_token(&caller.0, request).await?;
    Ok((StatusCode::CREATED, axum::Json(token)).into_response())
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
