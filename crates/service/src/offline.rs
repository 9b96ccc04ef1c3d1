//! What is done to the data directory of a node that does not run: restore from a backup, recovery from a lost majority.
//!
//! Both begin a new history of the cluster (invariant 19). The caller holds the directory's lock.

mod account;
mod recover;
mod restore;

use std::fs::{self, File};
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use state_machine::ClusterState;
use types::{BackupError, ClusterId, NodeId, codec};

pub use recover::{RecoverOptions, Recovered, Survivor};
pub use restore::{RESTORING_MARK, RestoreOptions, Restored, restore};

/// Why nothing was done, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// It would be wrong.
    #[error("{0}")]
    Refused(String),
    /// The backup cannot be used.
    #[error("{}: {source}", path.display())]
    Backup {
        /// Which.
        path: PathBuf,
        /// Why.
        source: BackupError,
    },
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] consensus::Error),
    /// A key cannot be read or written.
    #[error(transparent)]
    Key(#[from] network::Error),
    /// A blob cannot be written.
    #[error(transparent)]
    Blob(#[from] blobs::Error),
    /// A file operation failed.
    #[error("cannot {step} {}: {source}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl OfflineError {
    fn file(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { step, path, source }
    }
}

fn refused<T>(message: impl Into<String>) -> Result<T, OfflineError> {
    Err(OfflineError::Refused(message.into()))
}

/// Writes a file that is there whole or not at all, readable by the owner alone.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), OfflineError> {
    let draft = path.with_extension("new");
    let written = || {
        let mut options = fs::OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    written().map_err(OfflineError::file("write", path))
}

/// The member list of a history in which `founder` alone has the state, signed, so that members follow it.
fn sign_members(
    key: &network::ClusterKey,
    state: &ClusterState,
    founder: &NodeId,
) -> Result<Vec<u8>, OfflineError> {
    match state.member_list(|node| node == founder) {
        Some(list) => Ok(codec::encode(&key.sign(&list))),
        None => refused("the state belongs to no cluster: nothing was ever founded here"),
    }
}

/// A cluster's id as people see it.
fn short(cluster: &ClusterId) -> String {
    cluster.to_string()[..12].to_owned()
}
