//! The form of a backup file, without any I/O: what is written is handed to the caller, what is read is pushed in.
//!
//! Layout: `musterbk | version: u32 LE | frames`, a frame being `length: u32 LE | codec bytes of a [Frame]`. Each part has
//! its BLAKE3 hash, and a chain over all parts ends in the trailer: a part that is changed, left out, moved or cut off is
//! noticed and named.

mod read;
mod write;

use serde::{Deserialize, Serialize};

use crate::{ClusterId, Incarnation, LogIndex, Timestamp};

pub use read::{BackupError, BackupItem, BackupReader};
pub use write::BackupWriter;

use bytes::Bytes;

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"musterbk";
/// Version of the layout.
const VERSION: u32 = 1;
/// Bytes of a part in one frame, at most: read and written without holding more.
pub const MAX_BACKUP_DATA_BYTES: usize = 1 << 20;
/// Largest frame: data, or a header with a public key and some names.
const MAX_FRAME_BYTES: usize = MAX_BACKUP_DATA_BYTES + (64 << 10);

/// What the whole file is about. Frozen: a change is a new variant of `Frame`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Public key whose hash is the cluster's id; the private half is never in a backup.
    pub cluster_public_key: Vec<u8>,
    /// History of the cluster.
    pub incarnation: Incarnation,
    /// Everything up to this log index is in it, nothing later.
    pub index: LogIndex,
    /// When it was made, by the clock of the node that made it.
    pub made_at: Timestamp,
    /// Name and id of that node.
    pub made_by: String,
    /// Version of the program.
    pub program: String,
    /// Level of the stored formats, see [`crate::codec::DATA_LEVEL`].
    pub data_level: u32,
    /// Blobs are in it too.
    pub with_blobs: bool,
}

/// What a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BackupPart {
    /// The state, encoded; the first part.
    State,
    /// An archive file in its stored form.
    Archive,
    /// A blob; its name is its hash.
    Blob,
    /// A blob that the state names and that no reachable node had: without bytes.
    MissingBlob,
}

impl std::fmt::Display for BackupPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::State => "state",
            Self::Archive => "archive",
            Self::Blob => "blob",
            Self::MissingBlob => "missing blob",
        })
    }
}

/// A frame of the file. Appended only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Frame {
    Header(BackupHeader),
    Begin {
        part: BackupPart,
        name: String,
        bytes: u64,
    },
    Data(Bytes),
    End {
        hash: [u8; 32],
        chain: [u8; 32],
    },
    Trailer {
        parts: u64,
        chain: [u8; 32],
    },
}

/// What a whole backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// Its header.
    pub header: BackupHeader,
    /// Archive files.
    pub archives: u64,
    /// Blobs.
    pub blobs: u64,
    /// Blobs that should have been there.
    pub missing_blobs: u64,
    /// Bytes of all parts.
    pub bytes: u64,
    /// End of the chain: two backups with the same are the same.
    pub hash: [u8; 32],
}

/// Counts of what went by, and the chain over it; the same for writer and reader.
#[derive(Clone, Debug, Default)]
struct Tally {
    chain: [u8; 32],
    parts: u64,
    archives: u64,
    blobs: u64,
    missing_blobs: u64,
    bytes: u64,
}

impl Tally {
    fn start(header_frame: &[u8]) -> Self {
        Self {
            chain: *blake3::hash(header_frame).as_bytes(),
            ..Self::default()
        }
    }

    fn part(&mut self, part: BackupPart, name: &str, bytes: u64, hash: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&self.chain)
            .update(&crate::codec::encode(&(part, name, bytes)))
            .update(hash);
        self.chain = *hasher.finalize().as_bytes();
        self.parts += 1;
        self.bytes += bytes;
        match part {
            BackupPart::State => {}
            BackupPart::Archive => self.archives += 1,
            BackupPart::Blob => self.blobs += 1,
            BackupPart::MissingBlob => self.missing_blobs += 1,
        }
        self.chain
    }

    fn summary(&self, header: BackupHeader) -> BackupSummary {
        BackupSummary {
            header,
            archives: self.archives,
            blobs: self.blobs,
            missing_blobs: self.missing_blobs,
            bytes: self.bytes,
            hash: self.chain,
        }
    }
}

#[cfg(test)]
mod tests;
