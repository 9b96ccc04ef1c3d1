//! Points of metrics, as they are reported by a request instead of a line of output.

use serde::{Deserialize, Serialize};

/// A value of a metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricPoint {
    /// Metric; see [`MetricPoint::is_name`].
    pub name: String,
    /// As the job counts.
    pub step: i64,
    /// `f64::to_bits`.
    pub value_bits: u64,
}

impl MetricPoint {
    /// Longest name.
    pub const MAX_NAME_BYTES: usize = 128;

    /// A text can name a metric.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        !name.is_empty()
            && name.len() <= Self::MAX_NAME_BYTES
            && !name.chars().any(char::is_control)
    }
}
