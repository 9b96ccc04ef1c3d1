//! Outputs of attempts: from the directory of one that ended into blobs, and from there to whoever asks at any node.

use std::collections::BTreeSet;

use bytes::Bytes;
use executor::{LeftEntry, LeftKind};
use state_machine::{Attempt, Experiment};
use tokio::io::AsyncReadExt as _;
use types::{AttemptToken, BlobHash, KeptOutputs, SourceTree, TreeEntry, TreeEntryKind, codec};

use crate::author::Caller;
use crate::call::ReadOptions;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::view::{KeptView, OutputView, OutputsView};

/// Files up to this size are stored many at a time, with few syncs.
const SMALL_BYTES: u64 = 64 << 10;
/// So many bytes of small files are held in memory before they are stored.
const BATCH_BYTES: usize = 8 << 20;

/// Which outputs of an experiment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputOptions {
    /// Of this attempt; default: the last one that left any.
    pub attempt: Option<u32>,
    /// What this replica knows will do: reads without a majority.
    pub stale: bool,
}

/// A file of what an attempt left, opened.
#[derive(Debug)]
pub struct OutputFile {
    /// Its bytes.
    pub length: u64,
    /// From its beginning.
    pub file: tokio::fs::File,
    /// BLAKE3 of its bytes.
    pub hash: BlobHash,
}

/// What is being stored of an attempt.
#[derive(Default)]
struct Keeping {
    entries: Vec<TreeEntry>,
    left_out: Vec<String>,
    small: Vec<(BlobHash, Bytes)>,
    small_bytes: usize,
}

impl Handle {
    /// Stores what an ended attempt of this node left, here and on a storage node; none if it was asked for nothing.
    ///
    /// # Errors
    /// Its directory cannot be read, or not even the list of it can be stored: to be tried again.
    pub async fn keep_outputs(
        &self,
        token: &AttemptToken,
    ) -> Result<Option<KeptOutputs>, ServiceError> {
        let left = self.inner.executor.left_by(token).await;
        let Some(left) = left.map_err(|error| internal(&error))? else {
            return Ok(None);
        };
        let mut keeping = Keeping {
            left_out: left.left_out,
            ..Keeping::default()
        };
        for entry in left.entries {
            self.keep_entry(token, entry, &mut keeping).await;
        }
        self.keep_small(&mut keeping).await;
        let files = keeping.entries.iter().filter_map(file_of);
        let (mut hashes, mut bytes, mut count) = (BTreeSet::new(), 0_u64, 0);
        for (hash, length) in files {
            hashes.insert(hash);
            bytes = bytes.saturating_add(length);
            count += 1;
        }
        let tree = SourceTree::V1 {
            entries: keeping.entries,
            git: None,
        };
        let tree = self.inner.blobs.put_bytes(codec::encode(&tree).into());
        let tree = tree.await.map_err(|error| internal(&error))?;
        hashes.insert(tree);
        let hashes: Vec<_> = hashes.into_iter().collect();
        if let Err(error) = self.copy_to_storage(&tree, &hashes).await {
            tracing::warn!(%token, %error, "outputs have one copy only");
        }
        let kept = KeptOutputs {
            tree,
            files: count,
            bytes,
            left_out: keeping.left_out,
        };
        Ok(Some(kept.cut()))
    }

    async fn keep_entry(&self, token: &AttemptToken, entry: LeftEntry, keeping: &mut Keeping) {
        let LeftEntry { path, kind } = entry;
        let kind = match kind {
            LeftKind::Directory => TreeEntryKind::Directory,
            LeftKind::Symlink { target } => TreeEntryKind::Symlink { target },
            LeftKind::File { bytes, executable } => {
                match self.keep_file(token, (&path, bytes), keeping).await {
                    Ok((hash, bytes)) => TreeEntryKind::File {
                        hash,
                        bytes,
                        executable,
                    },
                    Err(why) => {
                        return keeping.left_out.push(format!("{path} ({why})"));
                    }
                }
            }
        };
        keeping.entries.push(TreeEntry { path, kind });
        if keeping.small_bytes >= BATCH_BYTES {
            self.keep_small(keeping).await;
        }
    }

    /// Stores a file, or leaves it to be stored with other small ones.
    async fn keep_file(
        &self,
        token: &AttemptToken,
        (path, bytes): (&str, u64),
        keeping: &mut Keeping,
    ) -> Result<(BlobHash, u64), String> {
        let opened = self.inner.executor.open_left(token, path.to_owned()).await;
        let file = opened.map_err(|error| chain(&error))?;
        let file = tokio::fs::File::from_std(file);
        if bytes > SMALL_BYTES {
            let stored = self.inner.blobs.put_stream(None, file).await;
            return stored.map_err(|error| chain(&error));
        }
        let mut content = Vec::new();
        let mut reader = file.take(SMALL_BYTES + 1);
        let read = reader.read_to_end(&mut content).await;
        read.map_err(|error| error.to_string())?;
        if content.len() as u64 > SMALL_BYTES {
            return Err("it grew while it was read".to_owned());
        }
        let (hash, length) = (BlobHash::of(&content), content.len());
        keeping.small_bytes += length;
        keeping.small.push((hash, content.into()));
        Ok((hash, length as u64))
    }

    /// Stores the small files that wait for it; those that cannot be are left out, as on a full disk.
    async fn keep_small(&self, keeping: &mut Keeping) {
        keeping.small_bytes = 0;
        let small = std::mem::take(&mut keeping.small);
        let hashes: BTreeSet<_> = small.iter().map(|(hash, _)| *hash).collect();
        let Err(error) = self.inner.blobs.put_many(small).await else {
            return;
        };
        let why = chain(&error);
        let left_out = &mut keeping.left_out;
        keeping.entries.retain(|entry| {
            let lost = file_of(entry).is_some_and(|(hash, _)| hashes.contains(&hash));
            if lost {
                left_out.push(format!("{} ({why})", entry.path));
            }
            !lost
        });
    }

    /// What an attempt left.
    ///
    /// # Errors
    /// Nothing or several fit the text, nothing was kept, or nobody who has the list answers.
    pub async fn outputs(
        &self,
        caller: &Caller,
        id: &str,
        options: OutputOptions,
    ) -> Result<OutputsView, ServiceError> {
        let read = ReadOptions {
            stale: options.stale,
            min_index: 0,
        };
        let experiment = self.record(caller, id, read).await?;
        let attempt = attempt_with_outputs(&experiment, options.attempt)?;
        let mut view = OutputsView {
            experiment: experiment.id.to_string(),
            attempt: attempt.token.attempt,
            ..OutputsView::default()
        };
        for (rank, kept) in last_kept(attempt) {
            let SourceTree::V1 { entries, .. } = self.source_tree(kept.tree, &[]).await?;
            let seen = entries.into_iter().map(|entry| output_view(rank, entry));
            view.entries.extend(seen);
            view.left_out.extend(kept.left_out.iter().cloned());
        }
        Ok(view)
    }

    /// Opens a file that an attempt left, fetching it from another node if need be.
    ///
    /// # Errors
    /// As for [`Self::outputs`]; there is no such file, or no reachable node has it.
    pub async fn output_file(
        &self,
        caller: &Caller,
        id: &str,
        (path, rank): (&str, u32),
        options: OutputOptions,
    ) -> Result<OutputFile, ServiceError> {
        let view = self.outputs(caller, id, options).await?;
        let mut entries = view.entries.iter();
        let found = entries.find(|entry| entry.path == path && entry.rank == rank);
        let (id, number) = (&view.experiment, view.attempt);
        let Some(entry) = found.filter(|entry| entry.kind == "file") else {
            let message = format!("attempt {number} of {id} left no file {path:?}");
            let error = ServiceError::new(ErrorKind::NotFound, "no-output", message);
            return Err(error.hint(format!("muster get {id} --list says what it left")));
        };
        let hash = entry.hash.parse();
        let hash = hash.map_err(|error: types::IdError| internal(&error))?;
        let (length, file) = self.read_blob(hash).await?;
        Ok(OutputFile { length, file, hash })
    }
}

/// Of an attempt by its number, or of the last that left something.
fn attempt_with_outputs(
    experiment: &Experiment,
    number: Option<u32>,
) -> Result<&Attempt, ServiceError> {
    let id = experiment.id;
    let mut attempts = experiment.attempts.iter().rev();
    let asked = |attempt: &&Attempt| number.is_none_or(|number| attempt.token.attempt == number);
    let found = attempts.find(|attempt| asked(attempt) && attempt.kept().next().is_some());
    if let Some(found) = found {
        return Ok(found);
    }
    let missing = |message: String, hint: String| {
        ServiceError::new(ErrorKind::NotFound, "no-outputs", message).hint(hint)
    };
    if experiment.spec.outputs.paths.is_empty() {
        return Err(missing(
            format!("nothing is kept of {id}: it was submitted without outputs"),
            "say what it leaves when you submit it: muster run --output PATH".to_owned(),
        ));
    }
    let attempts = experiment.attempts.iter();
    let mut open = attempts.filter(|one| asked(one) && one.end.is_none());
    if open.next().is_some() || experiment.attempts.is_empty() {
        return Err(missing(
            format!("{id} has not ended: its outputs are kept when it does"),
            format!("muster logs -f {id} waits for the end"),
        ));
    }
    let which = number.map_or_else(String::new, |number| format!(" of attempt {number}"));
    Err(missing(
        format!("nothing was kept{which} of {id}: it did not end where its directory is"),
        format!("muster show {id} says how its attempts ended"),
    ))
}

/// What was kept of each rank, the newest word of each.
pub(crate) fn last_kept(attempt: &Attempt) -> impl Iterator<Item = (u32, &KeptOutputs)> {
    let all: std::collections::BTreeMap<_, _> = attempt.kept().collect();
    all.into_iter()
}

pub(crate) fn kept_views(attempt: &Attempt) -> Vec<KeptView> {
    let view = |(rank, kept): (u32, &KeptOutputs)| KeptView {
        rank,
        files: kept.files,
        bytes: kept.bytes,
        left_out: kept.left_out.clone(),
        tree: kept.tree.to_string(),
    };
    last_kept(attempt).map(view).collect()
}

fn file_of(entry: &TreeEntry) -> Option<(BlobHash, u64)> {
    match &entry.kind {
        TreeEntryKind::File { hash, bytes, .. } => Some((*hash, *bytes)),
        TreeEntryKind::Symlink { .. } | TreeEntryKind::Directory => None,
    }
}

fn output_view(rank: u32, entry: TreeEntry) -> OutputView {
    let view = OutputView {
        rank,
        path: entry.path,
        ..OutputView::default()
    };
    match entry.kind {
        TreeEntryKind::File {
            hash,
            bytes,
            executable,
        } => OutputView {
            kind: "file".to_owned(),
            holds: holds(&view.path).to_owned(),
            bytes,
            executable,
            hash: hash.to_string(),
            ..view
        },
        TreeEntryKind::Symlink { target } => OutputView {
            kind: "link".to_owned(),
            target,
            ..view
        },
        TreeEntryKind::Directory => OutputView {
            kind: "directory".to_owned(),
            ..view
        },
    }
}

/// What a file is, by its name.
fn holds(path: &str) -> &'static str {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension.to_ascii_lowercase().as_str() {
        "png" | "jpg" | "jpeg" | "gif" | "svg" | "webp" | "bmp" | "tiff" => "image",
        "csv" | "tsv" | "parquet" | "arrow" | "feather" | "xlsx" => "table",
        "txt" | "md" | "log" | "json" | "jsonl" | "yaml" | "yml" | "toml" | "html" => "text",
        "pt" | "pth" | "ckpt" | "safetensors" | "onnx" | "h5" | "gguf" => "model",
        _ => "file",
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn internal(error: &dyn std::error::Error) -> ServiceError {
    ServiceError::new(ErrorKind::Internal, "outputs", chain(error))
}
