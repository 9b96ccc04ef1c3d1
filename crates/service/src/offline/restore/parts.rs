//! A restore under way: what becomes of each part of the backup.

use bytes::Bytes;
use consensus::NewReplica;
use network::ClusterKey;
use state_machine::{ArchiveFile, ClusterState, NewHistory, Survivors};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use types::{BackupHeader, BackupItem, BackupPart, BlobHash, Incarnation, NodeId, codec};

use super::{RestoreOptions, each_item};
use crate::handle::now;
use crate::offline::{OfflineError, refused};

/// Largest state that is taken in.
const MAX_STATE_BYTES: u64 = 1 << 30;
/// Largest archive that is taken in.
const MAX_ARCHIVE_BYTES: u64 = 512 << 20;
/// Pieces of a blob on their way to the store.
const PIECES: usize = 4;
/// Missing blobs that are named one by one.
const MAX_NAMED: usize = 20;

/// A restore under way.
pub(super) struct Restoring<'a> {
    options: &'a RestoreOptions,
    node: NodeId,
    history: NewHistory,
    header: &'a BackupHeader,
    pub(super) store: Option<blobs::Handle>,
    pub(super) state: Option<ClusterState>,
    pub(super) files: Vec<ArchiveFile>,
    pub(super) replica: Option<NewReplica>,
    pub(super) lost_attempts: usize,
    pub(super) blobs: u64,
    pub(super) missing: Vec<BlobHash>,
}

/// The part that is being read.
enum Part {
    /// Collected in memory.
    Whole(BackupPart, String, Vec<u8>),
    /// Passed on to the store.
    Blob(
        mpsc::Sender<std::io::Result<Bytes>>,
        JoinHandle<Result<(BlobHash, u64), blobs::Error>>,
    ),
    Skipped,
}

impl<'a> Restoring<'a> {
    pub(super) fn start(
        options: &'a RestoreOptions,
        header: &'a BackupHeader,
        key: &ClusterKey,
        node: NodeId,
    ) -> Result<Self, OfflineError> {
        let next = header.incarnation.0 + 1;
        let incarnation = Incarnation(options.incarnation.unwrap_or(next));
        let cluster = (key.cluster_id() != header.cluster)
            .then(|| (key.cluster_id(), key.public_key_bytes()));
        let history = NewHistory {
            incarnation,
            founder: node.clone(),
            facts: options.facts.clone(),
            cluster,
            survivors: Survivors::FounderAlone,
            hold: types::DurationMs(0),
            now: now(),
            reason: format!(
                "restored from a backup of log index {} that {} made",
                header.index, header.made_by
            ),
        };
        let store = if options.with_blobs {
            let directory = options.directory.join("blobs");
            Some(blobs::open(blobs::Config::new(directory))?)
        } else {
            None
        };
        Ok(Self {
            options,
            node,
            history,
            header,
            store,
            state: None,
            files: Vec::new(),
            replica: None,
            lost_attempts: 0,
            blobs: 0,
            missing: Vec::new(),
        })
    }

    pub(super) async fn read(&mut self) -> Result<(), OfflineError> {
        let (sender, mut items) = mpsc::channel(PIECES);
        let path = self.options.file.clone();
        let reading = tokio::task::spawn_blocking(move || {
            each_item(&path, |item| match sender.blocking_send(item) {
                Ok(()) => Ok(()),
                Err(_closed) => refused("the restore has ended"),
            })
        });
        let mut part = Part::Skipped;
        while let Some(item) = items.recv().await {
            match item {
                BackupItem::Header(_) | BackupItem::Whole(_) => {}
                BackupItem::Begin {
                    part: kind,
                    name,
                    bytes,
                } => part = self.begin(kind, name, bytes)?,
                BackupItem::Data(bytes) => match &mut part {
                    Part::Whole(_, _, collected) => collected.extend_from_slice(&bytes),
                    // An error shows when the part ends.
                    Part::Blob(sender, _) => drop(sender.send(Ok(bytes)).await),
                    Part::Skipped => {}
                },
                BackupItem::End => {
                    self.end(std::mem::replace(&mut part, Part::Skipped))
                        .await?
                }
            }
        }
        drop(items);
        match reading.await {
            Ok(read) => read,
            Err(_panic) => refused("reading the backup panicked"),
        }
    }

    fn begin(&mut self, kind: BackupPart, name: String, bytes: u64) -> Result<Part, OfflineError> {
        let limit = match kind {
            BackupPart::State => MAX_STATE_BYTES,
            BackupPart::Archive => MAX_ARCHIVE_BYTES,
            BackupPart::Blob | BackupPart::MissingBlob => u64::MAX,
        };
        if bytes > limit {
            return refused(format!(
                "the {kind} {name} has {bytes} bytes, more than {limit}"
            ));
        }
        if kind == BackupPart::MissingBlob {
            if let Some(hash) = name.parse().ok().filter(|_| self.missing.len() < MAX_NAMED) {
                self.missing.push(hash);
            }
            return Ok(Part::Skipped);
        }
        let (BackupPart::Blob, Some(store)) = (kind, &self.store) else {
            let skipped = kind == BackupPart::Blob;
            return Ok(if skipped {
                Part::Skipped
            } else {
                Part::Whole(kind, name, Vec::new())
            });
        };
        let Ok(hash) = name.parse::<BlobHash>() else {
            return refused(format!("{name} is no name of a blob"));
        };
        let (sender, pieces) = mpsc::channel(PIECES);
        let store = store.clone();
        let putting = tokio::spawn(async move {
            let reader = StreamReader::new(ReceiverStream::new(pieces));
            store.put_stream(Some(hash), reader).await
        });
        Ok(Part::Blob(sender, putting))
    }

    async fn end(&mut self, part: Part) -> Result<(), OfflineError> {
        match part {
            Part::Skipped => {}
            Part::Blob(sender, putting) => {
                drop(sender);
                match putting.await {
                    Ok(put) => put.map(drop)?,
                    Err(_panic) => return refused("storing a blob panicked"),
                }
                self.blobs += 1;
            }
            Part::Whole(BackupPart::State, _, bytes) => self.take_state(&bytes).await?,
            Part::Whole(_, name, bytes) => {
                if let (Some(replica), Some(state)) = (&self.replica, &self.state) {
                    replica.add_archive(state, name, bytes.into()).await?;
                }
            }
        }
        Ok(())
    }

    async fn take_state(&mut self, bytes: &[u8]) -> Result<(), OfflineError> {
        let decoded = codec::decode::<ClusterState>(bytes, bytes.len());
        let mut state = match decoded {
            Ok(state) => state,
            Err(error) => {
                return refused(format!(
                    "the state in the backup cannot be read: {error}; is it of a newer muster ({})?",
                    self.header.program
                ));
            }
        };
        if state.cluster() != Some(self.header.cluster) || state.applied() != self.header.index {
            return refused("the state in the backup is not the one that its header names");
        }
        self.lost_attempts = state.active().count();
        self.history.hold = agent::leases::longest_lease(&state);
        let begun = state.begin_history(&self.history);
        self.files = begun.map_err(OfflineError::Refused)?;
        let directory = self.options.directory.join("raft.fresh");
        self.replica = Some(NewReplica::begin(directory, self.node.clone()).await?);
        self.state = Some(state);
        Ok(())
    }
}
