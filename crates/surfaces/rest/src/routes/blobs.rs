//! Bytes by their hash: source trees on their way in, results on their way out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use service::view::BlobHashes;
use tokio_util::io::{ReaderStream, StreamReader};
use types::BlobHash;

use super::Api;
use crate::blob_batch::{self, MAX_BATCH_BYTES};
use crate::body::{self, Json, Patience};
use crate::error::Refusal;
use crate::identity::Authenticated;

/// Bytes read from a blob at a time: a good size for disk and socket, small against 512 connections.
const READ_BYTES: usize = 64 * 1024;

/// Which of these blobs this node lacks.
#[utoipa::path(post, path = "/api/v1/blobs/missing", tag = "blobs", request_body = BlobHashes,
    responses((status = 200, description = "Those to upload", body = BlobHashes)))]
pub(super) async fn missing(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Json(request): Json<BlobHashes>,
) -> Result<Response, Refusal> {
    caller.may_write()?;
    let asked: Result<Vec<BlobHash>, _> =
        request.hashes.iter().map(|text| parse_hash(text)).collect();
    let missing = api.service.missing_blobs(&asked?);
    let hashes = missing.iter().map(ToString::to_string).collect();
    Ok(axum::Json(BlobHashes { hashes }).into_response())
}

/// Stores the body as the blob of this hash.
#[utoipa::path(put, path = "/api/v1/blobs/{hash}", tag = "blobs",
    params(("hash" = String, Path, description = "BLAKE3 of the bytes, 64 hexadecimal digits")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "Stored")))]
pub(super) async fn put(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(hash): Path<String>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    caller.may_write()?;
    let hash = parse_hash(&hash)?;
    let (frames, too_slow) = body::paced(request.into_body(), Patience::default());
    let stored = api
        .service
        .put_blob(hash, StreamReader::new(Box::pin(frames)));
    let stored = stored.await;
    if too_slow.load(Ordering::Relaxed) {
        return Err(Refusal::body_too_slow());
    }
    stored?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stores many small blobs: frames of 32 bytes hash, little-endian `u32` length, that many bytes; 8 MiB in all.
#[utoipa::path(post, path = "/api/v1/blobs/batch", tag = "blobs",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "All stored")))]
pub(super) async fn put_batch(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    request: Request,
) -> Result<StatusCode, Refusal> {
    caller.may_write()?;
    let body = body::read_whole(request, MAX_BATCH_BYTES).await?;
    api.service.put_blobs(blob_batch::decode(body)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The bytes of this hash, as a download: a browser never shows them.
#[utoipa::path(get, path = "/api/v1/blobs/{hash}", tag = "blobs",
    params(("hash" = String, Path, description = "BLAKE3 of the bytes, 64 hexadecimal digits")),
    responses((status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream")))]
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    _caller: Authenticated,
    Path(hash): Path<String>,
) -> Result<Response, Refusal> {
    let (length, reader) = api.service.read_blob(parse_hash(&hash)?).await?;
    let body = Body::from_stream(ReaderStream::with_capacity(reader, READ_BYTES));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment"),
    );
    Ok(response)
}

fn parse_hash(text: &str) -> Result<BlobHash, Refusal> {
    text.parse().map_err(|error: types::IdError| {
        Refusal::invalid(
            "bad-hash",
            error.to_string(),
            "the BLAKE3 hash of the bytes",
        )
    })
}
