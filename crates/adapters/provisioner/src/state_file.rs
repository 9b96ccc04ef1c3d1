//! Small JSON files that survive a crash whole: old or new, never half.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Format version of these files.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    content: T,
}

#[derive(Deserialize)]
struct OnlyVersion {
    version: u32,
}

/// Reads the file, none if there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::read(path, e)),
    };
    let damaged = |source| Error::Damaged {
        path: path.to_path_buf(),
        source,
    };
    let OnlyVersion { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if version != VERSION {
        return Err(Error::FileVersion {
            path: path.to_path_buf(),
            found: version,
            known: VERSION,
        });
    }
    let file: Versioned<T> = serde_json::from_slice(&bytes).map_err(damaged)?;
    Ok(Some(file.content))
}

/// Writes the file durably.
pub(crate) fn write<T: Serialize>(path: &Path, content: &T) -> Result<(), Error> {
    let file = Versioned {
        version: VERSION,
        content,
    };
    let bytes = serde_json::to_vec_pretty(&file).expect("the content has only text keys");
    let next = path.with_extension("next");
    let steps = || -> io::Result<()> {
        let mut file = File::create(&next)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&next, path)?;
        let directory = path.parent().expect("a state file is in a directory");
        File::open(directory)?.sync_all()
    };
    steps().map_err(|e| Error::write(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_back_and_bad_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), None);
        write(&path, &vec![1, 2]).unwrap();
        assert_eq!(read(&path).unwrap(), Some(vec![1, 2]));
        fs::write(&path, b"{\"version\":9,\"content\":{}}").unwrap();
        let error = read::<Vec<u32>>(&path).unwrap_err();
        assert!(matches!(error, Error::FileVersion { found: 9, .. }));
        fs::write(&path, b"{\"version\":1,\"content\":[").unwrap();
        let error = read::<Vec<u32>>(&path).unwrap_err();
        assert!(
            error.to_string().contains("state.json is damaged"),
            "{error}"
        );
    }
}
