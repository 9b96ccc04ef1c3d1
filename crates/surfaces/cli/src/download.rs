//! Files that are fetched: each is there whole or not at all, and none is written through a link.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rest::wire::OutputView;

use crate::error::Error;

/// Bytes read at a time from a file that is there already.
const READ_BYTES: usize = 1 << 20;

/// A file that is being written under another name. Dropped before its end, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Download {
    path: PathBuf,
    draft: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    hash: String,
    finished: bool,
}

impl Download {
    /// Makes the file below `root`; none if the same is there already.
    ///
    /// # Errors
    /// Another file is there, or it cannot be made.
    pub(crate) fn begin(
        root: &Path,
        name: &str,
        entry: &OutputView,
    ) -> Result<Option<Self>, Error> {
        place(root, name)?;
        let path = root.join(name);
        if let Ok(known) = fs::symlink_metadata(&path) {
            let same = known.is_file()
                && known.len() == entry.bytes
                && hash_of(&path).map_err(failed("read", &path))? == entry.hash;
            return if same {
                Ok(None)
            } else {
                Err(Error::FileExists { path })
            };
        }
        let mut draft = path.clone().into_os_string();
        draft.push(".partial");
        let draft = PathBuf::from(draft);
        remove_left_over(&draft)?;
        let mode = if entry.executable { 0o777 } else { 0o666 };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&draft)
            .map_err(failed("create", &draft))?;
        Ok(Some(Self {
            path,
            draft,
            file,
            hasher: blake3::Hasher::new(),
            hash: entry.hash.clone(),
            finished: false,
        }))
    }

    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.hasher.update(piece);
        let written = self.file.write_all(piece);
        written.map_err(failed("write", &self.draft))
    }

    /// Gives it its name, if it is what it should be.
    ///
    /// # Errors
    /// The bytes are others, or it cannot be renamed.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        if self.hasher.finalize().to_hex().as_str() != self.hash {
            return Err(Error::Download {
                path: self.path.display().to_string(),
                problem: "the bytes that came are not those that were kept".to_owned(),
            });
        }
        fs::rename(&self.draft, &self.path).map_err(failed("rename", &self.draft))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if !self.finished {
            drop(fs::remove_file(&self.draft)); // Of no use.
        }
    }
}

/// Makes the directories on the way to `name` below `root`; what is a link there is refused.
///
/// # Errors
/// Something else is in the way, or they cannot be made.
pub(crate) fn place(root: &Path, name: &str) -> Result<(), Error> {
    fs::create_dir_all(root).map_err(failed("create", root))?;
    let Some((parents, _)) = name.rsplit_once('/') else {
        return Ok(());
    };
    let mut path = root.to_owned();
    for part in parents.split('/') {
        path.push(part);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let known = fs::symlink_metadata(&path).map_err(failed("look at", &path))?;
                if !known.is_dir() {
                    return Err(Error::FileExists { path });
                }
            }
            Err(error) => return Err(failed("create", &path)(error)),
        }
    }
    Ok(())
}

/// Makes a link; one that is there and leads to the same stays.
///
/// # Errors
/// Something else is there, or it cannot be made.
pub(crate) fn make_link(root: &Path, name: &str, target: &str) -> Result<(), Error> {
    place(root, name)?;
    let path = root.join(name);
    match symlink(target, &path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match fs::read_link(&path) {
            Ok(known) if known == Path::new(target) => Ok(()),
            Ok(_) | Err(_) => Err(Error::FileExists { path }),
        },
        Err(error) => Err(failed("create", &path)(error)),
    }
}

/// Of a run that was killed: nobody else uses such a name.
fn remove_left_over(draft: &Path) -> Result<(), Error> {
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", draft)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn hash_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            length => {
                hasher.update(&buffer[..length]);
            }
        }
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Source { step, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(content: &[u8]) -> OutputView {
        OutputView {
            kind: "file".to_owned(),
            bytes: content.len() as u64,
            hash: blake3::hash(content).to_hex().to_string(),
            ..OutputView::default()
        }
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let wanted = entry(b"weights");
        let begin = || Download::begin(root.path(), "out/model.pt", &wanted);
        let mut wrong = begin().unwrap().unwrap();
        wrong.write(b"weighty").unwrap();
        assert!(matches!(wrong.finish(), Err(Error::Download { .. })));
        assert_eq!(fs::read_dir(root.path().join("out")).unwrap().count(), 0);
        let mut right = begin().unwrap().unwrap();
        right.write(b"wei").unwrap();
        right.write(b"ghts").unwrap();
        right.finish().unwrap();
        assert_eq!(
            fs::read(root.path().join("out/model.pt")).unwrap(),
            b"weights"
        );
        assert!(begin().unwrap().is_none(), "the same is there already");
        let other = Download::begin(root.path(), "out/model.pt", &entry(b"another"));
        assert!(matches!(other, Err(Error::FileExists { .. })));
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), root.path().join("out")).unwrap();
        let begun = Download::begin(root.path(), "out/x", &entry(b"x"));
        assert!(matches!(begun, Err(Error::FileExists { .. })));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
