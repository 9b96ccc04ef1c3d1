//! A copy of everything, as it comes.

#![expect(
    unused_qualifications,
    reason = "`utoipa::path` writes `<T as …>::` around the types in `params`"
)]

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use crate::answer::{Consistency, Parameters, SeenIndex};
use crate::error::Refusal;
use crate::identity::Authenticated;

/// What goes in, and how current it must be.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct BackupQuery {
    /// Also all blobs that experiments name: source trees and recorded output.
    blobs: bool,
    /// `stale` needs no majority and holds what this node, or one that it reaches, knows; `linearizable` by default.
    #[param(inline)]
    consistency: Consistency,
}

/// Streams a backup file. It is whole only if its trailer has come: check it with `muster backup verify`.
#[utoipa::path(get, path = "/api/v1/backup", tag = "backup", params(BackupQuery, SeenIndex),
    responses((status = 200, description = "The file", body = Vec<u8>, content_type = "application/octet-stream")))]
pub(super) async fn take(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<BackupQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let stream = api.service.backup(&caller.0, query.blobs, read).await?;
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"muster.backup\""),
    );
    Ok(response)
}
