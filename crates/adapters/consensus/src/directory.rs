//! The layout of a replica's data directory, its lock, and writing a file so that it stays.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::{failpoint, spare};

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    /// sled's directory.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// How far the log must reach.
    pub(crate) fn mark(&self) -> PathBuf {
        self.root.join("commit.mark")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn archives(&self) -> PathBuf {
        self.root.join("archives")
    }

    /// Creates what is missing.
    pub(crate) fn create(&self) -> Result<(), Error> {
        for path in [&self.root, &self.snapshots(), &self.archives()] {
            fs::create_dir_all(path).map_err(Error::file("create directory", path))?;
        }
        sync_directory(&self.root)
    }

    /// Takes the directory for this process until the returned file is dropped.
    pub(crate) fn lock(&self) -> Result<File, Error> {
        let path = self.root.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => {
                // Over what is there, at a fixed width: this needs no new block of a full disk.
                writeln!(file, "{:<10}", std::process::id())
                    .map_err(Error::file("write", &path))?;
                Ok(file)
            }
            Err(fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text)
                    .map_err(Error::file("read", &path))?;
                Err(Error::InUse {
                    directory: self.root.clone(),
                    pid: text.trim().parse().ok(),
                })
            }
            Err(fs::TryLockError::Error(source)) => Err(Error::File {
                step: "lock",
                path,
                source,
            }),
        }
    }
}

/// Makes the names in `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), Error> {
    let file = spare::opened(|| File::open(directory))
        .map_err(Error::file("open directory", directory))?;
    file.sync_all()
        .map_err(Error::file("sync directory", directory))
}

/// Writes `parts` to `directory/name` so that after a crash the file is there whole or not at all.
pub(crate) fn write_durably(
    directory: &Path,
    name: &str,
    parts: &[&[u8]],
) -> Result<PathBuf, Error> {
    let temporary = directory.join(format!("{name}.tmp"));
    let path = directory.join(name);
    let mut file =
        spare::opened(|| File::create(&temporary)).map_err(Error::file("create", &temporary))?;
    for part in parts {
        file.write_all(part)
            .map_err(Error::file("write", &temporary))?;
    }
    failpoint::reached("file.before_sync");
    file.sync_all().map_err(Error::file("sync", &temporary))?;
    failpoint::reached("file.before_rename");
    fs::rename(&temporary, &path).map_err(Error::file("rename", &temporary))?;
    sync_directory(directory)?;
    failpoint::reached("file.after_rename");
    Ok(path)
}

/// Removes half-written files that a crash left.
pub(crate) fn remove_temporary_files(directory: &Path) -> Result<(), Error> {
    for name in file_names(directory)? {
        if name.ends_with(".tmp") {
            let path = directory.join(name);
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
    }
    Ok(())
}

/// Names in `directory`, sorted.
pub(crate) fn file_names(directory: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    let entries =
        spare::opened(|| fs::read_dir(directory)).map_err(Error::file("list", directory))?;
    for entry in entries {
        let entry = entry.map_err(Error::file("list", directory))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
