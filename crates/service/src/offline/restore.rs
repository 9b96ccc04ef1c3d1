//! A new cluster of one node out of a backup.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use consensus::NewReplica;
use network::ClusterKey;
use state_machine::{ArchiveFile, ClusterState, NewHistory, Survivors};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use types::{
    BackupHeader, BackupItem, BackupPart, BackupReader, BackupSummary, BlobHash, Incarnation,
    NodeFacts, NodeId, Timestamp, codec,
};

use super::{OfflineError, refused, short, sign_members, write_durably};
use crate::handle::now;

/// There from the first change of the directory until the last: a node does not start beside it.
pub const RESTORING_MARK: &str = "restoring";
/// What an empty data directory may hold: the lock of this process, the level of its formats, and settings that somebody put there.
const NOT_DATA: [&str; 3] = ["lock", "level", "muster.toml"];
/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;
/// Largest state that is taken in.
const MAX_STATE_BYTES: u64 = 1 << 30;
/// Largest archive that is taken in.
const MAX_ARCHIVE_BYTES: u64 = 512 << 20;
/// Pieces of a blob on their way to the store.
const PIECES: usize = 4;
/// Missing blobs that are named one by one.
const MAX_NAMED: usize = 20;

/// What to restore, and as what.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The backup.
    pub file: PathBuf,
    /// An empty data directory, locked by the caller.
    pub directory: PathBuf,
    /// What the node is.
    pub facts: NodeFacts,
    /// The private key of the backup's cluster, to go on as that cluster; none: a new cluster.
    pub cluster_key: Option<PathBuf>,
    /// Put blobs back too.
    pub with_blobs: bool,
    /// Number of the new history; none: one more than the backup's.
    pub incarnation: Option<u64>,
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the backup holds.
    pub summary: BackupSummary,
    /// The cluster of now.
    pub cluster: String,
    /// It is the cluster of the backup.
    pub same_cluster: bool,
    /// Number of its history.
    pub incarnation: u64,
    /// Experiments that are not over.
    pub live: usize,
    /// Attempts that were running when the backup was made, and were lost.
    pub lost_attempts: usize,
    /// Blobs that were put back.
    pub blobs: u64,
    /// Blobs that the backup itself lacks, at most 20 of them.
    pub missing: Vec<BlobHash>,
}

impl std::fmt::Display for Restored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let header = &self.summary.header;
        let kind = if self.same_cluster {
            "cluster"
        } else {
            "new cluster"
        };
        writeln!(
            f,
            "restored {kind} {} as incarnation {}, from log index {} of incarnation {}",
            self.cluster, self.incarnation, header.index, header.incarnation.0
        )?;
        writeln!(
            f,
            "{} experiments are not over; {} attempts ran when the backup was made: they are lost to this history",
            self.live, self.lost_attempts
        )?;
        if self.same_cluster {
            writeln!(
                f,
                "the machines of the old history are no members: `muster up --rejoin TOKEN` on each; nothing of theirs is ended"
            )?;
        } else {
            writeln!(
                f,
                "it ends no machine and no experiment of the original. Is that one still alive? Then what waits here runs in both.\nall tokens have ended: `muster user` and `muster token` make new ones"
            )?;
        }
        write!(f, "{} blobs put back", self.blobs)?;
        if self.summary.blobs > self.blobs {
            write!(
                f,
                "; {} more are in the backup (--with-blobs)",
                self.summary.blobs - self.blobs
            )?;
        }
        if self.summary.missing_blobs > 0 {
            let names: Vec<_> = self.missing.iter().map(ToString::to_string).collect();
            let count = self.summary.missing_blobs;
            write!(
                f,
                "; {count} were not to be had when it was made:\n  {}",
                names.join("\n  ")
            )?;
        }
        Ok(())
    }
}

/// Restores a backup into an empty directory. The backup is read and checked to its end first.
///
/// # Errors
/// The directory is not empty, the backup is damaged or newer, or something cannot be written; the directory is then
/// either untouched or marked as half restored.
pub async fn restore(options: RestoreOptions) -> Result<Restored, OfflineError> {
    check_empty(&options.directory)?;
    let (header, summary) = check(&options.file)?;
    if options.with_blobs && !header.with_blobs {
        return refused(format!(
            "{} holds no blobs: it was made without --with-blobs; restore it without that option",
            options.file.display()
        ));
    }
    let key = cluster_key(&options, &header)?;
    let mark = options.directory.join(RESTORING_MARK);
    write_durably(&mark, b"")?;
    let node = network::Identity::load_or_create(&options.directory.join("node.key"))?;
    let node = node.node_id().clone();
    let mut restoring = Restoring::start(&options, &header, &key, node.clone())?;
    restoring.read().await?;
    let Restoring {
        state,
        files,
        replica,
        lost_attempts,
        blobs,
        missing,
        ..
    } = restoring;
    let (Some(state), Some(replica)) = (state, replica) else {
        return refused("the backup holds no state");
    };
    replica.complete(&state, files, 0).await?;
    let path = |name: &str| options.directory.join(name);
    let (fresh, raft) = (path("raft.fresh"), path("raft"));
    fs::rename(&fresh, &raft).map_err(OfflineError::file("rename", &fresh))?;
    key.save(&path("cluster.key"))?;
    write_durably(&path("members"), &sign_members(&key, &state, &node)?)?;
    write_durably(&path("store"), b"")?;
    let cluster = key.cluster_id();
    write_durably(&path("cluster"), format!("{cluster}\n").as_bytes())?;
    fs::remove_file(&mark).map_err(OfflineError::file("remove", &mark))?;
    Ok(Restored {
        same_cluster: cluster == header.cluster,
        cluster: short(&cluster),
        incarnation: state.incarnation().0,
        live: state.experiments().filter(|one| one.is_live()).count(),
        lost_attempts,
        blobs,
        missing,
        summary,
    })
}

fn check_empty(directory: &Path) -> Result<(), OfflineError> {
    let entries = fs::read_dir(directory).map_err(OfflineError::file("list", directory))?;
    for entry in entries {
        let entry = entry.map_err(OfflineError::file("list", directory))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == RESTORING_MARK {
            return refused(format!(
                "a restore into {} was cut short: remove that directory and restore again",
                directory.display()
            ));
        }
        if !NOT_DATA.contains(&name.as_str()) {
            return refused(format!(
                "{} is not empty (it has {name}): a backup is restored into a new directory, never over a node; choose one with --data-dir, or move this one away first",
                directory.display()
            ));
        }
    }
    Ok(())
}

/// Calls `take` with each item of the file.
fn each_item(
    path: &Path,
    mut take: impl FnMut(BackupItem) -> Result<(), OfflineError>,
) -> Result<(), OfflineError> {
    let wrong = |source| OfflineError::Backup {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(OfflineError::file("open", path))?;
    let mut reader = BackupReader::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let length = file
            .read(&mut buffer)
            .map_err(OfflineError::file("read", path))?;
        if length == 0 {
            return reader.finish().map_err(wrong);
        }
        reader.push(&buffer[..length]);
        while let Some(item) = reader.next_item().map_err(wrong)? {
            take(item)?;
        }
    }
}

/// Reads the whole file before anything is changed.
fn check(path: &Path) -> Result<(BackupHeader, BackupSummary), OfflineError> {
    let mut whole = None;
    each_item(path, |item| {
        if let BackupItem::Whole(summary) = item {
            whole = Some(summary);
        }
        Ok(())
    })?;
    match whole {
        Some(summary) => Ok((summary.header.clone(), summary)),
        None => refused("the backup has no end"),
    }
}

fn cluster_key(
    options: &RestoreOptions,
    header: &BackupHeader,
) -> Result<ClusterKey, OfflineError> {
    let Some(path) = &options.cluster_key else {
        return Ok(ClusterKey::generate());
    };
    let Some(key) = ClusterKey::load(path)? else {
        return refused(format!(
            "there is no key {}: take `cluster.key` from the data directory of a voter of the old cluster",
            path.display()
        ));
    };
    if key.cluster_id() != header.cluster {
        return refused(format!(
            "{} is the key of cluster {}, the backup is of cluster {}",
            path.display(),
            short(&key.cluster_id()),
            short(&header.cluster)
        ));
    }
    Ok(key)
}

/// A restore under way.
struct Restoring<'a> {
    options: &'a RestoreOptions,
    node: NodeId,
    history: NewHistory,
    header: &'a BackupHeader,
    store: Option<blobs::Handle>,
    state: Option<ClusterState>,
    files: Vec<ArchiveFile>,
    replica: Option<NewReplica>,
    lost_attempts: usize,
    blobs: u64,
    missing: Vec<BlobHash>,
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
    fn start(
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

    async fn read(&mut self) -> Result<(), OfflineError> {
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
        self.history.now = self.history.now.max(Timestamp(0));
        let begun = state.begin_history(&self.history);
        self.files = begun.map_err(OfflineError::Refused)?;
        let directory = self.options.directory.join("raft.fresh");
        self.replica = Some(NewReplica::begin(directory, self.node.clone()).await?);
        self.state = Some(state);
        Ok(())
    }
}
