//! What an ended attempt left of what it was asked for: found below its directory, never through a link, and read the
//! same way.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use types::{Bytes as Size, Outputs, link_stays_inside};

/// Something that an attempt left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftEntry {
    /// Where, relative to the directory in which the command started.
    pub path: String,
    /// What is there.
    pub kind: LeftKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftKind {
    /// A regular file.
    File {
        /// Bytes, as of the look.
        bytes: u64,
        /// Has an execute bit.
        executable: bool,
    },
    /// A link to a place among the outputs.
    Symlink {
        /// Its text.
        target: String,
    },
    /// An empty directory.
    Directory,
}

/// All that an attempt left of its outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Sorted by path.
    pub entries: Vec<LeftEntry>,
    /// What is there and not kept, or was asked for and is not there, each with its reason.
    pub left_out: Vec<String>,
}

/// Depth of directories that is followed: the path of a deeper file no tool likes either.
const MAX_DEPTH: usize = 64;
/// Entries that are looked at: as many as may be kept, and as many again that may not.
const MAX_SEEN: usize = 4 * Outputs::MAX_FILES;

/// Looks for `outputs` below the directory in which the command started, which is `below` in `work`.
pub(crate) fn find((work, below): (&Path, &str), outputs: &Outputs) -> Left {
    let mut walk = Walk {
        limit_bytes: outputs.limit_bytes(),
        ..Walk::default()
    };
    match open_start(work, below) {
        Ok(root) => {
            for path in &outputs.paths {
                walk.take_path(&root, path);
            }
        }
        Err(error) => walk.leave_out(&format!("all of it ({error})")),
    }
    walk.finish()
}

/// Opens a file that [`find`] has found; nothing on the way to it may be a link.
///
/// # Errors
/// It is not there any more, or is something else by now.
pub(crate) fn open((work, below): (&Path, &str), path: &str) -> io::Result<File> {
    let (parent, name) = parent_of(&open_start(work, below)?, path)?;
    // Not to wait for the other end, should it be a pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(&parent, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(File::from(file))
}

/// The way to it may have had links from the beginning; what it leads to now is below `work`.
fn open_start(work: &Path, below: &str) -> io::Result<OwnedFd> {
    let work = work.canonicalize()?;
    let start = work.join(below).canonicalize()?;
    let way = start.strip_prefix(&work).map_err(io::Error::other)?;
    let mut directory = open_directory(CWD, &work)?;
    for part in way {
        directory = open_directory(&directory, part)?;
    }
    Ok(directory)
}

fn open_directory<F: std::os::fd::AsFd>(
    at: F,
    path: impl rustix::path::Arg,
) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

/// The directory in which the last part of a path is, and that part.
fn parent_of<'a>(root: &OwnedFd, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
    let mut parent = root.try_clone()?;
    let Some((directories, name)) = path.rsplit_once('/') else {
        return Ok((parent, path));
    };
    for part in directories.split('/') {
        parent = open_directory(&parent, part)?;
    }
    Ok((parent, name))
}

#[derive(Debug, Default)]
struct Walk {
    limit_bytes: u64,
    bytes: u64,
    seen: usize,
    entries: Vec<LeftEntry>,
    left_out: Vec<String>,
}

impl Walk {
    fn take_path(&mut self, root: &OwnedFd, path: &str) {
        match parent_of(root, path) {
            Ok((parent, name)) => self.take(&parent, name, path, 0),
            Err(error) => self.leave_out(&format!("{path} ({})", why(&error))),
        }
    }

    fn leave_out(&mut self, line: &str) {
        self.left_out.push(line.to_owned());
    }

    /// Takes what is called `name` in `parent`.
    fn take(&mut self, parent: &OwnedFd, name: &str, path: &str, depth: usize) {
        self.seen += 1;
        if self.seen > MAX_SEEN {
            return;
        }
        if let Err(error) = self.try_take(parent, name, path, depth) {
            self.leave_out(&format!("{path} ({})", why(&error)));
        }
    }

    fn try_take(
        &mut self,
        parent: &OwnedFd,
        name: &str,
        path: &str,
        depth: usize,
    ) -> io::Result<()> {
        let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => return self.take_directory(parent, name, path, depth),
            FileType::RegularFile => {
                let bytes = u64::try_from(found.st_size).unwrap_or(0);
                let sum = self.bytes.saturating_add(bytes);
                if sum > self.limit_bytes {
                    let (size, limit) = (Size(bytes), Size(self.limit_bytes));
                    self.leave_out(&format!("{path} ({size}): the outputs of an attempt may take {limit}, which --output-limit raises"));
                    return Ok(());
                }
                self.bytes = sum;
                let executable = found.st_mode & 0o111 != 0;
                LeftKind::File { bytes, executable }
            }
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new())?;
                let target = target.into_string().map_err(io::Error::other)?;
                LeftKind::Symlink { target }
            }
            _ => {
                self.leave_out(&format!("{path} (no file: a pipe, socket or device)"));
                return Ok(());
            }
        };
        self.keep(path, kind);
        Ok(())
    }

    fn take_directory(
        &mut self,
        parent: &OwnedFd,
        name: &str,
        path: &str,
        depth: usize,
    ) -> io::Result<()> {
        if depth >= MAX_DEPTH {
            self.leave_out(&format!("{path} (below {MAX_DEPTH} directories)"));
            return Ok(());
        }
        let directory = open_directory(parent, name)?;
        let mut names = BTreeSet::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) => drop(names.insert(name.to_owned())),
                Err(_not_text) => {
                    let name = entry.file_name().to_string_lossy();
                    self.leave_out(&format!("{path}/{name} (its name is not UTF-8)"));
                }
            }
            if names.len() > MAX_SEEN {
                break;
            }
        }
        if names.is_empty() {
            self.keep(path, LeftKind::Directory);
        }
        for name in names {
            self.take(&directory, &name, &format!("{path}/{name}"), depth + 1);
        }
        Ok(())
    }

    fn keep(&mut self, path: &str, kind: LeftKind) {
        let path = path.to_owned();
        self.entries.push(LeftEntry { path, kind });
    }

    fn finish(mut self) -> Left {
        self.entries.sort_by(|a, b| a.path.cmp(&b.path));
        self.drop_links_out();
        let over = self.entries.len().saturating_sub(Outputs::MAX_FILES);
        if over > 0 || self.seen > MAX_SEEN {
            self.entries.truncate(Outputs::MAX_FILES);
            let more = match self.seen > MAX_SEEN {
                true => "more".to_owned(),
                false => format!("{over} more"),
            };
            let most = Outputs::MAX_FILES;
            self.left_out.insert(
                0,
                format!(
                    "{more} files: an attempt may leave {most}; pack them into one, as with tar"
                ),
            );
        }
        Left {
            entries: self.entries,
            left_out: self.left_out,
        }
    }

    /// A link that leads anywhere else may lead anywhere on the machine that fetches it.
    fn drop_links_out(&mut self) {
        let link_of = |entry: &LeftEntry| match &entry.kind {
            LeftKind::Symlink { target } => Some(target.clone()),
            LeftKind::File { .. } | LeftKind::Directory => None,
        };
        let all = std::mem::take(&mut self.entries);
        let links = all.iter().filter(|entry| link_of(entry).is_some());
        let links: BTreeSet<&str> = links.map(|entry| entry.path.as_str()).collect();
        for entry in &all {
            match link_of(entry) {
                Some(target) if !link_stays_inside(&entry.path, &target, &links) => {
                    let path = &entry.path;
                    self.left_out
                        .push(format!("{path} (a link that leads out, to {target})"));
                }
                Some(_) | None => self.entries.push(entry.clone()),
            }
        }
    }
}

fn why(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => "it is not there".to_owned(),
        Some(Errno::LOOP | Errno::NOTDIR) => {
            "a link or a file is where a directory should be".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn outputs(paths: &[&str], max_bytes: u64) -> Outputs {
        Outputs {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            max_bytes,
        }
    }

    fn names(left: &Left) -> Vec<&str> {
        left.entries
            .iter()
            .map(|entry| entry.path.as_str())
            .collect()
    }

    #[test]
    fn files_links_and_empty_directories_are_found_in_order() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("out/empty")).unwrap();
        std::fs::write(at("out/model.pt"), b"weights").unwrap();
        std::fs::write(at("out/run.sh"), b"#!").unwrap();
        std::fs::set_permissions(at("out/run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
        symlink("model.pt", at("out/latest.pt")).unwrap();
        std::fs::write(at("log.txt"), b"log").unwrap();
        std::fs::write(at("other.txt"), b"not asked for").unwrap();
        let left = find((root.path(), ""), &outputs(&["out", "log.txt"], 0));
        let expected = [
            "log.txt",
            "out/empty",
            "out/latest.pt",
            "out/model.pt",
            "out/run.sh",
        ];
        assert_eq!(names(&left), expected);
        assert_eq!(left.left_out, Vec::<String>::new());
        let executable = |entry: &LeftEntry| {
            matches!(
                entry.kind,
                LeftKind::File {
                    executable: true,
                    ..
                }
            )
        };
        let found: Vec<_> = left.entries.iter().filter(|one| executable(one)).collect();
        assert_eq!(found[0].path, "out/run.sh");
        let mut text = String::new();
        let mut file = open((root.path(), ""), "out/model.pt").unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "weights");
    }

    #[test]
    fn nothing_is_taken_through_a_link() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |path: &str| root.path().join(path);
        std::fs::write(outside.path().join("secret"), b"secret").unwrap();
        symlink(outside.path(), at("door")).unwrap();
        std::fs::create_dir(at("out")).unwrap();
        symlink(outside.path().join("secret"), at("out/a")).unwrap();
        symlink("../../etc/passwd", at("out/b")).unwrap();
        std::fs::write(at("out/c"), b"kept").unwrap();
        let left = find(
            (root.path(), ""),
            &outputs(&["door", "door/secret", "out"], 0),
        );
        assert_eq!(names(&left), ["out/c"]);
        assert_eq!(left.left_out.len(), 4, "{:?}", left.left_out);
        for path in ["door/secret", "out/a", "out"] {
            assert!(open((root.path(), ""), path).is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_over_the_limit_is_named_and_the_rest_kept() {
        let root = tempfile::tempdir().unwrap();
        for (name, bytes) in [("a", 60_u64), ("b", 60), ("c", 40)] {
            let file = File::create(root.path().join(name)).unwrap();
            file.set_len(bytes << 10).unwrap();
        }
        let left = find(
            (root.path(), ""),
            &outputs(&["a", "b", "c", "d"], 100 << 10),
        );
        assert_eq!(names(&left), ["a", "c"]);
        let told = left.left_out.join("\n");
        assert!(
            told.contains("b (60 KiB)") && told.contains("--output-limit"),
            "{told}"
        );
        assert!(told.contains("d (it is not there)"), "{told}");
    }

    #[test]
    fn too_many_files_are_counted() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("out")).unwrap();
        for number in 0..Outputs::MAX_FILES + 5 {
            File::create(root.path().join(format!("out/{number}"))).unwrap();
        }
        let left = find((root.path(), ""), &outputs(&["out"], 0));
        assert_eq!(left.entries.len(), Outputs::MAX_FILES);
        assert!(
            left.left_out[0].starts_with("5 more files"),
            "{:?}",
            left.left_out
        );
    }

    #[test]
    fn a_pipe_holds_nobody_up() {
        let root = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(root.path().join("pipe"))
            .status();
        assert!(made.unwrap().success());
        let left = find((root.path(), ""), &outputs(&["pipe"], 0));
        assert_eq!((left.entries.len(), left.left_out.len()), (0, 1));
        assert!(open((root.path(), ""), "pipe").is_err());
    }
}
