//! A new cluster of one node out of a backup.

mod parts;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use network::ClusterKey;
use types::{BackupHeader, BackupItem, BackupReader, BackupSummary, BlobHash, NodeFacts};

use self::parts::Restoring;
use super::{OfflineError, refused, short, sign_members, write_durably};

/// There from the first change of the directory until the last: a node does not start beside it.
pub const RESTORING_MARK: &str = "restoring";
/// What an empty data directory may hold: the lock of this process, the level of its formats, and settings that somebody put there.
const NOT_DATA: [&str; 3] = ["lock", "level", "muster.toml"];
/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

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
