//! Taking a snapshot of the code: which files, their hashes, and where they came from.

mod entries;
mod git;
mod hash;
mod ignore;
mod listing;
mod stat_cache;
mod walk;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use types::{BlobHash, GitFacts, SourceTree, TreeEntry, TreeEntryKind};

use crate::error::Error;
use crate::terminal::Progress;
use entries::{FoundFile, FoundKind};
use git::Checkout;
use ignore::IgnoreRules;
use listing::Listing;
use stat_cache::StatCache;

/// The file whose lines leave things out.
const IGNORE_FILE: &str = ".musterignore";

/// What to take and how much at most.
#[derive(Clone, Debug)]
pub(crate) struct CaptureOptions {
    /// The command's working directory; its checkout is taken, or itself if it is in none.
    pub(crate) directory: PathBuf,
    /// Most bytes of one file.
    pub(crate) max_file_bytes: u64,
    /// Most bytes of all files.
    pub(crate) max_tree_bytes: u64,
    /// Where hashes of unchanged files are remembered.
    pub(crate) cache_directory: Option<PathBuf>,
}

/// A snapshot of code.
#[derive(Debug)]
pub(crate) struct Capture {
    /// Everything that the cluster must hold: files, the diff, and the encoded tree as the last.
    pub(crate) blobs: Vec<Blob>,
    /// Hash of the encoded tree.
    pub(crate) tree: BlobHash,
    /// The directory that it is of.
    pub(crate) root: PathBuf,
    /// Files in it.
    pub(crate) files: u64,
    /// Bytes in them.
    pub(crate) bytes: u64,
    /// Commit, with `+` when there were changes; empty for a plain directory.
    pub(crate) revision: String,
    /// Remote without credentials; empty if none.
    pub(crate) remote: String,
    /// Where in the tree the command starts.
    pub(crate) working_directory: String,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

/// Bytes to store.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    /// Their name.
    pub(crate) hash: BlobHash,
    /// How many.
    pub(crate) bytes: u64,
    /// Where they are.
    pub(crate) content: Content,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// In memory.
    Memory(Bytes),
    /// In a file, which may change before it is read again.
    File(PathBuf),
}

/// Takes a snapshot. Blocks: it reads files and runs git.
///
/// # Errors
/// Something cannot be read, is over a limit, leaves the tree, or changes while it is read.
pub(crate) fn capture(options: &CaptureOptions, progress: &Progress) -> Result<Capture, Error> {
    let directory = canonical(&options.directory)?;
    let checkout = Checkout::around(&directory);
    let root = checkout
        .as_ref()
        .map_or(directory.as_path(), Checkout::root);
    let rules = ignore_rules(root)?;
    let listing = match &checkout {
        Some(checkout) => checkout.list()?,
        None => walk::list(root, &rules)?,
    };
    let (found, mut warnings) = entries::look_at(root, &listing, &rules)?;
    entries::check_sizes(&found, options)?;

    let mut cache = StatCache::load(options.cache_directory.as_deref(), root);
    let (hashes, changes) = std::thread::scope(|scope| {
        let changes = scope.spawn(|| match &checkout {
            Some(checkout) => checkout.changes(&rules, options.max_file_bytes).map(Some),
            None => Ok(None),
        });
        let hashes = hash::hash_files(&found, &mut cache, progress);
        let changes = changes.join().expect("git's thread does not panic");
        Ok((hashes?, changes?))
    })?;
    warnings.extend(cache.save());

    let working_directory = relative(root, &directory)?;
    let mut assembly = Assembly::default();
    for (found, hash) in found.iter().zip(&hashes) {
        assembly.add(found, *hash);
    }
    assembly.keep_directory(&working_directory);
    let untracked = untracked(&listing, &assembly.entries);
    let git = changes.map(|changes| assembly.git_facts(changes, untracked));
    let captured = assembly.finish(git, working_directory, warnings);
    Ok(Capture {
        root: root.to_owned(),
        ..captured
    })
}

/// Entries and blobs as they come together.
#[derive(Default)]
struct Assembly {
    entries: Vec<TreeEntry>,
    blobs: Vec<Blob>,
    files: u64,
    bytes: u64,
}

impl Assembly {
    fn add(&mut self, found: &FoundFile, hash: Option<BlobHash>) {
        let kind = match (&found.kind, hash) {
            (FoundKind::File(stat), Some(hash)) => {
                self.files += 1;
                self.bytes += stat.size;
                self.blobs.push(Blob {
                    hash,
                    bytes: stat.size,
                    content: Content::File(found.location.clone()),
                });
                TreeEntryKind::File {
                    hash,
                    bytes: stat.size,
                    executable: stat.executable,
                }
            }
            (FoundKind::Symlink(target), _) => TreeEntryKind::Symlink {
                target: target.clone(),
            },
            (FoundKind::Directory, _) => TreeEntryKind::Directory,
            (FoundKind::File(_), None) => unreachable!("every file was hashed"),
        };
        let path = found.path.clone();
        self.entries.push(TreeEntry { path, kind });
    }

    /// The command starts in this directory, even if nothing in it is captured.
    fn keep_directory(&mut self, path: &str) {
        let inside = format!("{path}/");
        let exists = |entry: &TreeEntry| entry.path == path || entry.path.starts_with(&inside);
        if !path.is_empty() && !self.entries.iter().any(exists) {
            self.entries.push(TreeEntry {
                path: path.to_owned(),
                kind: TreeEntryKind::Directory,
            });
        }
    }

    fn hold(&mut self, bytes: Bytes) -> BlobHash {
        let hash = BlobHash::of(&bytes);
        self.blobs.push(Blob {
            hash,
            bytes: bytes.len() as u64,
            content: Content::Memory(bytes),
        });
        hash
    }

    fn git_facts(&mut self, changes: git::Changes, untracked: Vec<String>) -> GitFacts {
        GitFacts {
            commit: changes.commit,
            branch: changes.branch,
            remote: changes.remote,
            diff: (!changes.diff.is_empty()).then(|| self.hold(changes.diff)),
            untracked,
        }
    }

    fn finish(
        mut self,
        git: Option<GitFacts>,
        working_directory: String,
        warnings: Vec<String>,
    ) -> Capture {
        let (mut revision, mut remote) = (String::new(), String::new());
        if let Some(git) = &git {
            let changed = git.diff.is_some() || !git.untracked.is_empty();
            revision = format!("{}{}", git.commit, if changed { "+" } else { "" });
            remote.clone_from(&git.remote);
        }
        self.entries.sort_by(|a, b| a.path.cmp(&b.path));
        let entries = std::mem::take(&mut self.entries);
        let encoded = types::codec::encode(&SourceTree::V1 { entries, git });
        let tree = self.hold(encoded.into());
        Capture {
            blobs: self.blobs,
            tree,
            root: PathBuf::new(),
            files: self.files,
            bytes: self.bytes,
            revision,
            remote,
            working_directory,
            warnings,
        }
    }
}

/// The untracked paths that are captured.
fn untracked(listing: &Listing, entries: &[TreeEntry]) -> Vec<String> {
    let captured: std::collections::BTreeSet<&str> =
        entries.iter().map(|entry| entry.path.as_str()).collect();
    let paths = listing.paths.iter().filter(|path| path.untracked);
    let texts = paths.filter_map(|path| std::str::from_utf8(&path.bytes).ok()); // others are refused before
    texts
        .filter(|path| captured.contains(path))
        .map(str::to_owned)
        .collect()
}

fn ignore_rules(root: &Path) -> Result<IgnoreRules, Error> {
    let path = root.join(IGNORE_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => IgnoreRules::parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(IgnoreRules::default()),
        Err(source) => Err(Error::Source {
            step: "read",
            path,
            source,
        }),
    }
}

fn canonical(path: &Path) -> Result<PathBuf, Error> {
    let found = path.canonicalize().and_then(|path| match path.is_dir() {
        true => Ok(path),
        false => Err(std::io::ErrorKind::NotADirectory.into()),
    });
    found.map_err(|source| Error::Source {
        step: "find the directory",
        path: path.to_owned(),
        source,
    })
}

/// `directory` as a path from `root`, which is around it.
fn relative(root: &Path, directory: &Path) -> Result<String, Error> {
    let path = directory.strip_prefix(root).unwrap_or(Path::new(""));
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::BadPath {
            path: path.to_string_lossy().into_owned(),
            problem: "it is not UTF-8",
        })
}

#[cfg(test)]
mod tests;
