//! What is remembered of kept packages: a small file for each, `<directory>/<project>/<sha256>`; the bytes are a blob.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use types::{BlobHash, codec};

/// A package that nobody wanted for so long goes.
const UNUSED: Duration = Duration::from_hours(30 * 24);
/// All packages of a node; those not used for longest go: ten builds with `PyTorch` and CUDA have 3 GiB each.
const MAX_BYTES: u64 = 30 << 30;
/// Where files are while they come.
const INCOMING: &str = "incoming.tmp";
/// Largest record.
const MAX_RECORD_BYTES: usize = 4 << 10;

/// A file of a project that a node keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPackage {
    /// Normal name of the project.
    pub project: String,
    /// Name of the file.
    pub filename: String,
    /// Which Python it needs; empty: any.
    pub requires_python: String,
    /// SHA-256 of its bytes, in hexadecimal digits.
    pub sha256: String,
    /// Its bytes.
    pub blob: BlobHash,
    /// How many.
    pub bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
enum Record {
    V1(KeptPackage),
}

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) directory: PathBuf,
}

impl Kept {
    /// What there is of a project.
    pub(super) fn of(&self, project: &str) -> io::Result<Vec<KeptPackage>> {
        let mut found = Vec::new();
        for path in entries(&self.directory.join(project))? {
            found.extend(read(&path)?);
        }
        Ok(found)
    }

    /// Remembers one. A power cut may take it back, which costs a download.
    pub(super) fn put(&self, package: &KeptPackage) -> io::Result<()> {
        let path = self.path(package);
        fs::create_dir_all(self.directory.join(&package.project))?;
        let new = self.incoming()?;
        fs::write(&new, codec::encode(&Record::V1(package.clone())))?;
        fs::rename(new, path)
    }

    /// It was used now.
    pub(super) fn touch(&self, package: &KeptPackage) -> io::Result<()> {
        File::open(self.path(package))?.set_modified(SystemTime::now())
    }

    /// A path for a file that comes, which is nobody else's.
    pub(super) fn incoming(&self) -> io::Result<PathBuf> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let directory = self.directory.join(INCOMING);
        fs::create_dir_all(&directory)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(directory.join(number.to_string()))
    }

    /// Forgets what is not used; the blobs of the rest.
    pub(super) fn sweep(&self) -> io::Result<Vec<BlobHash>> {
        let mut known = Vec::new();
        for project in entries(&self.directory)? {
            if project.file_name().is_some_and(|name| name == INCOMING) {
                continue;
            }
            for path in entries(&project)? {
                let used = path.metadata()?.modified()?;
                let Some(package) = read(&path)? else {
                    fs::remove_file(&path)?; // torn by a power cut, or of another release
                    continue;
                };
                known.push((used, path, package));
            }
        }
        known.sort_by_key(|(used, _, _)| std::cmp::Reverse(*used));
        let (mut total, mut blobs) = (0_u64, Vec::new());
        for (used, path, package) in known {
            total = total.saturating_add(package.bytes);
            let age = used.elapsed().unwrap_or_default(); // of the future: it is new
            if age > UNUSED || total > MAX_BYTES {
                fs::remove_file(&path)?;
            } else {
                blobs.push(package.blob);
            }
        }
        Ok(blobs)
    }

    fn path(&self, package: &KeptPackage) -> PathBuf {
        self.directory.join(&package.project).join(&package.sha256)
    }
}

fn read(path: &std::path::Path) -> io::Result<Option<KeptPackage>> {
    match fs::read(path) {
        Ok(bytes) => Ok(match codec::decode(&bytes, MAX_RECORD_BYTES) {
            Ok(Record::V1(package)) => Some(package),
            Err(_damaged) => None, // as if it were not there: it is had again
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn entries(directory: &std::path::Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_kept_until_it_is_not_used_for_long() {
        let root = tempfile::tempdir().unwrap();
        let kept = Kept {
            directory: root.path().join("packages"),
        };
        assert_eq!(kept.of("tiny").unwrap(), []);
        assert_eq!(kept.sweep().unwrap(), []);
        let package = |sha256: &str| KeptPackage {
            project: "tiny".to_owned(),
            filename: format!("tiny-{sha256}.whl"),
            requires_python: ">=3.8".to_owned(),
            sha256: sha256.repeat(32),
            blob: BlobHash::of(sha256.as_bytes()),
            bytes: 7,
        };
        let (old, new) = (package("00"), package("11"));
        for one in [&old, &new] {
            kept.put(one).unwrap();
        }
        assert_eq!(kept.of("tiny").unwrap().len(), 2);
        let long_ago = SystemTime::now() - UNUSED - Duration::from_secs(60);
        let file = File::open(kept.path(&old)).unwrap();
        file.set_modified(long_ago).unwrap();
        assert_eq!(kept.sweep().unwrap(), [new.blob]);
        assert_eq!(kept.of("tiny").unwrap(), std::slice::from_ref(&new));
        fs::write(kept.path(&new), b"torn").unwrap();
        assert_eq!(kept.of("tiny").unwrap(), []);
        assert_eq!(kept.sweep().unwrap(), []);
    }
}
