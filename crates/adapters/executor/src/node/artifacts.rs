//! Artifacts: files that a running attempt was given by requests, beside its own directory, and kept with its outputs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use types::{AttemptToken, Outputs, validate_tree_path};

use super::attempt::Attempt;
use super::handle::Handle;
use crate::attempt_directory::AttemptDirectory;
use crate::error::Error;
use crate::outputs::{self, Left};

/// What their paths begin with among the outputs.
pub(super) const DIRECTORY: &str = "artifacts";

/// Two that come at one time do not write the same file.
static NEXT_DRAFT: AtomicU64 = AtomicU64::new(0);

impl Handle {
    /// Keeps a copy of the file at `content` as an artifact of a running attempt; one of the same name is replaced.
    ///
    /// # Errors
    /// The attempt is not known here or has ended, the name leaves the directory or is that of a directory, there are too
    /// many, or the copy cannot be made.
    pub async fn add_artifact(
        &self,
        token: &AttemptToken,
        name: String,
        content: PathBuf,
    ) -> Result<(), Error> {
        let attempt = self.attempt(token)?;
        if attempt.has_ended() {
            return Err(Error::HasEnded { token: *token });
        }
        let added = tokio::task::spawn_blocking(move || add(&attempt, &name, &content));
        added.await.map_err(Error::Task)?
    }
}

fn add(attempt: &Arc<Attempt>, name: &str, content: &Path) -> Result<(), Error> {
    let why = |why: String| Error::Artifact {
        name: name.to_owned(),
        why,
    };
    validate_tree_path(name).map_err(|error| why(error.to_string()))?;
    let root = attempt.directory.artifacts();
    let (count, bytes) = size_of(&root).map_err(|error| why(error.to_string()))?;
    let more = content
        .metadata()
        .map_err(|error| why(error.to_string()))?
        .len();
    if count >= Outputs::MAX_FILES || bytes.saturating_add(more) > Outputs::DEFAULT_MAX_BYTES {
        let (most, size) = (Outputs::MAX_FILES, types::Bytes(Outputs::DEFAULT_MAX_BYTES));
        return Err(why(format!(
            "an attempt has at most {most} artifacts of {size} in all"
        )));
    }
    copy(&root, name, content).map_err(|error| why(error.to_string()))
}

/// Whole or not at all, also if this process is killed meanwhile.
fn copy(root: &Path, name: &str, content: &Path) -> io::Result<()> {
    let path = root.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if path.is_dir() {
        return Err(io::Error::other("there is a directory of that name"));
    }
    // Beside them, so that it is never taken for one.
    let number = NEXT_DRAFT.fetch_add(1, Ordering::Relaxed);
    let draft = root.with_extension(format!("draft-{number}"));
    let mut to = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    io::copy(&mut File::open(content)?, &mut to)?;
    to.sync_all()?;
    fs::rename(&draft, &path)
}

/// Files below a directory and their bytes.
fn size_of(directory: &Path) -> io::Result<(usize, u64)> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        Err(error) => return Err(error),
    };
    let (mut count, mut bytes) = (0_usize, 0_u64);
    for entry in entries {
        let entry = entry?;
        let facts = entry.metadata()?;
        let (more, size) = match facts.is_dir() {
            true => size_of(&entry.path())?,
            false => (1, facts.len()),
        };
        count += more;
        bytes = bytes.saturating_add(size);
    }
    Ok((count, bytes))
}

/// Adds the artifacts of an attempt to what it left.
pub(super) fn add_to(left: Option<Left>, directory: &AttemptDirectory) -> Option<Left> {
    let found = outputs::find(
        (&directory.root, ""),
        &Outputs {
            paths: vec![DIRECTORY.to_owned()],
            max_bytes: 0,
        },
    );
    if found.entries.is_empty() {
        return left;
    }
    let mut left = left.unwrap_or_default();
    for entry in found.entries {
        let before = left.entries.len();
        left.entries.retain(|known| known.path != entry.path);
        if left.entries.len() < before {
            let line = format!("{} (there is an artifact of that name)", entry.path);
            left.left_out.push(line);
        }
        left.entries.push(entry);
    }
    left.entries.sort_by(|a, b| a.path.cmp(&b.path));
    Some(left)
}

/// Opens an artifact by its path among the outputs; none if it is none.
pub(super) fn open(directory: &AttemptDirectory, path: &str) -> Option<File> {
    let inside = path.strip_prefix(DIRECTORY)?;
    inside.strip_prefix('/')?;
    outputs::open((&directory.root, ""), path).ok() // Then it is one of the job's own directory.
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::outputs::{LeftEntry, LeftKind};

    #[test]
    fn an_artifact_is_replaced_whole_and_goes_before_an_output_of_its_name() {
        let root = tempfile::tempdir().unwrap();
        let directory = AttemptDirectory {
            root: root.path().to_owned(),
        };
        let content = root.path().join("content");
        for text in ["the first, which is longer", "second"] {
            fs::write(&content, text).unwrap();
            copy(&directory.artifacts(), "plots/a.png", &content).unwrap();
        }
        assert!(copy(&directory.artifacts(), "plots", &content).is_err());
        assert_eq!(size_of(&directory.artifacts()).unwrap(), (1, 6));
        let output = LeftEntry {
            path: "artifacts/plots/a.png".to_owned(),
            kind: LeftKind::Directory,
        };
        let left = Left {
            entries: vec![output],
            left_out: Vec::new(),
        };
        let left = add_to(Some(left), &directory).unwrap();
        assert_eq!((left.entries.len(), left.left_out.len()), (1, 1));
        let kind = &left.entries[0].kind;
        assert!(matches!(kind, LeftKind::File { bytes: 6, .. }), "{kind:?}");
        let mut text = String::new();
        let mut file = open(&directory, "artifacts/plots/a.png").unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "second");
        assert!(open(&directory, "content").is_none());
        let nothing = tempfile::tempdir().unwrap();
        let root = nothing.path().to_owned();
        assert_eq!(add_to(None, &AttemptDirectory { root }), None);
    }
}
