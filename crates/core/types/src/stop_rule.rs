//! When an experiment is of no use any more, by what it says of itself: `loss > 2 after step 1000`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of a metric, as the holder takes them.
const MAX_METRIC_BYTES: usize = 128;
/// What stands before the step.
const AFTER: &str = " after step ";

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `is nan`: of no use since a loss that is not a number never becomes one again.
    NotANumber,
}

/// Ends an attempt when a metric that it prints is such; the holder looks at each value as it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRule {
    /// Name, as in `metric: loss=0.25 step=120`.
    pub metric: String,
    /// How.
    pub comparison: Comparison,
    /// With what: IEEE 754 bits, so that the type stays `Eq`; 0 for [`Comparison::NotANumber`].
    pub value_bits: u64,
    /// Only values of later steps count; none: all.
    pub after_step: Option<i64>,
}

impl StopRule {
    /// Whether this value ends it.
    #[must_use]
    pub fn ends(&self, metric: &str, step: i64, value: f64) -> bool {
        let bound = f64::from_bits(self.value_bits);
        let holds = match self.comparison {
            Comparison::Above => value > bound,
            Comparison::AtLeast => value >= bound,
            Comparison::Below => value < bound,
            Comparison::AtMost => value <= bound,
            Comparison::NotANumber => value.is_nan(),
        };
        self.metric == metric && self.after_step.is_none_or(|after| step > after) && holds
    }
}

/// A text that is no such rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no rule to stop by: {why}; write METRIC > NUMBER, with >, >=, < or <=, or METRIC is nan, and `after step N` behind it if it holds from there on"
)]
pub struct StopRuleError {
    text: String,
    why: String,
}

impl FromStr for StopRule {
    type Err = StopRuleError;

    fn from_str(text: &str) -> Result<Self, StopRuleError> {
        let error = |why: String| StopRuleError {
            text: text.to_owned(),
            why,
        };
        let (condition, after_step) = match text.split_once(AFTER) {
            None => (text, None),
            Some((condition, step)) => {
                let number = step.trim().parse::<i64>();
                let number = number.map_err(|_no_number| {
                    error(format!("{step:?} is no whole number of a step"))
                })?;
                (condition, Some(number))
            }
        };
        let (metric, comparison, value) =
            split(condition).ok_or_else(|| error("it has no comparison".to_owned()))?;
        let metric = metric.trim();
        if metric.is_empty()
            || metric.len() > MAX_METRIC_BYTES
            || metric.contains(|c: char| c.is_whitespace() || c.is_control() || "<>=".contains(c))
        {
            return Err(error(format!("{metric:?} is no name of a metric")));
        }
        let value_bits = match comparison {
            Comparison::NotANumber => 0,
            _ => {
                let number = value.trim().parse::<f64>().ok();
                let number = number.filter(|number| !number.is_nan());
                let missing = || error(format!("{:?} is no number", value.trim()));
                number.ok_or_else(missing)?.to_bits()
            }
        };
        Ok(Self {
            metric: metric.to_owned(),
            comparison,
            value_bits,
            after_step,
        })
    }
}

/// Metric, comparison and number of a condition.
fn split(condition: &str) -> Option<(&str, Comparison, &str)> {
    if let Some(metric) = condition.trim_end().strip_suffix(" is nan") {
        return Some((metric, Comparison::NotANumber, ""));
    }
    let at = condition.find(['<', '>'])?;
    let (metric, rest) = condition.split_at(at);
    let signs = [
        (">=", Comparison::AtLeast),
        ("<=", Comparison::AtMost),
        (">", Comparison::Above),
        ("<", Comparison::Below),
    ];
    signs.into_iter().find_map(|(sign, comparison)| {
        let value = rest.strip_prefix(sign)?;
        Some((metric, comparison, value))
    })
}

impl fmt::Display for StopRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = f64::from_bits(self.value_bits);
        let metric = &self.metric;
        match self.comparison {
            Comparison::Above => write!(f, "{metric} > {value}")?,
            Comparison::AtLeast => write!(f, "{metric} >= {value}")?,
            Comparison::Below => write!(f, "{metric} < {value}")?,
            Comparison::AtMost => write!(f, "{metric} <= {value}")?,
            Comparison::NotANumber => write!(f, "{metric} is nan")?,
        }
        match self.after_step {
            Some(step) => write!(f, "{AFTER}{step}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_as_it_is_written_and_holds_where_it_says() {
        let rule: StopRule = "loss>2 after step 1000".parse().unwrap();
        assert_eq!(rule.to_string(), "loss > 2 after step 1000");
        assert_eq!(rule.to_string().parse(), Ok(rule.clone()));
        assert!(rule.ends("loss", 1_001, 2.5));
        assert!(!rule.ends("loss", 1_000, 2.5), "not before the step");
        assert!(!rule.ends("loss", 1_001, 2.0), "not at the bound");
        assert!(!rule.ends("accuracy", 1_001, 2.5), "not another metric");
        for (text, ends, goes_on) in [
            ("a >= 1", 1.0, 0.9),
            ("a<=1e-3", 0.001, 0.01),
            ("a < -1", -2.0, -1.0),
            ("a is nan", f64::NAN, 1.0),
        ] {
            let rule: StopRule = text.parse().unwrap();
            assert!(rule.ends("a", 0, ends), "{text}");
            assert!(!rule.ends("a", 0, goes_on), "{text}");
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
    }

    #[test]
    fn a_text_that_is_no_rule_says_which_part_is_wrong() {
        for (text, part) in [
            ("", "it has no comparison"),
            ("loss", "it has no comparison"),
            ("loss=2", "it has no comparison"),
            ("> 2", "\"\" is no name of a metric"),
            ("a b > 2", "\"a b\" is no name"),
            ("loss > much", "\"much\" is no number"),
            ("loss > nan", "\"nan\" is no number"),
            ("loss => 2", "\"loss =\" is no name"),
            ("loss > 2 after step ten", "\"ten\" is no whole number"),
        ] {
            let error = text.parse::<StopRule>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(error.contains("write METRIC > NUMBER"), "{error}");
        }
    }
}
