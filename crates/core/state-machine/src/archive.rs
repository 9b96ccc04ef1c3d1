//! Sealing of what can no longer change: ledger entries and long-finished experiments leave the hot
//! state for deterministic files, so that a snapshot stays small (invariant 6).

use std::sync::Arc;

use bytes::Bytes;
use imbl::Vector;
use serde::{Deserialize, Serialize};
use types::{BlobHash, ExperimentId, codec};

use crate::ClusterState;
use crate::ledger::LedgerEntry;
use crate::records::Experiment;

/// Ledger entries in one archive file.
pub const ARCHIVE_ENTRIES: usize = 4_096;
/// Ended experiments in one archive file. Sealing is part of applying one command, and their records are larger: 4,096
/// of them held up what came next for 15 to 30 ms.
pub const ARCHIVE_EXPERIMENTS: usize = 512;
/// Ended experiments from which on the oldest are sealed: people look at the latest.
const HOT_EXPERIMENTS: usize = 8_192;

/// Largest archive file that is read: 4,096 entries of at most 64 KiB (a command's limit) and their attempts.
const MAX_ARCHIVE_BYTES: usize = 1 << 30;

/// A file that every replica makes with the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveFile {
    /// File name: `ledger-…` or `experiments-…` with a number.
    pub name: String,
    /// Hash of the bytes.
    pub hash: BlobHash,
    /// Encoded [`ArchiveContent`].
    pub bytes: Bytes,
    /// Experiments whose record is in it.
    pub experiments: Vec<ExperimentId>,
}

/// The state's memory of an archive file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRef {
    /// File name.
    pub name: String,
    /// Hash of its bytes.
    pub hash: BlobHash,
    /// Entries in it.
    pub entries: u32,
}

/// What an archive file holds; `previous` chains files of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArchiveContent {
    /// Ledger entries.
    Ledger {
        /// Hash of the file before.
        previous: BlobHash,
        /// In order.
        entries: Vec<LedgerEntry>,
    },
    /// Finished experiments.
    Experiments {
        /// Hash of the file before.
        previous: BlobHash,
        /// In order of their end.
        entries: Vec<Arc<Experiment>>,
    },
}

/// Decodes an archive file.
///
/// # Errors
/// Damaged, or of another version.
pub fn decode_archive(bytes: &[u8]) -> Result<ArchiveContent, codec::Error> {
    codec::decode(bytes, MAX_ARCHIVE_BYTES)
}

/// [`ArchiveContent`] as it is written: the entries stay where they are, since a copy of thousands takes longer than all
/// else here. Same variants, same bytes.
#[derive(Serialize)]
enum SealedContent<'a> {
    Ledger {
        previous: BlobHash,
        entries: &'a Vector<LedgerEntry>,
    },
    Experiments {
        previous: BlobHash,
        entries: &'a [Arc<Experiment>],
    },
}

/// Seals the oldest of what has grown beyond what stays hot; at most one file per command, since whatever comes after the
/// command waits for it.
pub(crate) fn seal(state: &mut ClusterState) -> Option<ArchiveFile> {
    if state.ledger.len() >= 2 * ARCHIVE_ENTRIES {
        return Some(seal_ledger(state));
    }
    (state.ended.len() >= HOT_EXPERIMENTS).then(|| seal_experiments(state))
}

fn seal_ledger(state: &mut ClusterState) -> ArchiveFile {
    let rest = state.ledger.split_off(ARCHIVE_ENTRIES);
    let entries = std::mem::replace(&mut state.ledger, rest);
    let content = SealedContent::Ledger {
        previous: last_hash(&state.ledger_archives),
        entries: &entries,
    };
    let file = make_file("ledger", state.ledger_archives.len(), &content, Vec::new());
    let sealed = reference(&file, ARCHIVE_ENTRIES);
    state.ledger_archives.push_back(sealed);
    file
}

fn seal_experiments(state: &mut ClusterState) -> ArchiveFile {
    let rest = state.ended.split_off(ARCHIVE_EXPERIMENTS);
    let ids: Vec<_> = std::mem::replace(&mut state.ended, rest)
        .into_iter()
        .collect();
    let entries: Vec<_> = ids.iter().filter_map(|id| state.forget(*id)).collect();
    state.forget_groups(&entries);
    let content = SealedContent::Experiments {
        previous: last_hash(&state.experiment_archives),
        entries: &entries,
    };
    let number = state.experiment_archives.len();
    let file = make_file("experiments", number, &content, ids);
    let sealed = reference(&file, ARCHIVE_EXPERIMENTS);
    state.experiment_archives.push_back(sealed);
    file
}

fn last_hash(archives: &Vector<ArchiveRef>) -> BlobHash {
    archives
        .last()
        .map(|archive| archive.hash)
        .unwrap_or_default()
}

fn make_file(
    kind: &str,
    number: usize,
    content: &SealedContent<'_>,
    experiments: Vec<ExperimentId>,
) -> ArchiveFile {
    let bytes = Bytes::from(codec::encode(content));
    ArchiveFile {
        name: format!("{kind}-{number:012}"),
        hash: BlobHash::of(&bytes),
        bytes,
        experiments,
    }
}

fn reference(file: &ArchiveFile, entries: usize) -> ArchiveRef {
    ArchiveRef {
        name: file.name.clone(),
        hash: file.hash,
        entries: u32::try_from(entries).expect("some thousands"),
    }
}
