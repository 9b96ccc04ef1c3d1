//! What an attempt used, so far or in all.

#![expect(
    unused_qualifications,
    reason = "`utoipa::path` writes `<T as …>::` around the types in `params`"
)]

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use service::SampleOptions;
use service::view::SamplesView;
use utoipa::IntoParams;

use super::Api;
use crate::answer::{Consistency, Parameters};
use crate::error::Refusal;
use crate::identity::Authenticated;

/// Of which attempt, and how many points.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct SampleQuery {
    /// Number of the attempt; by default the last.
    attempt: Option<u32>,
    /// Rank of an attempt on several nodes; by default the first, 0.
    rank: Option<u32>,
    /// At most so many points, 1 to 2,000; 200 by default.
    points: Option<u32>,
    /// How current the list of attempts must be; `stale` needs no majority.
    #[param(inline)]
    consistency: Consistency,
}

/// Processors, memory, disk, GPUs and network of an attempt over time, and in all beside what it was given.
#[utoipa::path(get, path = "/api/v1/experiments/{id}/samples", tag = "experiments",
    params(("id" = String, Path, description = "Id, unique prefix, or name"), SampleQuery),
    responses((status = 200, description = "The samples; no points before the first, which comes 5 s after the start or at the end", body = SamplesView)))]
pub(super) async fn samples(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Parameters(query): Parameters<SampleQuery>,
) -> Result<Response, Refusal> {
    let options = SampleOptions {
        attempt: query.attempt,
        rank: query.rank,
        points: query.points,
        stale: query.consistency == Consistency::Stale,
    };
    let view = api.service.samples(&caller.0, &id, options).await?;
    Ok(axum::Json(view).into_response())
}
