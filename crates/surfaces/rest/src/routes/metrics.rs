//! What experiments report of themselves: metrics over steps and time.

#![expect(
    unused_qualifications,
    reason = "`utoipa::path` writes `<T as …>::` around the types in `params`"
)]

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use service::view::{MetricsView, PointsAccepted, PointsRequest, SeriesView};
use service::{Axis, SeriesOptions};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use crate::answer::{Consistency, Parameters};
use crate::body::Json;
use crate::error::Refusal;
use crate::identity::{Authenticated, Reporter};

/// Of which attempt.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct MetricsQuery {
    /// Number of the attempt; by default the last.
    attempt: Option<u32>,
    /// Rank of an attempt on several nodes; by default the first, 0.
    rank: Option<u32>,
    /// How current the list of attempts must be; `stale` needs no majority.
    #[param(inline)]
    consistency: Consistency,
}

/// Along what points are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum By {
    /// Steps, as the job counts them.
    #[default]
    Step,
    /// Milliseconds since the Unix epoch.
    Time,
}

/// Which points of which metric.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SeriesQuery {
    /// The metric.
    name: String,
    /// Along what; by default `step`.
    #[serde(default)]
    #[param(inline)]
    by: By,
    /// From this step, or this time, on.
    from: Option<i64>,
    /// Up to this step, or this time, and with it.
    to: Option<i64>,
    /// At most so many points, 2 to 2,000; 200 by default.
    points: Option<u32>,
    /// Number of the attempt; by default the last.
    attempt: Option<u32>,
    /// Rank of an attempt on several nodes; by default the first, 0.
    rank: Option<u32>,
    /// How current the list of attempts must be; `stale` needs no majority.
    #[serde(default)]
    #[param(inline)]
    consistency: Consistency,
}

/// All metrics of an attempt: of each how many points, the last, the least and the greatest.
#[utoipa::path(get, path = "/api/v1/experiments/{id}/metrics", tag = "experiments",
    params(("id" = String, Path, description = "Id, unique prefix, or name"), MetricsQuery),
    responses((status = 200, description = "By name; none before the first point", body = MetricsView)))]
pub(super) async fn metrics(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Parameters(query): Parameters<MetricsQuery>,
) -> Result<Response, Refusal> {
    let options = SeriesOptions {
        attempt: query.attempt,
        rank: query.rank,
        stale: query.consistency == Consistency::Stale,
        ..SeriesOptions::default()
    };
    let view = api.service.metrics(&caller.0, &id, &options).await?;
    Ok(axum::Json(view).into_response())
}

/// One metric: its points, or where there are more than asked for, neighbours put together with the least, the greatest and
/// the mean of them.
#[utoipa::path(get, path = "/api/v1/experiments/{id}/metrics/series", tag = "experiments",
    params(("id" = String, Path, description = "Id, unique prefix, or name"), SeriesQuery),
    responses((status = 200, description = "The points", body = SeriesView)))]
pub(super) async fn metric_series(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(id): Path<String>,
    Parameters(query): Parameters<SeriesQuery>,
) -> Result<Response, Refusal> {
    let options = SeriesOptions {
        attempt: query.attempt,
        rank: query.rank,
        by: match query.by {
            By::Step => Axis::Step,
            By::Time => Axis::Time,
        },
        from: query.from,
        to: query.to,
        points: query.points,
        stale: query.consistency == Consistency::Stale,
    };
    let series = api.service.series(&caller.0, &id, &query.name, &options);
    Ok(axum::Json(series.await?).into_response())
}

/// Adds points of metrics to what the attempt that runs has reported. A person may do so for own experiments; the job itself
/// finds the address in `MUSTER_API` and its token in `MUSTER_TOKEN`, and may write `self` for its id.
#[utoipa::path(post, path = "/api/v1/experiments/{id}/metrics", tag = "experiments", request_body = PointsRequest,
    params(("id" = String, Path, description = "Id, unique prefix, or name; `self` for the token of a job")),
    responses((status = 200, description = "They are in its records, subject to its quota", body = PointsAccepted)))]
pub(super) async fn add_metrics(
    State(api): State<Arc<Api>>,
    reporter: Reporter,
    Path(id): Path<String>,
    Json(request): Json<PointsRequest>,
) -> Result<Response, Refusal> {
    let accepted = match reporter {
        Reporter::Person(caller) => api.service.add_points(&caller, &id, request).await?,
        Reporter::Job(job) => api.service.add_points_of_job(&job, &id, request).await?,
    };
    Ok(axum::Json(accepted).into_response())
}
