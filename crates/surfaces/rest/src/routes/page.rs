//! The page at `/`: says what this is and how to go on. It loads nothing and runs nothing.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

const PAGE: &str = include_str!("page.html");

const SOURCES: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) async fn show() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, SOURCES)], Html(PAGE)).into_response()
}
