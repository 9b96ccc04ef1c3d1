//! Taking blobs out of the store.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use types::BlobHash;

use crate::chunks::chunks_path;
use crate::store::{Store, blocking, remove_if_there};
use crate::{Error, Handle};

impl Handle {
    /// The bytes of a blob, checked against its name; none if it is not here.
    ///
    /// # Errors
    /// It is longer than `max`, cannot be read, or was damaged: it is then moved aside and counts as absent.
    pub async fn get_bytes(&self, hash: &BlobHash, max: u64) -> Result<Option<Bytes>, Error> {
        let (store, hash) = (Arc::clone(&self.store), *hash);
        blocking(move || store.read_checked(hash, max)).await
    }

    /// The file of a blob, open for reading; none if it is not here. The bytes are not checked: for streams
    /// of any length. A file stays readable while open, even if the blob is collected.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn open_read(&self, hash: &BlobHash) -> Result<Option<tokio::fs::File>, Error> {
        let (store, hash) = (Arc::clone(&self.store), *hash);
        let file = blocking(move || store.open_blob(&hash)).await?;
        Ok(file.map(|(file, _length)| tokio::fs::File::from_std(file)))
    }
}

impl Store {
    /// The file of a blob and its length, none if it is not here.
    pub(crate) fn open_blob(&self, hash: &BlobHash) -> Result<Option<(File, u64)>, Error> {
        let path = self.path(hash);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::read(&path, e)),
        };
        let metadata = file.metadata().map_err(|e| Error::read(&path, e))?;
        Ok(Some((file, metadata.len())))
    }

    pub(crate) fn read_checked(&self, hash: BlobHash, max: u64) -> Result<Option<Bytes>, Error> {
        let Some((file, length)) = self.open_blob(&hash)? else {
            return Ok(None);
        };
        let too_large = Error::TooLarge {
            bytes: length,
            limit: max,
        };
        if length > max {
            return Err(too_large);
        }
        let Ok(capacity) = usize::try_from(length) else {
            return Err(too_large);
        };
        let mut bytes = Vec::with_capacity(capacity);
        // One byte more than stored is asked for, so that a file that grew is seen to be damaged.
        file.take(length.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|e| Error::read(&self.path(&hash), e))?;
        if BlobHash::of(&bytes) != hash {
            return Err(self.quarantine(hash)?);
        }
        Ok(Some(bytes.into()))
    }

    /// Moves damaged bytes aside, so that the blob counts as absent; returns what to tell.
    pub(crate) fn quarantine(&self, hash: BlobHash) -> Result<Error, Error> {
        let path = self.path(&hash);
        let quarantined = damaged_path(path.clone());
        let names = self.lock_names();
        match fs::rename(&path, &quarantined) {
            // Another reader met the damage first.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::rename(&quarantined, e)),
            Ok(()) => {
                tracing::error!(%hash, path = %quarantined.display(), "blob was damaged on disk");
            }
        }
        remove_if_there(&chunks_path(path))?;
        drop(names);
        Ok(Error::Damaged { hash, quarantined })
    }
}

/// Where damaged bytes of the blob at `path` go.
pub(crate) fn damaged_path(path: PathBuf) -> PathBuf {
    let mut name = path.into_os_string();
    name.push(".damaged");
    name.into()
}
