//! Reads of the state: how current they must be, and the headers that say how current they were.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use service::ReadOptions;
use service::view::Answer;
use utoipa::{IntoParams, ToSchema};

use crate::error::Refusal;
use crate::routes::Api;

/// Log index that an answer reflects; sent back it keeps a client from going back in time.
pub(crate) const INDEX: HeaderName = HeaderName::from_static("x-muster-index");

/// Milliseconds since a stale answer was known to be current.
const AGE: HeaderName = HeaderName::from_static("x-muster-age-ms");

/// How current an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Consistency {
    /// As current as any acknowledged write.
    #[default]
    Linearizable,
    /// Whatever this node knows: always answers.
    Stale,
}

/// The query of a read that takes nothing else.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadQuery {
    /// How current the answer must be; `linearizable` by default.
    #[param(inline)]
    pub(crate) consistency: Consistency,
}

/// A query string; unknown names are refused where `T` refuses them.
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _api: &Arc<Api>) -> Result<Self, Refusal> {
        let query = Query::try_from_uri(&parts.uri);
        query.map(|Query(value)| Self(value)).map_err(|rejection| {
            Refusal::invalid(
                "bad-query",
                rejection.body_text(),
                "the parameters are listed in /api/v1/openapi.json",
            )
        })
    }
}

/// The highest log index that the client saw, from its header.
#[derive(Clone, Copy, Debug, IntoParams)]
#[into_params(names("X-Muster-Index"), parameter_in = Header)]
pub(crate) struct SeenIndex(Option<u64>);

impl SeenIndex {
    /// What to ask of `service`.
    pub(crate) fn read(self, consistency: Consistency) -> ReadOptions {
        ReadOptions {
            stale: consistency == Consistency::Stale,
            min_index: self.0.unwrap_or(0),
        }
    }
}

impl FromRequestParts<Arc<Api>> for SeenIndex {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _api: &Arc<Api>) -> Result<Self, Refusal> {
        let Some(value) = parts.headers.get(&INDEX) else {
            return Ok(Self(None));
        };
        let index = value.to_str().ok().and_then(|text| text.parse().ok()); // refused below, whatever the reason
        index.map(|index| Self(Some(index))).ok_or_else(|| {
            Refusal::invalid(
                "bad-index",
                "X-Muster-Index is not a number",
                "send back what an answer carried, or nothing",
            )
        })
    }
}

/// Status 200 with the body of `answer` and its index; `read` of a stale one adds its age.
pub(crate) fn of_read<T: Serialize>(answer: &Answer<T>, consistency: Consistency) -> Response {
    let mut response = with_index(StatusCode::OK, answer.index, &answer.body);
    if consistency == Consistency::Stale {
        response
            .headers_mut()
            .insert(AGE, HeaderValue::from(answer.age_ms));
    }
    response
}

/// `status` with `body` as JSON and the log index of the state that it shows.
pub(crate) fn with_index<T: Serialize>(status: StatusCode, index: u64, body: &T) -> Response {
    let mut response = (status, axum::Json(body)).into_response();
    response
        .headers_mut()
        .insert(INDEX, HeaderValue::from(index));
    response
}
