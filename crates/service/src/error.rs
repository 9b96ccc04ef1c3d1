//! The one error of the use cases: what a surface needs to answer.

use serde::{Deserialize, Serialize};

/// Kind of an error; each surface maps it to its own status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The request makes no sense.
    Invalid,
    /// Nobody knows who asks.
    Unauthenticated,
    /// They may not.
    Forbidden,
    /// No such thing.
    NotFound,
    /// The thing is not in a state for that.
    Conflict,
    /// Over a limit.
    TooLarge,
    /// Too often.
    TooMany,
    /// Not now: no leader, no quorum, disk full. Nothing was changed, or it is not known: retry with the same key.
    Unavailable,
    /// A fault of muster.
    Internal,
}

/// An error with a stable code, a message for people and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ServiceError {
    /// Kind.
    pub kind: ErrorKind,
    /// Stable word, kebab-case.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

impl ServiceError {
    /// An error without a hint.
    #[must_use]
    pub fn new(kind: ErrorKind, code: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.to_owned(),
            message: message.into(),
            hint: String::new(),
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}
