//! Experiments that belong together: those of one sweep, and one that was made from another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ExperimentId, IdError};

/// What the text of a group begins with, so that none is ever taken for an experiment.
const PREFIX: &str = "g-";

/// A group of experiments that were submitted as one: `g-` and eight characters, as those of an experiment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(ExperimentId);

impl GroupId {
    /// Takes the low 40 bits of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(ExperimentId::from_bits(bits))
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupId({self})")
    }
}

impl FromStr for GroupId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let id = text.strip_prefix(PREFIX).and_then(|id| id.parse().ok());
        id.map(Self).ok_or_else(|| IdError {
            what: "group id",
            text: text.to_owned(),
            hint: "g- and eight characters, as `muster run --sweep` prints it",
        })
    }
}

impl Serialize for GroupId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for GroupId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            ExperimentId::deserialize(deserializer).map(Self)
        }
    }
}

/// Which other experiment it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The same with changes.
    Clone(ExperimentId),
    /// Exactly the same once more.
    Rerun(ExperimentId),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clone(id) => write!(f, "clone of {id}"),
            Self::Rerun(id) => write!(f, "rerun of {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_never_taken_for_an_experiment() {
        let group = GroupId::from_bits(0x12_3456_789a);
        let text = group.to_string();
        assert_eq!(text.parse(), Ok(group));
        assert!(text.parse::<ExperimentId>().is_err());
        assert!(text[2..].parse::<GroupId>().is_err());
        let json = serde_json::to_string(&group).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<GroupId>(&json).unwrap(), group);
    }
}
