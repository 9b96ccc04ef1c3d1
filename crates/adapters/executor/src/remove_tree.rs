//! Removes what a job left, whatever rights it left it with.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Removes a directory and everything in it; one that is not there is removed already. Jobs may leave directories
/// that nobody may change: their owner may change that.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match remove(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            remove(path)
        }
        removed => removed,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn open_up(directory: &Path) -> io::Result<()> {
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_forbid_changes_go_too() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("attempt");
        let inner = path.join("work/locked/inner");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("file"), b"x").unwrap();
        for locked in [&inner, &path.join("work/locked"), &path.join("work")] {
            std::fs::set_permissions(locked, Permissions::from_mode(0o500)).unwrap();
        }
        open_up(&path).unwrap();
        remove_tree(&path).unwrap();
        assert!(!path.exists());
        remove_tree(&path).unwrap();
    }
}
