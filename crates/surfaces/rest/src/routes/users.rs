//! People: who asks, who has a token, and whose tokens end.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use service::view::{CallerView, CreateUserTokenRequest, TokenCreated, UserTokenView};

use super::Api;
use crate::answer::{self, Parameters, ReadQuery, SeenIndex};
use crate::body::Json;
use crate::error::Refusal;
use crate::identity::{self, Authenticated};

/// Who the caller is to this node, and why.
#[utoipa::path(get, path = "/api/v1/me", tag = "users",
    responses((status = 200, description = "The caller", body = CallerView)))]
pub(super) async fn me(State(api): State<Arc<Api>>, caller: Authenticated) -> Response {
    let reason = identity::reason(&caller.0);
    axum::Json(api.service.caller_view(&caller.0, &reason)).into_response()
}

/// Makes a token for a person.
#[utoipa::path(post, path = "/api/v1/user-tokens", tag = "users", request_body = CreateUserTokenRequest,
    responses((status = 201, description = "The token; its secret is shown this once", body = TokenCreated)))]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Json(request): Json<CreateUserTokenRequest>,
) -> Result<Response, Refusal> {
    let token = api.service.create_user_token(&caller.0, request).await?;
    Ok((StatusCode::CREATED, axum::Json(token)).into_response())
}

/// Lists the tokens of people: all to an administrator, the own ones to others.
#[utoipa::path(get, path = "/api/v1/user-tokens", tag = "users", params(ReadQuery, SeenIndex),
    responses((status = 200, description = "The tokens, without their secrets", body = [UserTokenView])))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<ReadQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let tokens = api.service.user_tokens(&caller.0, read).await?;
    Ok(answer::of_read(&tokens, query.consistency))
}

/// Ends all tokens of a person.
#[utoipa::path(delete, path = "/api/v1/users/{name}", tag = "users",
    params(("name" = String, Path, description = "The person")),
    responses((status = 204, description = "None of their tokens is worth anything any more")))]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    api.service.remove_user(&caller.0, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
