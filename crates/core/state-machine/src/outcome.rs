//! What became of a command. A refusal is an outcome, never an error.

use std::fmt;

use serde::{Deserialize, Serialize};
use types::{AttemptToken, ExperimentId, GroupId};

/// The answer to a command, remembered for repeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done; nothing more to say.
    Done,
    /// The experiment has this id now.
    Submitted(ExperimentId),
    /// The attempt is booked.
    Placed(AttemptToken),
    /// Not done, and why.
    Refused(Refusal),
    /// The group of experiments has this id now.
    GroupSubmitted(GroupId),
}

impl Outcome {
    /// A refusal.
    #[must_use]
    pub fn refused(code: RefusalCode, message: impl Into<String>) -> Self {
        Self::Refused(Refusal {
            code,
            message: message.into(),
        })
    }
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable reason.
    pub code: RefusalCode,
    /// For people: what is so, and what to do.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Stable reasons of refusals. Appended only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The cluster exists already.
    AlreadyFounded,
    /// No such experiment.
    UnknownExperiment,
    /// It has ended.
    AlreadyEnded,
    /// No such queue.
    UnknownQueue,
    /// No such node.
    UnknownNode,
    /// No such token.
    UnknownToken,
    /// The token's time is over.
    TokenExpired,
    /// The token was used as often as it may be.
    TokenUsedUp,
    /// The name is taken.
    NameTaken,
    /// The experiment is not waiting.
    NotWaiting,
    /// The attempt or its token is not the current one.
    Stale,
    /// The node is full, draining or gone: place again.
    DoesNotFit,
    /// The role does not allow it.
    NotAllowed,
    /// The values make no sense.
    Invalid,
    /// The identity was taken out of the cluster.
    Removed,
    /// No such group.
    UnknownGroup,
}
