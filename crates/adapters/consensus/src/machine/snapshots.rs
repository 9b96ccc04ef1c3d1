//! Snapshot files: `snapshots/<index>-<term>.snap`.
//!
//! Layout: length of the header (u32 LE), header (codec), state (codec). The header names the BLAKE3
//! of the state, which is also its state hash: equal on all replicas at the same index.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use state_machine::ClusterState;
use types::codec;

use super::Snapshot;
use crate::directory::{Layout, file_names, remove_temporary_files, sync_directory, write_durably};
use crate::error::Error;
use crate::raft_types::RaftSnapshotMeta;
use crate::{failpoint, spare};

/// Snapshots kept: the newest, and one more for a person with a damaged disk.
const KEPT: usize = 2;
/// Largest state that is read.
const MAX_STATE_BYTES: usize = 1 << 30;
/// Largest header: two voter sets and some ids.
const MAX_HEADER_BYTES: usize = 64 << 10;

#[derive(Clone, Serialize, Deserialize)]
enum Header {
    V1 {
        meta: RaftSnapshotMeta,
        state_bytes: u64,
        state_hash: [u8; 32],
    },
}

/// A snapshot on disk, open: it can be read even after its name is gone.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    length: u64,
}

impl SnapshotFile {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let file = spare::opened(|| File::open(&path)).map_err(Error::file("open", &path))?;
        let length = file
            .metadata()
            .map_err(Error::file("read the size of", &path))?
            .len();
        Ok(Self {
            path,
            file: Arc::new(file),
            length,
        })
    }

    /// Bytes of the whole file.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes `offset..offset + length`, fewer at the end. Blocks.
    pub(crate) fn read(&self, offset: u64, length: u64) -> Result<Bytes, Error> {
        let length = length.min(self.length.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(Error::file("read", &self.path))?;
        Ok(bytes.into())
    }

    fn damaged(&self, what: impl Into<String>) -> Error {
        Error::Damaged {
            file: self.path.clone(),
            key: "the snapshot".into(),
            what: what.into(),
        }
    }

    fn header(&self) -> Result<(Header, u64), Error> {
        let length = self.read(0, 4)?;
        let length: [u8; 4] = (*length)
            .try_into()
            .map_err(|_short| self.damaged("it is empty"))?;
        let length = u64::from(u32::from_le_bytes(length));
        if length > MAX_HEADER_BYTES as u64 {
            return Err(self.damaged("its header is too long"));
        }
        let bytes = self.read(4, length)?;
        let header = codec::decode(&bytes, MAX_HEADER_BYTES)
            .map_err(|error| Error::undecodable(&self.path, "the snapshot", &error))?;
        Ok((header, 4 + length))
    }

    /// What the snapshot covers.
    pub(crate) fn meta(&self) -> Result<RaftSnapshotMeta, Error> {
        let (Header::V1 { meta, .. }, _) = self.header()?;
        Ok(meta)
    }
}

/// Reads and checks the state in `snapshot`. Blocks.
pub(crate) fn read_state(snapshot: &SnapshotFile) -> Result<ClusterState, Error> {
    let (
        Header::V1 {
            state_bytes,
            state_hash,
            ..
        },
        start,
    ) = snapshot.header()?;
    if state_bytes > MAX_STATE_BYTES as u64 || start + state_bytes != snapshot.length {
        return Err(snapshot.damaged("its length is not the one in its header"));
    }
    let bytes = snapshot.read(start, state_bytes)?;
    if *blake3::hash(&bytes).as_bytes() != state_hash {
        return Err(snapshot.damaged("its checksum does not match"));
    }
    codec::decode(&bytes, MAX_STATE_BYTES)
        .map_err(|error| Error::undecodable(&snapshot.path, "the snapshot", &error))
}

/// The snapshots of this replica.
#[derive(Clone)]
pub(crate) struct Snapshots {
    directory: PathBuf,
    current: Arc<Mutex<Option<Snapshot>>>,
}

impl Snapshots {
    /// Finds the newest snapshot.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) fn open(layout: &Layout) -> Result<Self, Error> {
        let directory = layout.snapshots();
        remove_temporary_files(&directory)?;
        let this = Self {
            directory,
            current: Arc::default(),
        };
        if let Some(name) = this.names()?.pop() {
            let file = SnapshotFile::open(this.directory.join(name))?;
            let meta = file.meta()?;
            *this.lock() = Some(Snapshot {
                meta,
                snapshot: file,
            });
        }
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Snapshot>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn current(&self) -> Option<Snapshot> {
        self.lock().clone()
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let mut names = file_names(&self.directory)?;
        names.retain(|name| name.ends_with(".snap"));
        Ok(names)
    }

    /// Writes `state`; durable on return. Blocks.
    pub(crate) fn write(
        &self,
        state: &ClusterState,
        meta: &RaftSnapshotMeta,
    ) -> Result<Snapshot, Error> {
        let bytes = codec::encode(state);
        let state_hash = *blake3::hash(&bytes).as_bytes();
        let header = codec::encode(&Header::V1 {
            meta: meta.clone(),
            state_bytes: bytes.len() as u64,
            state_hash,
        });
        let length = u32::try_from(header.len()).expect("a header is some hundred bytes");
        let parts: [&[u8]; 3] = [&length.to_le_bytes(), &header, &bytes];
        let path = write_durably(&self.directory, &file_name(meta), &parts)?;
        self.set_current(meta, path)
    }

    /// Makes a received or found snapshot the current one. Blocks.
    pub(crate) fn adopt(
        &self,
        meta: &RaftSnapshotMeta,
        snapshot: &SnapshotFile,
    ) -> Result<(), Error> {
        let path = self.directory.join(file_name(meta));
        if snapshot.path != path {
            if snapshot.path.parent() == Some(&self.directory) {
                fs::rename(&snapshot.path, &path).map_err(Error::file("rename", &snapshot.path))?;
                sync_directory(&self.directory)?;
            } else {
                let bytes = snapshot.read(0, snapshot.length)?;
                write_durably(&self.directory, &file_name(meta), &[&bytes])?;
            }
        }
        self.set_current(meta, path).map(drop)
    }

    fn set_current(&self, meta: &RaftSnapshotMeta, path: PathBuf) -> Result<Snapshot, Error> {
        let snapshot = Snapshot {
            meta: meta.clone(),
            snapshot: SnapshotFile::open(path)?,
        };
        *self.lock() = Some(snapshot.clone());
        failpoint::reached("snapshot.before_remove");
        let mut names = self.names()?;
        names.truncate(names.len().saturating_sub(KEPT));
        for name in names {
            let path = self.directory.join(name);
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
        Ok(snapshot)
    }

    /// Starts a file for a snapshot that arrives in chunks. Blocks.
    pub(crate) fn receive(&self, session: u64) -> Result<IncomingSnapshot, Error> {
        let path = self.directory.join(format!("incoming-{session}.tmp"));
        let file = spare::opened(|| File::create(&path)).map_err(Error::file("create", &path))?;
        Ok(IncomingSnapshot {
            path,
            file,
            length: 0,
            hasher: blake3::Hasher::new(),
        })
    }
}

/// Sorts by index, then term.
fn file_name(meta: &RaftSnapshotMeta) -> String {
    let (index, term) = meta
        .last_log_id
        .as_ref()
        .map_or((0, 0), |id| (id.index, **id.committed_leader_id()));
    format!("{index:020}-{term:010}.snap")
}

/// A snapshot while it arrives; its file is removed if it never becomes one.
#[derive(Debug)]
pub(crate) struct IncomingSnapshot {
    path: PathBuf,
    file: File,
    length: u64,
    hasher: blake3::Hasher,
}

impl IncomingSnapshot {
    /// Bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Appends a chunk. Blocks.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(bytes)
            .map_err(Error::file("write", &self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Ends the file and checks it against what the sender said. Blocks.
    pub(crate) fn finish(&self, checksum: [u8; 32]) -> Result<SnapshotFile, Error> {
        self.file
            .sync_all()
            .map_err(Error::file("sync", &self.path))?;
        let snapshot = SnapshotFile::open(self.path.clone())?;
        if *self.hasher.finalize().as_bytes() != checksum {
            return Err(snapshot.damaged("it is not what the sender read"));
        }
        Ok(snapshot)
    }
}

impl Drop for IncomingSnapshot {
    fn drop(&mut self) {
        // Gone already if it was adopted; what stays after a failure is removed at the next start.
        drop(fs::remove_file(&self.path));
    }
}

/// Reads a file as a snapshot.
#[cfg(fuzzing)]
pub(crate) fn fuzz(path: PathBuf) {
    let snapshot = SnapshotFile::open(path).expect("the target has made it");
    drop(snapshot.meta());
    drop(read_state(&snapshot));
}
