//! Archive files: what the state machine sealed. Written and fsynced before the log that made them is
//! purged, and listed by experiment.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use state_machine::{ArchiveFile, ClusterState};
use tokio::sync::watch;
use types::{BlobHash, ExperimentId, codec};

use crate::archive_index::ArchiveIndex;
use crate::directory::{Layout, remove_temporary_files, write_durably};
use crate::error::Error;
use crate::{failpoint, spare};

/// Largest archive that is read: 4,096 entries of at most 64 KiB.
const MAX_ARCHIVE_BYTES: usize = 512 << 20;
/// How long a look-up right after a start waits for the index to be complete.
const SCRUB_PATIENCE: Duration = Duration::from_secs(5);
/// End of the name of an archive file on disk.
const SUFFIX: &str = ".archive";

/// An archive as stored and sent.
#[derive(Serialize, Deserialize)]
enum ArchiveRecord {
    V1 {
        hash: BlobHash,
        experiments: Vec<ExperimentId>,
        bytes: Bytes,
    },
}

/// The archive files of this replica.
#[derive(Clone)]
pub(crate) struct Archives {
    directory: PathBuf,
    /// Sealed, but not on disk yet; at most what one snapshot interval seals.
    pending: Arc<Mutex<BTreeMap<String, ArchiveFile>>>,
    /// One writer at a time.
    writing: Arc<tokio::sync::Mutex<()>>,
    /// Every archive was read and listed since the start: what is not in the index then is not archived.
    scrubbed: watch::Sender<bool>,
    index: ArchiveIndex,
}

impl Archives {
    pub(crate) fn open(layout: &Layout) -> Result<Self, Error> {
        let directory = layout.archives();
        remove_temporary_files(&directory)?;
        Ok(Self {
            directory,
            pending: Arc::default(),
            writing: Arc::default(),
            scrubbed: watch::Sender::new(false),
            index: ArchiveIndex::default(),
        })
    }

    /// Takes files that apply sealed; [`Self::store`] writes them.
    pub(crate) fn add(&self, files: Vec<ArchiveFile>) {
        let mut pending = self.pending();
        for file in files {
            pending.insert(file.name.clone(), file);
        }
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<String, ArchiveFile>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes everything that waits; durable on return.
    pub(crate) async fn store(&self) -> Result<(), Error> {
        let _one_writer = self.writing.lock().await;
        let files: Vec<_> = self.pending().values().cloned().collect();
        for file in files {
            let name = file.name.clone();
            self.write(name.clone(), file.hash, file.experiments, file.bytes)
                .await?;
            self.pending().remove(&name);
        }
        Ok(())
    }

    async fn write(
        &self,
        name: String,
        hash: BlobHash,
        experiments: Vec<ExperimentId>,
        bytes: Bytes,
    ) -> Result<(), Error> {
        failpoint::reached("archive.before_write");
        let directory = self.directory.clone();
        let path = self.path(&name);
        let record_experiments = experiments.clone();
        blocking("write an archive", move || {
            if path.exists() {
                // Made before a restart, from the same log: the bytes are the same.
                return Ok(());
            }
            let record = codec::encode(&ArchiveRecord::V1 {
                hash,
                experiments: record_experiments,
                bytes,
            });
            let file_name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            write_durably(&directory, &file_name, &[&record]).map(drop)
        })
        .await?;
        failpoint::reached("archive.after_write");
        self.index.insert(&name, &experiments);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{SUFFIX}"))
    }

    /// Names of archives that `state` needs and that are not here, with their hashes.
    pub(crate) fn missing(&self, state: &ClusterState) -> Vec<(String, BlobHash)> {
        let pending = self.pending();
        let absent = |name: &str| !pending.contains_key(name) && !self.path(name).exists();
        state
            .archives()
            .filter(|(name, _)| absent(name))
            .map(|(name, hash)| (name.to_owned(), hash))
            .collect()
    }

    /// Refuses a directory in which an archive that `state` needs is not there.
    pub(crate) fn check(&self, state: &ClusterState) -> Result<(), Error> {
        match self.missing(state).into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(Error::Damaged {
                file: self.path(&name),
                key: "the file".into(),
                what: "it is missing".into(),
            }),
        }
    }

    /// Takes the stored form of an archive from another replica.
    pub(crate) async fn receive(
        &self,
        name: String,
        hash: BlobHash,
        record: Vec<u8>,
    ) -> Result<(), Error> {
        let file = self.path(&name);
        let decoded = blocking("check an archive", move || decode(file, &record)).await?;
        let ArchiveRecord::V1 {
            hash: found,
            experiments,
            bytes,
        } = decoded;
        if found != hash {
            let what = format!("another replica sent {found} for {hash}");
            return Err(Error::Damaged {
                file: self.path(&name),
                key: "its hash".into(),
                what,
            });
        }
        let _one_writer = self.writing.lock().await;
        self.write(name, hash, experiments, bytes).await
    }

    /// The stored form. Names are as in the state: `[a-z0-9-]+`.
    async fn record(&self, name: &str) -> Result<Option<Bytes>, Error> {
        if !is_plain(name) {
            return Ok(None);
        }
        let waiting = self.pending().get(name).cloned();
        if let Some(file) = waiting {
            let ArchiveFile {
                hash,
                bytes,
                experiments,
                ..
            } = file;
            return Ok(Some(
                codec::encode(&ArchiveRecord::V1 {
                    hash,
                    experiments,
                    bytes,
                })
                .into(),
            ));
        }
        let path = self.path(name);
        blocking("read an archive", move || {
            match spare::opened(|| std::fs::read(&path)) {
                Ok(bytes) => Ok(Some(Bytes::from(bytes))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(Error::File {
                    step: "read",
                    path,
                    source,
                }),
            }
        })
        .await
    }

    /// A piece of the stored form and the length of the whole, for another replica.
    pub(crate) async fn piece(
        &self,
        name: &str,
        offset: u64,
        length: u64,
    ) -> Result<Option<(Bytes, u64)>, Error> {
        let path = self.path(name);
        if !is_plain(name) || !path.exists() {
            let Some(record) = self.record(name).await? else {
                return Ok(None);
            };
            let total = record.len();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(total);
            let end = start
                .saturating_add(usize::try_from(length).unwrap_or(usize::MAX))
                .min(total);
            return Ok(Some((record.slice(start..end), total as u64)));
        }
        blocking("read an archive", move || {
            let file = spare::opened(|| File::open(&path)).map_err(Error::file("open", &path))?;
            let total = file
                .metadata()
                .map_err(Error::file("read the size of", &path))?
                .len();
            let length = length.min(total.saturating_sub(offset));
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut bytes, offset)
                .map_err(Error::file("read", &path))?;
            Ok(Some((bytes.into(), total)))
        })
        .await
    }

    /// The sealed bytes, checked.
    pub(crate) async fn read(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let Some(record) = self.record(name).await? else {
            return Ok(None);
        };
        let file = self.path(name);
        blocking("check an archive", move || {
            let ArchiveRecord::V1 { bytes, .. } = decode(file, &record)?;
            Ok(Some(bytes))
        })
        .await
    }

    /// Checks one archive file against the state's `hash` and lists its experiments in the index.
    pub(crate) async fn scrub(&self, name: &str, hash: BlobHash) -> Result<(), Error> {
        let file = self.path(name);
        let damaged = |what: String| Error::Damaged {
            file: file.clone(),
            key: "the archive".into(),
            what,
        };
        let Some(record) = self.record(name).await? else {
            return Err(damaged("the file is missing".into()));
        };
        let checked = file.clone();
        let decoded = blocking("check an archive", move || decode(checked, &record)).await?;
        let ArchiveRecord::V1 {
            hash: found,
            experiments,
            ..
        } = decoded;
        if found != hash {
            return Err(damaged(format!("it is {found}, the state names {hash}")));
        }
        self.index.insert(name, &experiments);
        Ok(())
    }

    pub(crate) fn set_scrubbed(&self) {
        self.scrubbed.send_replace(true);
    }

    /// The bytes of the archive among the candidates that has `experiment`.
    async fn find(&self, experiment: ExperimentId) -> Result<Option<Bytes>, Error> {
        for name in self.index.candidates(experiment) {
            let Some(record) = self.record(&name).await? else {
                continue;
            };
            let file = self.path(&name);
            let decoded = blocking("check an archive", move || decode(file, &record)).await?;
            let ArchiveRecord::V1 {
                experiments, bytes, ..
            } = decoded;
            if experiments.contains(&experiment) {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// The archive that holds `experiment`.
    pub(crate) async fn read_experiment(
        &self,
        experiment: ExperimentId,
    ) -> Result<Option<Bytes>, Error> {
        let waiting = {
            let pending = self.pending();
            pending
                .values()
                .find(|file| file.experiments.contains(&experiment))
                .map(|file| file.bytes.clone())
        };
        if waiting.is_some() {
            return Ok(waiting);
        }
        let found = self.find(experiment).await?;
        if found.is_some() || *self.scrubbed.borrow() {
            return Ok(found);
        }
        let mut scrubbed = self.scrubbed.subscribe();
        let done = scrubbed.wait_for(|done| *done);
        // One that takes longer, or was stopped by damage, is not waited for.
        drop(tokio::time::timeout(SCRUB_PATIENCE, done).await);
        self.find(experiment).await
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn decode(file: PathBuf, record: &[u8]) -> Result<ArchiveRecord, Error> {
    let decoded: Result<ArchiveRecord, _> = codec::decode(record, MAX_ARCHIVE_BYTES);
    match decoded {
        Ok(ArchiveRecord::V1 { hash, bytes, .. }) if BlobHash::of(&bytes) != hash => {
            Err(Error::Damaged {
                file,
                key: "its hash".into(),
                what: "the bytes do not have it".into(),
            })
        }
        Ok(record) => Ok(record),
        Err(error) => Err(Error::undecodable(file, "its record", &error)),
    }
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_panic) => Err(Error::Panicked { step }),
    }
}

/// Reads bytes as an archive file and what is in it.
#[cfg(fuzzing)]
pub(crate) fn fuzz(file: PathBuf, bytes: &[u8]) {
    if let Ok(ArchiveRecord::V1 { bytes, .. }) = decode(file, bytes) {
        drop(state_machine::decode_archive(&bytes));
    }
}
