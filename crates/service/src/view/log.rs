//! Pieces of output.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::view::CauseView;

/// A piece of an attempt's output or history, as followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum LogItem {
    /// Console output; bytes that are not UTF-8 are replaced.
    Console {
        /// Attempt.
        attempt: u32,
        /// Rank of it, from 0; left out where there is only one.
        #[serde(skip_serializing_if = "Option::is_none")]
        rank: Option<u32>,
        /// Number of the record in the attempt.
        sequence: u64,
        /// When.
        at: u64,
        /// `stdout`, `stderr`, `muster`, or `build`: of the environment.
        stream: String,
        /// Text as it came, not necessarily whole lines.
        text: String,
    },
    /// A metric point.
    Scalar {
        /// Attempt.
        attempt: u32,
        /// Rank of it, from 0; left out where there is only one.
        #[serde(skip_serializing_if = "Option::is_none")]
        rank: Option<u32>,
        /// Number of the record.
        sequence: u64,
        /// When.
        at: u64,
        /// Metric.
        name: String,
        /// Step.
        step: i64,
        /// Value; `NaN`, `inf` and `-inf` travel as text, since JSON has no such numbers.
        #[serde(with = "json_float")]
        value: f64,
    },
    /// Console bytes that were dropped.
    Gap {
        /// Attempt.
        attempt: u32,
        /// Rank of it, from 0; left out where there is only one.
        #[serde(skip_serializing_if = "Option::is_none")]
        rank: Option<u32>,
        /// How many.
        bytes: u64,
    },
    /// The experiment's state changed: as in the list, with the reason.
    State {
        /// New state.
        state: String,
        /// Why.
        reason: String,
    },
    /// The experiment is over; the last item.
    End {
        /// How.
        cause: CauseView,
    },
}

/// Floats that JSON cannot write travel as text, so that a diverged loss reaches its reader.
/// Numbers that JSON does not have travel as text.
pub(super) mod json_float {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::view) fn serialize<S: Serializer>(
        value: &f64,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if value.is_finite() {
            serializer.serialize_f64(*value)
        } else {
            serializer.collect_str(value)
        }
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Float {
        Number(f64),
        Text(String),
    }

    pub(in crate::view) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<f64, D::Error> {
        match Float::deserialize(deserializer)? {
            Float::Number(value) => Ok(value),
            Float::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_that_is_no_number_reaches_its_reader() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.25] {
            let item = LogItem::Scalar {
                attempt: 1,
                rank: Some(2),
                sequence: 2,
                at: 3,
                name: "loss".to_owned(),
                step: 4,
                value,
            };
            let text = serde_json::to_string(&item).unwrap();
            let LogItem::Scalar { value: read, .. } = serde_json::from_str(&text).unwrap() else {
                panic!("{text}")
            };
            assert!(
                read.total_cmp(&value).is_eq() || read.is_nan() && value.is_nan(),
                "{text}"
            );
        }
    }
}
