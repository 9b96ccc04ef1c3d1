//! A backup: state and archives at one log index, with blobs if wanted, as a stream of bytes through any node.
//!
//! A replica keeps the state of that index in memory while it is read ([`session`]); a node without state reads it from
//! there in pieces. Nothing else is held: archives and blobs pass in pieces of 1 MiB.

pub(crate) mod session;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use state_machine::{Command, NoteBackup};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use types::{
    BackupHeader, BackupPart, BackupWriter, BlobHash, MAX_BACKUP_DATA_BYTES, RequestId, Role,
};

use self::session::{BackupOpened, BackupSource, NAME_BYTES};
use crate::author::Caller;
use crate::blobs::tree_blobs;
use crate::call::{ReadOptions, Reply, Request};
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::peer_message::{BulkMessage, BulkReply};
use crate::submit::unexpected;

/// Pieces that wait for a slow reader.
const QUEUE: usize = 4;
/// Time for a replica to give a piece.
const PIECE_DEADLINE: Duration = Duration::from_secs(30);

/// The bytes of a backup as they come. An error ends it; what was written is then no backup.
pub type BackupStream = BoxStream<'static, Result<Bytes, ServiceError>>;

impl Handle {
    /// Starts a backup of everything acknowledged so far; with `read.stale`, of what is known here, which works without a
    /// majority. Only for admins; the ledger says who took it.
    ///
    /// # Errors
    /// Not an admin, no majority, or two backups are under way.
    pub async fn backup(
        &self,
        caller: &Caller,
        with_blobs: bool,
        read: ReadOptions,
    ) -> Result<BackupStream, ServiceError> {
        let read = if read.stale {
            read
        } else {
            let request = Request::NoteBackup { with_blobs };
            let index = match self.call(caller, request, None).await? {
                Reply::Noted(index) => index,
                other => return Err(unexpected(&other)),
            };
            // Everything up to that entry, wherever it is read.
            let min_index = index.max(read.min_index);
            ReadOptions {
                stale: true,
                min_index,
            }
        };
        let request = Request::OpenBackup { with_blobs, read };
        let opened = match self.call(caller, request, None).await? {
            Reply::Backup(opened) => *opened,
            other => return Err(unexpected(&other)),
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let making = Making {
            handle: self.clone(),
            opened,
            sender,
        };
        tokio::spawn(making.run());
        let stream = stream::unfold(receiver, async |mut receiver| {
            let piece = receiver.recv().await?;
            Some((piece, receiver))
        });
        Ok(stream.boxed())
    }

    pub(crate) async fn execute_note_backup(
        &self,
        author: &types::Author,
        request: RequestId,
        with_blobs: bool,
    ) -> Result<u64, ServiceError> {
        let note = NoteBackup {
            node: author.entry_node.clone(),
            with_blobs,
        };
        let proposed = self.propose(author, Some(request), Command::NoteBackup(note));
        proposed.await.map(|(index, _)| index.0)
    }

    pub(crate) async fn execute_open_backup(
        &self,
        author: &types::Author,
        with_blobs: bool,
        read: ReadOptions,
    ) -> Result<BackupOpened, ServiceError> {
        if author.role < Role::Admin {
            let message = "a backup holds everything of everybody: only an admin may take one";
            return Err(ServiceError::new(
                ErrorKind::Forbidden,
                "not-allowed",
                message,
            ));
        }
        self.freshen(read).await?;
        self.open_backup(&author.entry_node, with_blobs).await
    }
}

/// A backup on its way to a reader.
struct Making {
    handle: Handle,
    opened: BackupOpened,
    sender: mpsc::Sender<Result<Bytes, ServiceError>>,
}

/// Why a backup ended before its end.
enum Ended {
    /// The reader is gone.
    Unread,
    Failed(ServiceError),
}

impl From<ServiceError> for Ended {
    fn from(error: ServiceError) -> Self {
        Self::Failed(error)
    }
}

impl Making {
    async fn run(self) {
        let session = self.opened.session;
        let made = self.write().await;
        self.close(session).await;
        match made {
            Ok(()) => {}
            Err(Ended::Unread) => tracing::warn!("a backup was given up by its reader"),
            Err(Ended::Failed(error)) => {
                tracing::warn!(%error, "a backup failed");
                drop(self.sender.send(Err(error)).await); // The reader may be gone too.
            }
        }
    }

    async fn close(&self, session: [u8; 16]) {
        let source = &self.opened.served_by;
        let close = BulkMessage::CloseBackup { session };
        if source == self.handle.node_id() {
            self.handle.close_backup(source, session);
        } else if let Err(error) = self.handle.ask_bulk(source, &close, PIECE_DEADLINE).await {
            tracing::debug!(%error, "the replica forgets the backup by itself");
        }
    }

    async fn write(&self) -> Result<(), Ended> {
        let header: BackupHeader = self.opened.header.clone();
        let (mut writer, bytes) = BackupWriter::start(header);
        self.send(bytes).await?;
        self.part(&mut writer, BackupPart::State, "", BackupSource::State)
            .await?;
        for name in &self.opened.archives {
            let source = BackupSource::Archive(name.clone());
            self.part(&mut writer, BackupPart::Archive, name, source)
                .await?;
        }
        if self.opened.header.with_blobs {
            self.blobs(&mut writer).await?;
        }
        let (_, bytes) = writer.finish();
        self.send(bytes).await
    }

    /// Copies a part from the replica, piece by piece.
    async fn part(
        &self,
        writer: &mut BackupWriter,
        part: BackupPart,
        name: &str,
        source: BackupSource,
    ) -> Result<(), Ended> {
        let (mut piece, total) = self.piece(&source, 0).await?;
        self.send(writer.begin(part, name, total)).await?;
        let mut offset = 0;
        loop {
            offset += piece.len() as u64;
            if !piece.is_empty() {
                self.send(writer.data(piece)).await?;
            }
            if offset >= total {
                return self.send(writer.end()).await;
            }
            piece = self.piece(&source, offset).await?.0;
            if piece.is_empty() {
                let message = format!("the {part} {name} ends at byte {offset} of {total}");
                return Err(internal(message).into());
            }
        }
    }

    async fn piece(
        &self,
        source: &BackupSource,
        offset: u64,
    ) -> Result<(Bytes, u64), ServiceError> {
        let (session, served_by) = (self.opened.session, &self.opened.served_by);
        if served_by == self.handle.node_id() {
            return self
                .handle
                .backup_piece(served_by, session, source, offset)
                .await;
        }
        let message = BulkMessage::BackupPiece {
            session,
            source: source.clone(),
            offset,
        };
        match self
            .handle
            .ask_bulk(served_by, &message, PIECE_DEADLINE)
            .await?
        {
            BulkReply::Piece { bytes, total } => Ok((bytes, total)),
            other => Err(internal(format!("{served_by} answered {other:?}"))),
        }
    }

    /// All blobs that the state and the archives name, each once.
    async fn blobs(&self, writer: &mut BackupWriter) -> Result<(), Ended> {
        let mut written = BTreeSet::new();
        let mut offset = 0;
        loop {
            let (names, total) = self.piece(&BackupSource::BlobNames, offset).await?;
            for name in names.chunks_exact(NAME_BYTES) {
                let (is_tree, hash) = session::parse_name(name);
                self.named(writer, is_tree, hash, &mut written).await?;
            }
            offset += names.len() as u64;
            if offset >= total || names.is_empty() {
                return Ok(());
            }
        }
    }

    async fn named(
        &self,
        writer: &mut BackupWriter,
        is_tree: bool,
        hash: BlobHash,
        written: &mut BTreeSet<BlobHash>,
    ) -> Result<(), Ended> {
        let mut hashes = vec![hash];
        if is_tree && let Ok(tree) = self.handle.source_tree(hash, &[]).await {
            // A tree that nobody has is itself a missing blob.
            hashes.extend(tree_blobs(&tree));
        }
        for hash in hashes {
            if written.insert(hash) {
                self.blob(writer, hash).await?;
            }
        }
        Ok(())
    }

    async fn blob(&self, writer: &mut BackupWriter, hash: BlobHash) -> Result<(), Ended> {
        let name = hash.to_string();
        let (length, mut file) = match self.handle.read_blob(hash).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(blob = %hash, %error, "a blob is missing in a backup");
                self.send(writer.begin(BackupPart::MissingBlob, &name, 0))
                    .await?;
                return self.send(writer.end()).await;
            }
        };
        self.send(writer.begin(BackupPart::Blob, &name, length))
            .await?;
        let mut hasher = blake3::Hasher::new();
        let mut left = length;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX);
            let mut piece = vec![0; wanted.min(MAX_BACKUP_DATA_BYTES)];
            let read = file.read_exact(&mut piece).await;
            read.map_err(|error| internal(format!("blob {hash} cannot be read: {error}")))?;
            hasher.update(&piece);
            left -= piece.len() as u64;
            self.send(writer.data(piece.into())).await?;
        }
        if *hasher.finalize().as_bytes() != hash.0 {
            let message =
                format!("blob {hash} is damaged on this node's disk: back up through another node");
            return Err(internal(message).into());
        }
        self.send(writer.end()).await
    }

    async fn send(&self, bytes: Vec<u8>) -> Result<(), Ended> {
        let sent = self.sender.send(Ok(bytes.into())).await;
        sent.map_err(|_closed| Ended::Unread)
    }
}

fn internal(message: String) -> ServiceError {
    ServiceError::new(ErrorKind::Internal, "backup", message)
}
