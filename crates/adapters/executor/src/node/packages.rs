//! What this machine's package indexes have, for the node's own index.

use std::path::Path;

use super::Handle;
use crate::environments::{IndexError, OfferedFile};

impl Handle {
    /// The files that the machine's indexes offer for a project.
    ///
    /// # Errors
    /// None of them has the project, or none answers.
    pub async fn offered_files(&self, project: &str) -> Result<Vec<OfferedFile>, IndexError> {
        let host = &self.shared.host_variables;
        self.shared.environments.offered_files(host, project).await
    }

    /// Stores the file at an address of [`Self::offered_files`] as `path`.
    ///
    /// # Errors
    /// Nobody answers, or the disk is full.
    pub async fn download_package(&self, url: &str, path: &Path) -> Result<(), IndexError> {
        let host = &self.shared.host_variables;
        let environments = &self.shared.environments;
        environments.download_package(host, url, path).await
    }
}
