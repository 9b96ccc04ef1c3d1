//! Files that hold a private key: mode 0600, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::Error;

/// Permission bits that let anyone but the owner at the file.
const OTHERS: u32 = 0o077;

/// The bytes of the file, or nothing if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::KeyRead {
        path: path.to_owned(),
        source,
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(Error::KeyMode {
            path: path.to_owned(),
            mode,
        });
    }
    fs::read(path).map(Some).map_err(failed)
}

/// Writes the file, which must not exist yet, and makes it durable.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let write = || -> std::io::Result<()> {
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let parent = parent.unwrap_or(Path::new("."));
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = parent.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // A link instead of a rename: it never replaces a key that another process made meanwhile.
        fs::hard_link(&new, path)?;
        fs::remove_file(&new)?;
        File::open(parent)?.sync_all()
    };
    write().map_err(|source| Error::KeyWrite {
        path: path.to_owned(),
        source,
    })
}
