//! The node's own package index: each file that a build wants is kept as a blob, members are asked for it first, and only
//! then the indexes of this machine. So a node without a way out builds from what the others have.

mod kept;
mod members;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use executor::{IndexError, OfferedFile};
use tokio::sync::Semaphore;

use crate::blobs::blob_error;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, lock, now};

use kept::Kept;
pub use kept::KeptPackage;
use members::Whom;

/// Most files of one project that a node tells of: of the largest projects at pypi.org 5,000 are offered, a cluster uses few.
const MAX_TOLD: usize = 1_000;
/// Indexes that did not answer are not asked again for so long: a build asks for dozens of projects.
const REST: Duration = Duration::from_secs(30);
/// Programs that read an index at the same time: each is a Python.
const READERS: usize = 4;
/// Most offers that are remembered between a page and its files: two of the largest builds.
const MAX_OFFERS: usize = 50_000;

/// A line of a project's page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageLine {
    /// Name of the file.
    pub filename: String,
    /// SHA-256 of its bytes; empty: not known.
    pub sha256: String,
    /// Which Python it needs; empty: any.
    pub requires_python: String,
    /// Taken back by its author.
    pub yanked: bool,
}

/// What is remembered of packages.
#[derive(Debug)]
pub(crate) struct Packages {
    kept: Kept,
    /// Where files are to be had, by project and name, as the last page said.
    offers: Mutex<BTreeMap<(String, String), OfferedFile>>,
    /// When the machine's indexes did not answer, and what was said.
    silent: Mutex<Option<(tokio::time::Instant, String)>>,
    readers: Semaphore,
}

impl Packages {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            kept: Kept { directory },
            offers: Mutex::default(),
            silent: Mutex::default(),
            readers: Semaphore::new(READERS),
        }
    }
}

/// Names are compared so (PEP 503).
#[must_use]
pub fn normal_project(name: &str) -> String {
    let mut normal = String::new();
    for letter in name.chars() {
        match letter {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            other => normal.push(other.to_ascii_lowercase()),
        }
    }
    normal
}

impl Handle {
    /// What there is of a project: what the machine's indexes offer, and what this node and the others have kept.
    ///
    /// # Errors
    /// There is nothing; whether because nobody has such a project or because no index answers, the message says.
    pub async fn package_page(&self, project: &str) -> Result<Vec<PackageLine>, ServiceError> {
        let project = checked(project)?;
        let (offered, mut kept) = tokio::join!(self.offers(&project), self.kept_near(&project));
        if offered.is_err() {
            // Nothing else is to be had.
            kept.extend(self.kept_by(&project, Whom::Others).await);
        }
        let mut lines: BTreeMap<String, PackageLine> = BTreeMap::new();
        for (_, package) in kept {
            let line = PackageLine {
                filename: package.filename.clone(),
                sha256: package.sha256,
                requires_python: package.requires_python,
                yanked: false,
            };
            lines.insert(package.filename, line);
        }
        let failed = match offered {
            Ok(offered) => {
                for file in offered {
                    let line = PackageLine {
                        filename: file.filename.clone(),
                        sha256: file.sha256,
                        requires_python: file.requires_python,
                        yanked: file.yanked,
                    };
                    lines.insert(file.filename, line);
                }
                None
            }
            Err(error) => Some(error),
        };
        match (lines.is_empty(), failed) {
            (false, failed) => {
                if let Some(error) = failed {
                    tracing::debug!(project, %error, "only kept packages are offered");
                }
                Ok(lines.into_values().collect())
            }
            (true, Some(IndexError::Unreachable(why))) => Err(ServiceError::new(
                ErrorKind::Unavailable,
                "no-index",
                format!(
                    "{project} is on no machine of the cluster, and the package index does not answer: {why}"
                ),
            )),
            (true, Some(IndexError::NotFound) | None) => Err(ServiceError::new(
                ErrorKind::NotFound,
                "unknown-package",
                format!("there is no package {project}"),
            )),
        }
    }

    /// The bytes of a file of a project: kept here, on another member, or to be had from an index, in this order.
    ///
    /// # Errors
    /// Nobody has it, or what is sent is not what the index or its keeper said.
    pub async fn package_file(
        &self,
        project: &str,
        filename: &str,
    ) -> Result<(u64, tokio::fs::File), ServiceError> {
        let project = checked(project)?;
        check_filename(filename)?;
        let key = (project.clone(), filename.to_owned());
        let offer = lock(&self.inner.packages.offers).get(&key).cloned();
        let sha256 = offer.as_ref().map_or("", |offer| offer.sha256.as_str());
        let fits = |package: &KeptPackage| {
            package.filename == filename && (sha256.is_empty() || package.sha256 == sha256)
        };
        let own = self.kept_here(&project).await?;
        if let Some(package) = own.into_iter().find(&fits)
            && self.blob_store().has(&package.blob)
        {
            return self.open_kept(&package).await;
        }
        if let Some(package) = self.take_kept(&project, Whom::Linked, fits).await {
            return self.open_kept(&package).await;
        }
        let downloaded = async {
            let offer = match offer.clone() {
                Some(offer) => offer,
                // Asked for without its page, or forgotten: the page says where it is.
                None => self.offer_of(&project, filename).await?,
            };
            self.download(&project, &offer).await
        };
        let package = match downloaded.await {
            Ok(package) => package,
            Err(error) => {
                let taken = self.take_kept(&project, Whom::Others, fits).await;
                taken.ok_or(error)?
            }
        };
        self.open_kept(&package).await
    }

    /// What this node has of a project.
    pub(crate) async fn kept_here(&self, project: &str) -> Result<Vec<KeptPackage>, ServiceError> {
        let (kept, project) = (self.inner.packages.kept.clone(), project.to_owned());
        let read = tokio::task::spawn_blocking(move || kept.of(&project)).await;
        read.map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))
    }

    /// Answers a member that asks what there is of a project.
    pub(crate) async fn answer_packages(&self, project: &str) -> Vec<KeptPackage> {
        let Ok(project) = checked(project) else {
            return Vec::new(); // no name of a project: there is nothing
        };
        let mut kept = self.kept_here(&project).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "kept packages cannot be listed");
            Vec::new()
        });
        kept.retain(|package| self.blob_store().has(&package.blob));
        kept.truncate(MAX_TOLD);
        kept
    }

    /// What the indexes offer; nothing is asked while they are known to be silent.
    async fn offers(&self, project: &str) -> Result<Vec<OfferedFile>, IndexError> {
        let packages = &self.inner.packages;
        let silent = lock(&packages.silent).clone();
        if let Some((at, why)) = silent
            && at.elapsed() < REST
        {
            return Err(IndexError::Unreachable(why));
        }
        let _permit = packages.readers.acquire().await;
        let offered = self.executor().offered_files(project).await;
        match &offered {
            Ok(files) => {
                let mut offers = lock(&packages.offers);
                if offers.len() + files.len() > MAX_OFFERS {
                    offers.clear();
                }
                for file in files {
                    offers.insert((project.to_owned(), file.filename.clone()), file.clone());
                }
            }
            Err(IndexError::Unreachable(why)) => {
                let silent = (tokio::time::Instant::now(), why.clone());
                *lock(&packages.silent) = Some(silent);
            }
            Err(IndexError::NotFound) => {}
        }
        offered
    }

    async fn offer_of(&self, project: &str, filename: &str) -> Result<OfferedFile, ServiceError> {
        let offered = self.offers(project).await;
        let offered = offered.map_err(|error| no_file(filename, &error.to_string()))?;
        let mut fitting = offered.into_iter().filter(|file| file.filename == filename);
        let found = fitting.next();
        found.ok_or_else(|| no_file(filename, "no index and no member has it"))
    }

    async fn download(
        &self,
        project: &str,
        offer: &OfferedFile,
    ) -> Result<KeptPackage, ServiceError> {
        let packages = &self.inner.packages;
        let _permit = packages.readers.acquire().await;
        let path = packages.kept.incoming().map_err(|error| failed(&error))?;
        let fetched = async {
            let downloaded = self.executor().download_package(&offer.url, &path).await;
            downloaded.map_err(|error| no_file(&offer.filename, &error.to_string()))?;
            let sha256 = sha256_of(path.clone()).await?;
            if !offer.sha256.is_empty() && offer.sha256 != sha256 {
                let why = "what came is not what its index says: its SHA-256 differs";
                return Err(no_file(&offer.filename, why));
            }
            let stored = self.inner.blobs.put_file(&path).await;
            let (blob, bytes) = stored.map_err(|error| blob_error(&error))?;
            Ok((sha256, blob, bytes))
        };
        let fetched = fetched.await;
        if let Err(error) = tokio::fs::remove_file(&path).await {
            tracing::debug!(%error, "nothing was downloaded, or it stays until the next start");
        }
        let (sha256, blob, bytes) = fetched?;
        let package = KeptPackage {
            project: project.to_owned(),
            filename: offer.filename.clone(),
            requires_python: offer.requires_python.clone(),
            sha256,
            blob,
            bytes,
        };
        self.keep(package).await
    }

    /// Remembers it; from now on its blob is not collected.
    async fn keep(&self, package: KeptPackage) -> Result<KeptPackage, ServiceError> {
        let renewed = self.inner.blobs.renew(&package.blob, now());
        renewed.map_err(|error| blob_error(&error))?;
        let (kept, one) = (self.inner.packages.kept.clone(), package.clone());
        let stored = tokio::task::spawn_blocking(move || kept.put(&one)).await;
        stored
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        Ok(package)
    }

    async fn open_kept(
        &self,
        package: &KeptPackage,
    ) -> Result<(u64, tokio::fs::File), ServiceError> {
        if let Err(error) = self.inner.packages.kept.touch(package) {
            tracing::debug!(%error, "use of a package is not remembered");
        }
        self.read_blob(package.blob).await
    }

    /// Blobs of packages that are used now and then; the others are forgotten.
    pub(crate) fn package_blobs(&self) -> std::io::Result<Vec<types::BlobHash>> {
        self.inner.packages.kept.sweep()
    }
}

/// The normal name of a project.
fn checked(project: &str) -> Result<String, ServiceError> {
    let normal = normal_project(project);
    let letters = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let is_name = !normal.is_empty() && normal.len() <= 128 && normal.chars().all(letters);
    match is_name {
        true => Ok(normal),
        false => Err(ServiceError::new(
            ErrorKind::Invalid,
            "bad-package",
            format!("{project:?} is no name of a package"),
        )),
    }
}

fn check_filename(name: &str) -> Result<(), ServiceError> {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || "._-+!".contains(letter);
    let is_name = name.len() <= 255 && !name.starts_with('.') && name.chars().all(letters);
    match is_name && !name.is_empty() {
        true => Ok(()),
        false => Err(ServiceError::new(
            ErrorKind::Invalid,
            "bad-package",
            format!("{name:?} is no name of a package's file"),
        )),
    }
}

async fn sha256_of(path: PathBuf) -> Result<String, ServiceError> {
    let hashed = tokio::task::spawn_blocking(move || hash_file(&path)).await;
    hashed
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))
}

fn hash_file(path: &Path) -> std::io::Result<String> {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    std::io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn no_file(filename: &str, why: &str) -> ServiceError {
    let message = format!("{filename} cannot be had: {why}");
    ServiceError::new(ErrorKind::Unavailable, "no-package", message)
}

fn failed(error: &impl std::fmt::Display) -> ServiceError {
    let message = format!("packages cannot be kept here: {error}");
    ServiceError::new(ErrorKind::Internal, "packages", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normal_or_refused() {
        for (name, normal) in [
            ("Foo_Bar", "foo-bar"),
            ("a.-_b", "a-b"),
            ("zope.interface", "zope-interface"),
        ] {
            assert_eq!(checked(name).unwrap(), normal);
        }
        for name in ["", "../etc", "a/b", "ä"] {
            assert!(checked(name).is_err(), "{name}");
        }
        assert!(check_filename("torch-2.1.0+cu121-cp311-cp311-linux_x86_64.whl").is_ok());
        for name in ["", ".hidden", "../x", "a/b", "a b"] {
            assert!(check_filename(name).is_err(), "{name}");
        }
    }
}
