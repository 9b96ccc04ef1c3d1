//! What can go wrong, by step.

use std::io;
use std::path::{Path, PathBuf};

use types::BlobHash;
use types::codec;

use crate::protocol::IDLE;

/// Why a blob was not stored, read or copied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the store open.
    #[error("the blob store {} is in use by another process: stop that one first", path.display())]
    InUse {
        /// Directory of the store.
        path: PathBuf,
        /// The refused lock.
        #[source]
        source: io::Error,
    },
    /// A file or directory could not be made.
    #[error("{} could not be created", path.display())]
    Create {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("{} could not be written", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk, or the user's share of it, is full.
    #[error("the disk of {} is full: free space on it, or move the data directory to a larger one", path.display())]
    DiskFull {
        /// File that was being written.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The put would use the space that is kept free.
    #[error("the disk of {} has {free_bytes} bytes free; {wanted_bytes} more would go below the reserve of {reserve_bytes}: free space on it, or lower the reserve", path.display())]
    BelowReserve {
        /// Directory of the store.
        path: PathBuf,
        /// Bytes free now.
        free_bytes: u64,
        /// Bytes that were to be written.
        wanted_bytes: u64,
        /// Bytes that stay free.
        reserve_bytes: u64,
    },
    /// The kernel did not confirm that the bytes are on the disk; what was being stored was removed.
    #[error("{} could not be made durable", path.display())]
    Sync {
        /// File or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A finished file could not be moved to its name.
    #[error("{} could not be moved into place", path.display())]
    Rename {
        /// The name.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be removed.
    #[error("{} could not be removed", path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More bytes than allowed.
    #[error("a blob of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Bytes offered, at least.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The bytes are not those of the name.
    #[error("the bytes have hash {found}, not the expected {expected}: they were refused")]
    HashMismatch {
        /// The name.
        expected: BlobHash,
        /// The hash of the bytes.
        found: BlobHash,
    },
    /// A stored blob no longer matches its name.
    #[error("blob {hash} was damaged on disk and moved to {}: it will be fetched again from a copy; check the disk", quarantined.display())]
    Damaged {
        /// Its name.
        hash: BlobHash,
        /// Where the damaged bytes are now.
        quarantined: PathBuf,
    },
    /// The blob is not in this store.
    #[error("blob {hash} is not in this store")]
    Missing {
        /// Its name.
        hash: BlobHash,
    },
    /// The reader or the stream to the peer failed.
    #[error("the byte stream failed")]
    Stream(#[source] io::Error),
    /// The peer was silent for too long.
    #[error("the peer made no progress for {seconds} s")]
    Stalled {
        /// Seconds waited.
        seconds: u64,
    },
    /// A frame of the peer did not decode.
    #[error("the peer sent a bad frame")]
    Frame(#[source] codec::Error),
    /// A frame of the peer is longer than any valid one.
    #[error("the peer announced a frame of {bytes} bytes, over the limit of {limit}")]
    FrameTooLong {
        /// Bytes announced.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The peer answered something else than was asked.
    #[error("the peer answered out of turn: expected {expected}")]
    OutOfTurn {
        /// What should have come.
        expected: &'static str,
    },
    /// The peer refused to store what was pushed.
    #[error("the peer refused the blobs: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// A worker thread of the store ended early.
    #[error("a blob task was cancelled")]
    Task(#[source] tokio::task::JoinError),
}

impl Error {
    /// A failed write of `path`, told apart from a full disk.
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        if is_full(&source) {
            Self::DiskFull { path, source }
        } else {
            Self::Write { path, source }
        }
    }

    /// A failed creation of `path`, told apart from a full disk.
    pub(crate) fn create(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        if is_full(&source) {
            Self::DiskFull { path, source }
        } else {
            Self::Create { path, source }
        }
    }

    /// A failed sync of `path`, told apart from a full disk (delayed allocation reports it here).
    pub(crate) fn sync(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        if is_full(&source) {
            Self::DiskFull { path, source }
        } else {
            Self::Sync { path, source }
        }
    }

    /// A failed read of `path`.
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read {
            path: path.to_path_buf(),
            source,
        }
    }

    /// A peer that was silent for the whole of [`IDLE`].
    pub(crate) fn stalled() -> Self {
        Self::Stalled {
            seconds: IDLE.as_secs(),
        }
    }

    /// A failed rename to `path`.
    pub(crate) fn rename(path: &Path, source: io::Error) -> Self {
        Self::Rename {
            path: path.to_path_buf(),
            source,
        }
    }

    /// A failed removal of `path`.
    pub(crate) fn remove(path: &Path, source: io::Error) -> Self {
        Self::Remove {
            path: path.to_path_buf(),
            source,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
