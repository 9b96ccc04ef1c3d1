//! Secrets in files: a token that other users of the machine can read is no secret.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::error::Error;

/// Permission bits that let anyone but the owner at a file.
const OTHERS: u32 = 0o077;
/// Longest token file: a join token with six addresses has under 1 KiB.
const MAX_BYTES: u64 = 64 << 10;

/// The text of a file that holds a secret, without the space around it. A pipe, as `<(…)` makes it, will do.
///
/// # Errors
/// Others may read the file, or it cannot be read.
pub fn read_secret_file(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Source {
        step: "read the secret in",
        path: path.to_owned(),
        source,
    };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o7777;
    if metadata.is_file() && mode & OTHERS != 0 {
        return Err(Error::ReadableSecret {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = String::new();
    let mut start = file.by_ref().take(MAX_BYTES + 1);
    start.read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, " mt1.t-1.abc\n").unwrap();
        for mode in [0o644, 0o640, 0o604, 0o660] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read_secret_file(&path).unwrap_err();
            assert!(error.hint().contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_secret_file(&path).unwrap(), "mt1.t-1.abc");
        fs::write(&path, vec![b'x'; 100_000]).unwrap();
        assert!(read_secret_file(&path).is_err());
    }
}
