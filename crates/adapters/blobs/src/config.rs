//! Settings of the store.

use std::path::PathBuf;

/// Where blobs live and how much they may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of the store; made if missing, used by one process at a time.
    pub directory: PathBuf,
    /// Largest blob that is accepted, in bytes.
    pub max_blob_bytes: u64,
    /// Bytes that stay free on the disk: a put that would go below is refused.
    pub reserve_free_bytes: u64,
}

impl Config {
    /// Default of [`Config::max_blob_bytes`]: 64 GiB, a large model's shard or a packed data set.
    pub const DEFAULT_MAX_BLOB_BYTES: u64 = 64 << 30;
    /// Default of [`Config::reserve_free_bytes`]: 1 GiB, so that the log and the records of running
    /// attempts still have room when blobs have none.
    pub const DEFAULT_RESERVE_FREE_BYTES: u64 = 1 << 30;

    /// The defaults, in `directory`.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            max_blob_bytes: Self::DEFAULT_MAX_BLOB_BYTES,
            reserve_free_bytes: Self::DEFAULT_RESERVE_FREE_BYTES,
        }
    }
}
