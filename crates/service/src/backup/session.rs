//! What a replica keeps while a backup of it is read.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use state_machine::decode_archive;
use tokio::time::Instant;
use types::{BackupHeader, BlobHash, MAX_BACKUP_DATA_BYTES, NodeId, codec};

use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, now};

/// Backups under way at a time: each holds an encoded state in memory.
const MAX_SESSIONS: usize = 2;
/// A backup of which nothing was asked for so long is over, its reader gone: blobs may take long meanwhile.
const MAX_IDLE: Duration = Duration::from_secs(3_600);
/// Bytes of a blob's name: whether it is a source tree, and its hash.
pub(super) const NAME_BYTES: usize = 33;

/// A part of a backup that a replica has. Appended only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupSource {
    /// The encoded state.
    State,
    /// An archive in its stored form.
    Archive(String),
    /// Names of blobs, each a byte (1: a source tree) and a hash.
    BlobNames,
}

/// A backup that can be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupOpened {
    /// Who has it.
    pub(crate) served_by: NodeId,
    /// Random, known to the reader alone.
    pub(crate) session: [u8; 16],
    /// What it is about.
    pub(crate) header: BackupHeader,
    /// Archives to read.
    pub(crate) archives: Vec<String>,
}

/// The backups under way.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Vec<Session>>);

#[derive(Clone, Debug)]
struct Session {
    id: [u8; 16],
    reader: NodeId,
    asked_at: Instant,
    state: Bytes,
    blob_names: Bytes,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Vec<Session>> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| session.asked_at.elapsed() < MAX_IDLE);
        sessions
    }

    fn find(&self, reader: &NodeId, id: [u8; 16]) -> Result<Session, ServiceError> {
        let mut sessions = self.lock();
        let found = sessions
            .iter_mut()
            .find(|session| session.id == id && session.reader == *reader);
        let session = found.ok_or_else(|| {
            let message = "this backup is over: start it again";
            ServiceError::new(ErrorKind::NotFound, "no-such-backup", message)
        })?;
        session.asked_at = Instant::now();
        Ok(session.clone())
    }
}

impl Handle {
    /// Takes the state of now for a backup that `reader` will read.
    pub(crate) async fn open_backup(
        &self,
        reader: &NodeId,
        with_blobs: bool,
    ) -> Result<BackupOpened, ServiceError> {
        if self.inner.backups.lock().len() >= MAX_SESSIONS {
            let message = format!("{MAX_SESSIONS} backups are being made on this node already");
            return Err(
                ServiceError::new(ErrorKind::TooMany, "too-many-backups", message)
                    .hint("wait until one is done, or use another node"),
            );
        }
        let state = self.inner.consensus.state();
        let Some(cluster) = state.cluster() else {
            let message = "this node does not know its cluster yet";
            return Err(ServiceError::new(
                ErrorKind::Unavailable,
                "no-cluster",
                message,
            ));
        };
        let header = BackupHeader {
            cluster,
            cluster_public_key: state.cluster_public_key().to_vec(),
            incarnation: state.incarnation(),
            index: state.applied(),
            made_at: now(),
            made_by: format!("{} ({})", self.inner.config.node_name, self.node_id()),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            data_level: codec::DATA_LEVEL,
            with_blobs,
        };
        let archives = state.archives().map(|(name, _)| name.to_owned()).collect();
        let blob_names = if with_blobs {
            self.backup_blob_names(&state).await?
        } else {
            Bytes::new()
        };
        let encoding = tokio::task::spawn_blocking(move || {
            Bytes::from(codec::encode(&state.without_join_tokens()))
        });
        let state = encoding.await.map_err(|error| failed(&error))?;
        let session = Session {
            id: rand::random(),
            reader: reader.clone(),
            asked_at: Instant::now(),
            state,
            blob_names,
        };
        let opened = BackupOpened {
            served_by: self.node_id().clone(),
            session: session.id,
            header,
            archives,
        };
        self.inner.backups.lock().push(session);
        Ok(opened)
    }

    async fn backup_blob_names(
        &self,
        state: &state_machine::ClusterState,
    ) -> Result<Bytes, ServiceError> {
        let mut named = state.named_blobs();
        for (name, _) in state.archives() {
            let archive = self.inner.consensus.archive(name).await;
            let archive = archive.map_err(|error| failed(&error))?;
            let content = decode_archive(&archive.unwrap_or_default());
            named.add_archive(&content.map_err(|error| failed(&error))?);
        }
        let trees = named.trees.iter().map(|hash| (1, hash));
        let others = named.others.iter().map(|hash| (0, hash));
        let mut names = Vec::new();
        for (kind, hash) in trees.chain(others) {
            names.push(kind);
            names.extend_from_slice(&hash.0);
        }
        Ok(names.into())
    }

    /// A piece of a part, and the length of the part.
    pub(crate) async fn backup_piece(
        &self,
        reader: &NodeId,
        session: [u8; 16],
        source: &BackupSource,
        offset: u64,
    ) -> Result<(Bytes, u64), ServiceError> {
        let session = self.inner.backups.find(reader, session)?;
        let whole = match source {
            BackupSource::State => session.state,
            BackupSource::BlobNames => session.blob_names,
            BackupSource::Archive(name) => {
                let length = MAX_BACKUP_DATA_BYTES as u64;
                let piece = self.inner.consensus.archive_piece(name, offset, length);
                let piece = piece.await.map_err(|error| failed(&error))?;
                return piece.ok_or_else(|| failed(&format!("there is no archive {name}")));
            }
        };
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(whole.len());
        // A whole number of names too.
        let most = MAX_BACKUP_DATA_BYTES - MAX_BACKUP_DATA_BYTES % NAME_BYTES;
        let end = whole.len().min(start + most);
        Ok((whole.slice(start..end), whole.len() as u64))
    }

    /// Forgets a backup.
    pub(crate) fn close_backup(&self, reader: &NodeId, id: [u8; 16]) {
        let ours = |session: &Session| session.id == id && session.reader == *reader;
        self.inner.backups.lock().retain(|session| !ours(session));
    }
}

pub(super) fn parse_name(name: &[u8]) -> (bool, BlobHash) {
    let mut hash = [0; 32];
    hash.copy_from_slice(&name[1..NAME_BYTES]);
    (name[0] == 1, BlobHash(hash))
}

fn failed(error: &impl std::fmt::Display) -> ServiceError {
    ServiceError::new(ErrorKind::Internal, "backup", error.to_string())
}
