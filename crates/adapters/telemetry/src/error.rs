//! What can go wrong, by step.

use std::io;
use std::path::PathBuf;

/// Why sampling could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's figures cannot be read at all.
    #[error("the kernel's figures in /proc could not be read")]
    Kernel(#[source] sysinfo::Error),
    /// The disk of the data directory cannot be looked at.
    #[error("the disk of {} could not be looked at", path.display())]
    Disk {
        /// The data directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread for NVML.
    #[error("the thread that reads the GPUs could not be started")]
    Thread(#[source] io::Error),
    /// The sampling task ended early.
    #[error("a sampling task was cancelled")]
    Task(#[source] tokio::task::JoinError),
}
