//! Metrics over steps and time.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::log::json_float;

/// All metrics of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricsView {
    /// Experiment.
    pub experiment: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Rank of it.
    pub rank: u32,
    /// By name.
    pub metrics: Vec<MetricSummary>,
}

/// A metric in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricSummary {
    /// Name.
    pub name: String,
    /// All of its points.
    pub points: PointsView,
}

/// One metric over steps or time, reduced to few points.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeriesView {
    /// Experiment.
    pub experiment: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Rank of it.
    pub rank: u32,
    /// Metric.
    pub name: String,
    /// Along what points are put together: `step` or `time`.
    pub by: String,
    /// Points of the metric in all, in the range that was asked for or not.
    pub total: u64,
    /// Along that axis; each of about as many steps, or as much time.
    pub points: Vec<PointsView>,
}

/// Points put together: one, or several neighbours. Numbers that JSON does not have travel as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PointsView {
    /// How many.
    pub count: u64,
    /// Of these no number.
    pub nans: u64,
    /// Step of the first that came.
    pub first_step: i64,
    /// Step of the last that came.
    pub last_step: i64,
    /// When the first came.
    pub first_at: u64,
    /// When the last came.
    pub last_at: u64,
    /// Value of the last that came.
    #[serde(with = "json_float")]
    pub last: f64,
    /// The least.
    #[serde(with = "json_float")]
    pub min: f64,
    /// Its step.
    pub min_step: i64,
    /// The greatest.
    #[serde(with = "json_float")]
    pub max: f64,
    /// Its step.
    pub max_step: i64,
    /// The mean.
    #[serde(with = "json_float")]
    pub mean: f64,
}

/// Points to add to what an experiment has reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PointsRequest {
    /// 1 to 5,000.
    pub points: Vec<PointInput>,
    /// Rank of an experiment on several nodes; default 0. A job's own token tells.
    #[serde(default)]
    pub rank: Option<u32>,
}

/// A value of a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PointInput {
    /// Metric: 1 to 128 bytes.
    pub name: String,
    /// As the job counts.
    #[serde(default)]
    pub step: i64,
    /// Value; `"NaN"`, `"inf"` and `"-inf"` as text.
    #[serde(with = "json_float")]
    pub value: f64,
}

/// They are in the records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointsAccepted {
    /// Experiment.
    pub experiment: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Rank of it.
    pub rank: u32,
    /// How many.
    pub points: u64,
}
