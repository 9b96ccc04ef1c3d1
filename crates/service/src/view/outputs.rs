//! What an attempt left behind.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The outputs of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputsView {
    /// Experiment.
    pub experiment: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Sorted by rank and path.
    pub entries: Vec<OutputView>,
    /// What was asked for and is not there, each with its reason.
    pub left_out: Vec<String>,
}

/// A file, link or empty directory that was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputView {
    /// Rank of the attempt that left it.
    pub rank: u32,
    /// Path relative to the directory in which the command started.
    pub path: String,
    /// `file`, `link` or `directory`.
    pub kind: String,
    /// What a file is for people, by its name: `image`, `table`, `text`, `model` or `file`.
    pub holds: String,
    /// Bytes of a file.
    pub bytes: u64,
    /// A file that can be executed.
    pub executable: bool,
    /// BLAKE3 of a file; else empty.
    pub hash: String,
    /// Where a link leads; else empty.
    pub target: String,
}

/// What was kept of a rank, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptView {
    /// Rank.
    pub rank: u32,
    /// Files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// What was left out, and why.
    pub left_out: Vec<String>,
    /// Hash of the list of it all, which names this content and no other.
    pub tree: String,
}

/// An artifact is on the disk of the node that runs its attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactAccepted {
    /// Experiment.
    pub experiment: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Its path among the outputs, once the attempt has ended.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// BLAKE3 of them.
    pub hash: String,
}
