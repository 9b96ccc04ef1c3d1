//! What a person submits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{
    BlobHash, DurationMs, Environment, NodeId, Origin, Outputs, QueueName, ResourceRequest,
    StopRule, codec, fill_parameters, filled_length, parameter_variable,
};

/// The code that an experiment runs, as content-addressed blobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTreeRef {
    /// Hash of the encoded [`crate::SourceTree`].
    pub tree: BlobHash,
    /// Files in it.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Git commit it was taken from, with `+` when there were changes; empty for a plain directory.
    pub revision: String,
    /// Git remote, without credentials; empty if none.
    pub remote: String,
}

/// What to do with an attempt that uses more GPU memory than it asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overuse {
    /// Say so in its records and in `why`.
    #[default]
    Warn,
    /// End it with that cause.
    Stop,
}

/// The word names no policy.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no policy for over-use: write warn or stop")]
pub struct ParseOveruseError(String);

impl fmt::Display for Overuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warn => "warn",
            Self::Stop => "stop",
        })
    }
}

impl FromStr for Overuse {
    type Err = ParseOveruseError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "warn" => Ok(Self::Warn),
            "stop" => Ok(Self::Stop),
            other => Err(ParseOveruseError(other.to_owned())),
        }
    }
}

/// What to do when things end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Attempts lost with their node that are replaced.
    pub retries_node_lost: u32,
    /// Own failures that are tried again.
    pub retries_failed: u32,
    /// Longest run time; 0: none.
    pub time_limit_ms: DurationMs,
    /// Lease that the submitter asked for; 0: by rule.
    pub lease_ms: DurationMs,
    /// Time between SIGTERM and SIGKILL.
    pub stop_grace_ms: DurationMs,
    /// Higher goes first; 0 is ordinary. Hundreds are classes: one of a higher class may take the place of a lower one.
    pub priority: i32,
    /// How long it is expected to run, learned from earlier runs; 0: not known. The time limit is the bound.
    pub expected_ms: DurationMs,
    /// Where it leaves checkpoints, relative to its directory or absolute; empty: nowhere, so that ending it loses its
    /// work.
    pub checkpoint_directory: String,
    /// Over-use of GPU memory.
    pub overuse: Overuse,
    /// It ends when a metric that it prints says that it is of no use.
    pub stop_rule: Option<StopRule>,
}

impl Policy {
    /// The longest that it runs, or is expected to: what backfill counts on; none: nobody knows.
    #[must_use]
    pub fn duration(&self) -> Option<DurationMs> {
        let known = [self.time_limit_ms, self.expected_ms];
        known.into_iter().find(|duration| duration.0 > 0)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retries_node_lost: 3,
            retries_failed: 0,
            time_limit_ms: DurationMs(0),
            lease_ms: DurationMs(0),
            stop_grace_ms: DurationMs::from_secs(10),
            priority: 0,
            expected_ms: DurationMs(0),
            checkpoint_directory: String::new(),
            overuse: Overuse::Warn,
            stop_rule: None,
        }
    }
}

/// An experiment as submitted; never changed afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExperimentSpec {
    /// Name that a person gave, or one made from the command; not unique.
    pub name: String,
    /// Program and arguments, run without a shell, with places for parameters: see [`Self::filled_command`].
    pub command: Vec<String>,
    /// Code.
    pub source: Option<SourceTreeRef>,
    /// Sub-directory of the source tree in which the command starts; empty: its root.
    pub working_directory: String,
    /// Variables set for the command, with places for parameters in their values.
    pub variables: Vec<(String, String)>,
    /// Packages.
    pub environment: Environment,
    /// Named parameters: put into their places, and into the environment.
    pub parameters: Vec<(String, String)>,
    /// What it needs.
    pub resources: ResourceRequest,
    /// Which of these amounts nobody stated, and what they were learned from, for people.
    pub learned: Vec<String>,
    /// Nodes that are taken before others, if they fit.
    pub prefer_nodes: Vec<NodeId>,
    /// Where it waits.
    pub queue: QueueName,
    /// Retries, limits, priority.
    pub policy: Policy,
    /// What is kept of its directory when an attempt ends.
    pub outputs: Outputs,
    /// The experiment that it was made from.
    pub origin: Option<Origin>,
}

impl ExperimentSpec {
    /// The command as it is run: parameters in their places.
    #[must_use]
    pub fn filled_command(&self) -> Vec<String> {
        let words = self.command.iter();
        words
            .map(|word| fill_parameters(word, &self.parameters))
            .collect()
    }

    /// The variables that its command gets: one for each parameter, then its own with parameters in their places.
    #[must_use]
    pub fn filled_variables(&self) -> Vec<(String, String)> {
        let parameters = self.parameters.iter();
        let carried = parameters.map(|(name, value)| (parameter_variable(name), value.clone()));
        let own = self.variables.iter();
        let own = own.map(|(name, value)| (name.clone(), fill_parameters(value, &self.parameters)));
        carried.chain(own).collect()
    }

    /// Bytes of both of these.
    #[must_use]
    pub fn filled_bytes(&self) -> u64 {
        let length = |text: &String| filled_length(text, &self.parameters);
        let words = self.command.iter().map(length);
        let values = self.variables.iter().map(|(_, value)| length(value));
        words.chain(values).fold(0, u64::saturating_add)
    }

    /// Names the source and command of an experiment, whatever its commit and the values of its parameters: what earlier runs teach about later ones.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let source = self.source.as_ref();
        let origin = source.map_or("", |source| source.remote.as_str());
        let fields = (origin, &self.working_directory, &self.command);
        *blake3::hash(&codec::encode(&fields)).as_bytes()
    }
}
