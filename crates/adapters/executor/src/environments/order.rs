//! What the node tells the process that builds.

use serde::{Deserialize, Serialize};
use types::codec;

use crate::job_user::Confinement;

/// Largest order that is read.
const MAX_ORDER_BYTES: usize = 1 << 20;

/// The build, as stored in its place for the process that does it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BuildOrder {
    /// Programs with their arguments, one after the other until one fails.
    pub(crate) steps: Vec<Vec<String>>,
    /// Their whole environment.
    pub(crate) variables: Vec<(String, String)>,
    /// Where they run.
    pub(crate) working_directory: String,
    /// As whom.
    pub(crate) confinement: Confinement,
    /// Directories that they write to.
    pub(crate) writes: Vec<String>,
}

impl BuildOrder {
    /// The file in the environment's place.
    pub(crate) const FILE: &str = "order";

    /// Reads the order in a directory.
    pub(crate) fn read(directory: &std::path::Path) -> std::io::Result<Self> {
        let bytes = std::fs::read(directory.join(Self::FILE))?;
        codec::decode(&bytes, MAX_ORDER_BYTES).map_err(std::io::Error::other)
    }
}
