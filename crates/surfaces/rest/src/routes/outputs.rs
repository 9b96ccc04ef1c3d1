//! What attempts left behind: the list, and its files.

#![expect(
    unused_qualifications,
    reason = "`utoipa::path` writes `<T as …>::` around the types in `params`"
)]

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use service::view::OutputsView;
use service::{ErrorKind, OutputFile, OutputOptions, ServiceError};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use utoipa::IntoParams;

use super::Api;
use crate::answer::{Consistency, Parameters};
use crate::error::Refusal;
use crate::identity::Authenticated;
use crate::range::{self, Wanted};

/// Bytes read from a file at a time: a good size for disk and socket, small against 512 connections.
const READ_BYTES: usize = 64 * 1024;

/// Of which attempt.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct OutputsQuery {
    /// Number of the attempt; by default the last that left something.
    attempt: Option<u32>,
    /// How current the list of attempts must be; `stale` needs no majority.
    #[param(inline)]
    consistency: Consistency,
}

/// Which file.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FileQuery {
    /// Its path, as in the list.
    path: String,
    /// The rank that left it; by default the first, 0.
    #[serde(default)]
    rank: u32,
    /// Number of the attempt; by default the last that left something.
    #[serde(default)]
    attempt: Option<u32>,
    /// How current the list of attempts must be; `stale` needs no majority.
    #[serde(default)]
    #[param(inline)]
    consistency: Consistency,
}

/// What an attempt left of the outputs that it was asked for: paths, modes, sizes, hashes.
#[utoipa::path(get, path = "/api/v1/experiments/{id}/outputs", tag = "experiments",
    params(("id" = String, Path, description = "Id, unique prefix, or name"), OutputsQuery),
    responses((status = 200, description = "The list; it is there once the attempt has ended", body = OutputsView)))]
pub(super) async fn outputs(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Parameters(query): Parameters<OutputsQuery>,
) -> Result<Response, Refusal> {
    let options = options(query.attempt, query.consistency);
    let view = api.service.outputs(&caller.0, &id, options).await?;
    Ok(axum::Json(view).into_response())
}

/// A file that an attempt left, or a range of it, as a download: a browser never shows it.
#[utoipa::path(get, path = "/api/v1/experiments/{id}/outputs/file", tag = "experiments",
    params(("id" = String, Path, description = "Id, unique prefix, or name"), FileQuery,
        ("Range" = Option<String>, Header, description = "`bytes=FROM-TO`, `bytes=FROM-` or `bytes=-LAST`")),
    responses((status = 200, description = "The bytes; its ETag is their BLAKE3", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "The range that was asked for", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 416, description = "The file is shorter; the message says how long it is")))]
pub(super) async fn output_file(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Parameters(query): Parameters<FileQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let options = options(query.attempt, query.consistency);
    let at = (query.path.as_str(), query.rank);
    let found = api.service.output_file(&caller.0, &id, at, options).await?;
    let asked = headers.get(header::RANGE);
    let asked = asked.and_then(|value| value.to_str().ok()); // Not text: no range that is known, so all of it.
    let wanted = range::wanted(asked, found.length);
    answer(found, wanted).await
}

fn options(attempt: Option<u32>, consistency: Consistency) -> OutputOptions {
    OutputOptions {
        attempt,
        stale: consistency == Consistency::Stale,
    }
}

async fn answer(found: OutputFile, wanted: Wanted) -> Result<Response, Refusal> {
    let OutputFile {
        length,
        mut file,
        hash,
    } = found;
    let (status, first, count) = match wanted {
        Wanted::All => (StatusCode::OK, 0, length),
        Wanted::Part { first, last } => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Wanted::Beyond => return Err(Refusal::beyond(length)),
    };
    let sought = file.seek(std::io::SeekFrom::Start(first)).await;
    sought.map_err(|error| {
        ServiceError::new(ErrorKind::Internal, "blob", format!("seeking: {error}"))
    })?;
    let reader = ReaderStream::with_capacity(file.take(count), READ_BYTES);
    let mut response = (status, Body::from_stream(reader)).into_response();
    let headers = response.headers_mut();
    let text = |text: String| HeaderValue::try_from(text).expect("digits and ASCII words");
    if let Wanted::Part { first, last } = wanted {
        let range = text(format!("bytes {first}-{last}/{length}"));
        headers.insert(header::CONTENT_RANGE, range);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(count));
    headers.insert(header::ETAG, text(format!("\"{hash}\"")));
    for (name, value) in [
        (header::ACCEPT_RANGES, "bytes"),
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
