//! A backup on this machine's disk: checked while it is written, and there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use types::{BackupItem, BackupReader, BackupSummary};

use crate::error::Error;

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// A backup that is being written under another name. Dropped before its end, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct BackupFile {
    path: PathBuf,
    draft: PathBuf,
    file: File,
    check: Check,
}

impl BackupFile {
    /// Makes the file, which nobody else may read: it holds what everybody submitted.
    ///
    /// # Errors
    /// There is one already, or it cannot be made.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        let exists = |path: &Path| Error::FileExists {
            path: path.to_owned(),
        };
        if path.exists() {
            return Err(exists(path));
        }
        let mut draft = path.as_os_str().to_owned();
        draft.push(".partial");
        let draft = PathBuf::from(draft);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft);
        let file = file.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(&draft),
            _ => failed("create", &draft)(error),
        })?;
        Ok(Self {
            path: path.to_owned(),
            draft,
            file,
            check: Check::new(path),
        })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// They are not those of a backup, or cannot be written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.check.take(bytes)?;
        self.file
            .write_all(bytes)
            .map_err(failed("write", &self.draft))
    }

    /// Makes it durable and gives it its name; says what is in it and how long it is.
    ///
    /// # Errors
    /// It is not whole, or cannot be made durable.
    pub(crate) fn finish(self) -> Result<(BackupSummary, u64), Error> {
        let found = self.check.finish()?;
        self.file.sync_all().map_err(failed("sync", &self.draft))?;
        fs::rename(&self.draft, &self.path).map_err(failed("rename", &self.draft))?;
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = File::open(parent).and_then(|directory| directory.sync_all());
        directory.map_err(failed("sync", parent))?;
        Ok(found)
    }
}

impl Drop for BackupFile {
    fn drop(&mut self) {
        // Has its name by now, or is of no use.
        drop(fs::remove_file(&self.draft));
    }
}

/// Checks a whole file; says what is in it and how long it is.
///
/// # Errors
/// It cannot be read, is damaged, or is not whole.
pub(crate) fn verify(path: &Path) -> Result<(BackupSummary, u64), Error> {
    let mut file = File::open(path).map_err(failed("open", path))?;
    let mut check = Check::new(path);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer).map_err(failed("read", path))? {
            0 => return check.finish(),
            length => check.take(&buffer[..length])?,
        }
    }
}

/// Reads along.
#[derive(Debug)]
struct Check {
    path: PathBuf,
    reader: BackupReader,
    bytes: u64,
    whole: Option<BackupSummary>,
}

impl Check {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            reader: BackupReader::default(),
            bytes: 0,
            whole: None,
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        self.reader.push(bytes);
        loop {
            match self.reader.next_item() {
                Ok(None) => return Ok(()),
                Ok(Some(BackupItem::Whole(summary))) => self.whole = Some(summary),
                Ok(Some(_)) => {}
                Err(source) => return Err(self.wrong(source)),
            }
        }
    }

    fn finish(&self) -> Result<(BackupSummary, u64), Error> {
        self.reader.finish().map_err(|source| self.wrong(source))?;
        let whole = self.whole.clone().ok_or(types::BackupError::NotABackup);
        let summary = whole.map_err(|source| self.wrong(source))?;
        Ok((summary, self.bytes))
    }

    fn wrong(&self, source: types::BackupError) -> Error {
        Error::BadBackup {
            path: self.path.clone(),
            source,
        }
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Source { step, path, source }
}
