use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use super::*;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn plain() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A git checkout with one commit of two files.
    fn checkout() -> Self {
        let place = Self::plain();
        place.git(&["init", "-q", "-b", "main"]);
        place.write("train.py", "print(1)");
        place.write("pkg/model.py", "x = 1");
        place.git(&["add", "."]);
        place.commit();
        place
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn git(&self, arguments: &[&str]) {
        let done = Command::new("git")
            .arg("-C")
            .arg(self.path())
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    fn commit(&self) {
        let who = [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "commit.gpgsign=false",
        ];
        self.git(&[&who[..], &["commit", "-q", "-m", "x"]].concat());
    }

    fn options(&self) -> CaptureOptions {
        CaptureOptions {
            directory: self.path().to_owned(),
            max_file_bytes: 256 << 20,
            max_tree_bytes: 2 << 30,
            cache_directory: None,
        }
    }

    fn capture(&self) -> Capture {
        capture(&self.options(), &Progress::hidden()).unwrap()
    }

    fn error(&self) -> Error {
        capture(&self.options(), &Progress::hidden()).unwrap_err()
    }
}

impl Capture {
    fn decoded(&self) -> (Vec<TreeEntry>, Option<GitFacts>) {
        let Content::Memory(bytes) = &self.blobs.last().unwrap().content else {
            panic!("the tree is in memory");
        };
        assert_eq!(BlobHash::of(bytes), self.tree);
        let SourceTree::V1 { entries, git } = types::codec::decode(bytes, 1 << 20).unwrap();
        (entries, git)
    }

    fn paths(&self) -> Vec<String> {
        self.decoded()
            .0
            .into_iter()
            .map(|entry| entry.path)
            .collect()
    }

    fn file(&self, path: &str) -> (BlobHash, bool) {
        let entries = self.decoded().0;
        let entry = entries.iter().find(|entry| entry.path == path).unwrap();
        match &entry.kind {
            TreeEntryKind::File {
                hash, executable, ..
            } => (*hash, *executable),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_clean_checkout_is_its_commit() {
    let place = Place::checkout();
    place.git(&[
        "remote",
        "add",
        "origin",
        "https://bob:secret@example.org/x.git",
    ]);
    let captured = place.capture();
    assert_eq!(captured.paths(), ["pkg/model.py", "train.py"]);
    assert_eq!((captured.files, captured.bytes), (2, 13));
    assert_eq!(captured.revision.len(), 40);
    assert_eq!(captured.remote, "https://example.org/x.git");
    let git = captured.decoded().1.unwrap();
    assert_eq!(
        (git.commit.as_str(), git.branch.as_str()),
        (captured.revision.as_str(), "main")
    );
    assert_eq!((git.diff, git.untracked.len()), (None, 0));
}

#[test]
fn a_detached_checkout_has_a_commit_and_no_branch() {
    let place = Place::checkout();
    place.git(&["checkout", "-q", "--detach"]);
    let git = place.capture().decoded().1.unwrap();
    assert_eq!((git.commit.len(), git.branch.as_str()), (40, ""));
}

#[test]
fn a_dirty_checkout_is_taken_as_it_lies_there() {
    let place = Place::checkout();
    place.write(".gitignore", "*.log\n");
    place.write("new.py", "new");
    place.write("out.log", "ignored");
    place.write("train.py", "print(2)");
    std::fs::remove_file(place.path().join("pkg/model.py")).unwrap();
    let captured = place.capture();
    assert_eq!(captured.paths(), [".gitignore", "new.py", "train.py"]);
    assert_eq!(captured.file("train.py").0, BlobHash::of(b"print(2)"));
    assert!(captured.revision.ends_with('+'));
    let git = captured.decoded().1.unwrap();
    assert_eq!(git.untracked, [".gitignore", "new.py"]);
    let diff = captured
        .blobs
        .iter()
        .find(|blob| Some(blob.hash) == git.diff)
        .unwrap();
    let Content::Memory(diff) = &diff.content else {
        panic!("the diff is in memory");
    };
    let diff = String::from_utf8_lossy(diff);
    assert!(
        diff.contains("-print(1)") && diff.contains("+print(2)"),
        "{diff}"
    );
    assert!(diff.contains("deleted file"), "{diff}");
}

#[test]
fn what_is_staged_is_not_what_lies_there() {
    let place = Place::checkout();
    place.write("train.py", "staged");
    place.git(&["add", "."]);
    place.write("train.py", "later");
    assert_eq!(place.capture().file("train.py").0, BlobHash::of(b"later"));
}

#[test]
fn a_sub_directory_is_kept_as_working_directory() {
    let place = Place::checkout();
    let mut options = place.options();
    options.directory = place.path().join("pkg");
    let captured = capture(&options, &Progress::hidden()).unwrap();
    assert_eq!(captured.working_directory, "pkg");
    assert_eq!(captured.paths(), ["pkg/model.py", "train.py"]);

    std::fs::create_dir(place.path().join("empty")).unwrap();
    options.directory = place.path().join("empty");
    let captured = capture(&options, &Progress::hidden()).unwrap();
    assert_eq!(captured.paths(), ["empty", "pkg/model.py", "train.py"]);
}

#[test]
fn a_checkout_without_commit_and_odd_names_are_taken() {
    let place = Place::plain();
    place.git(&["init", "-q"]);
    place.write("späte \"Läufe\"\n.py", "x");
    let captured = place.capture();
    assert_eq!(captured.paths(), ["späte \"Läufe\"\n.py"]);
    let git = captured.decoded().1.unwrap();
    assert_eq!((git.commit.as_str(), git.remote.as_str()), ("", ""));
}

#[test]
fn execute_bits_and_links_inside_are_kept() {
    let place = Place::checkout();
    let script = place.path().join("run.sh");
    place.write("run.sh", "x");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../run.sh", place.path().join("pkg/link")).unwrap();
    symlink("nowhere", place.path().join("dangling")).unwrap();
    let captured = place.capture();
    assert!(captured.file("run.sh").1);
    assert!(!captured.file("train.py").1);
    let entries = captured.decoded().0;
    let link = entries
        .iter()
        .find(|entry| entry.path == "pkg/link")
        .unwrap();
    let target = "../run.sh".to_owned();
    assert_eq!(link.kind, TreeEntryKind::Symlink { target });
}

#[test]
fn links_out_of_the_tree_are_refused_with_a_way_out() {
    for target in ["/etc/passwd", "../../outside"] {
        let place = Place::checkout();
        symlink(target, place.path().join("link")).unwrap();
        let error = place.error();
        assert!(matches!(error, Error::LinkLeavesTree { .. }), "{error}");
        assert!(error.hint().contains("/link in .musterignore"));
        place.write(".musterignore", "/link\n");
        place.capture();
    }
}

#[test]
fn a_link_that_leaves_through_another_link_is_refused() {
    let outside = Place::plain();
    outside.write("deep/x", "secret");
    let place = Place::plain();
    place.write("a/b/c", "x");
    // By its text it ends at a/x; through `in` it climbs from a/b to a, which is fine, and `out` leaves.
    symlink("b", place.path().join("a/in")).unwrap();
    place.capture();
    symlink(outside.path().join("deep"), place.path().join("out")).unwrap();
    symlink("out/x", place.path().join("through")).unwrap();
    place.write(".musterignore", "/out\n");
    assert!(matches!(place.error(), Error::LinkLeavesTree { path, .. } if path == "through"));
}

#[test]
fn a_file_over_the_limit_is_named_and_can_be_left_out_or_allowed() {
    let place = Place::checkout();
    let file = std::fs::File::create(place.path().join("big.bin")).unwrap();
    file.set_len(1 << 30).unwrap();
    let error = place.error();
    assert_eq!(
        error.to_string(),
        "big.bin has 1 GiB, over the limit of 256 MiB for one file of the source tree"
    );
    assert!(
        error.hint().contains("--max-file-size 1GiB"),
        "{}",
        error.hint()
    );
    place.write(".musterignore", "*.bin\n");
    assert_eq!(
        place.capture().paths(),
        [".musterignore", "pkg/model.py", "train.py"]
    );

    let mut options = place.options();
    options.max_tree_bytes = 10;
    let error = capture(&options, &Progress::hidden()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TreeTooLarge {
                size: 19,
                files: 3,
                ..
            }
        ),
        "{error}"
    );
    options.max_tree_bytes = 19;
    capture(&options, &Progress::hidden()).unwrap();
}

#[test]
fn what_is_left_out_is_not_in_the_diff_either() {
    let place = Place::checkout();
    place.write("secret.env", "old");
    place.git(&["add", "."]);
    place.commit();
    place.write("secret.env", "password");
    place.write("train.py", "print(2)");
    place.write(".musterignore", "*.env\n");
    let captured = place.capture();
    for blob in &captured.blobs {
        let bytes = match &blob.content {
            Content::Memory(bytes) => bytes.to_vec(),
            Content::File(path) => std::fs::read(path).unwrap(),
        };
        assert!(!String::from_utf8_lossy(&bytes).contains("password"));
    }
    assert!(captured.decoded().1.unwrap().diff.is_some());
}

#[test]
fn submodules_are_plain_files_without_what_they_ignore() {
    let library = Place::checkout();
    let place = Place::checkout();
    let url = library.path().to_str().unwrap();
    place.git(&[
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "add",
        "-q",
        url,
        "lib",
    ]);
    place.commit();
    place.write("lib/.gitignore", "*.o\n");
    place.write("lib/a.o", "ignored");
    let expected = [
        ".gitmodules",
        "lib/.gitignore",
        "lib/pkg/model.py",
        "lib/train.py",
        "pkg/model.py",
        "train.py",
    ];
    assert_eq!(place.capture().paths(), expected);
    place.git(&["submodule", "deinit", "-q", "-f", "lib"]);
    assert_eq!(
        place.capture().paths(),
        [".gitmodules", "lib", "pkg/model.py", "train.py"]
    );
}

#[test]
fn hooks_and_monitors_of_the_checkout_are_not_run() {
    let place = Place::checkout();
    let mark = place.path().join(".git/mark");
    let hook = place.path().join(".git/hook.sh");
    std::fs::write(&hook, format!("#!/bin/sh\ntouch '{}'\n", mark.display())).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    place.git(&["config", "core.fsmonitor", hook.to_str().unwrap()]);
    place.git(&["config", "diff.external", hook.to_str().unwrap()]);
    let hooks = place.path().join(".git/hooks/post-index-change");
    std::fs::create_dir_all(hooks.parent().unwrap()).unwrap();
    std::fs::copy(&hook, hooks).unwrap();
    place.write("train.py", "print(2)");
    let captured = place.capture();
    assert!(captured.decoded().1.unwrap().diff.is_some());
    assert!(!mark.exists());
}

#[test]
fn a_plain_directory_is_walked() {
    let place = Place::plain();
    place.write("a/b.txt", "b");
    place.write("c.txt", "c");
    place.write("cache/x", "x");
    place.write("nested/.git/config", "x");
    place.write("nested/code.py", "x");
    std::fs::create_dir(place.path().join("out")).unwrap();
    place.write(".musterignore", "cache/\n");
    let captured = place.capture();
    assert_eq!(
        captured.paths(),
        [".musterignore", "a/b.txt", "c.txt", "nested/code.py", "out"]
    );
    assert_eq!(
        (captured.revision.as_str(), captured.decoded().1),
        ("", None)
    );
    assert_eq!(
        captured.tree,
        place.capture().tree,
        "the same code has the same name"
    );
}

#[test]
fn sockets_are_left_out_with_a_word() {
    let place = Place::plain();
    let _listener = std::os::unix::net::UnixListener::bind(place.path().join("s.sock")).unwrap();
    let captured = place.capture();
    assert!(captured.paths().is_empty());
    assert!(
        captured.warnings[0].contains("s.sock"),
        "{:?}",
        captured.warnings
    );
}

#[test]
fn a_name_that_is_not_utf8_is_refused_unless_left_out() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::plain();
    let name = std::ffi::OsStr::from_bytes(b"bad\xff.txt");
    std::fs::write(place.path().join(name), "x").unwrap();
    assert!(matches!(place.error(), Error::BadPath { .. }));
    place.write(".musterignore", "bad*\n");
    place.capture();
}

#[test]
fn the_cache_knows_settled_files_and_notices_changes() {
    let place = Place::plain();
    let cache = Place::plain();
    let mut options = place.options();
    options.cache_directory = Some(cache.path().to_owned());
    place.write("old.py", "1");
    let trees = cache.path().join("muster/trees");
    let first = capture(&options, &Progress::hidden()).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3_600);
    let file = std::fs::File::options()
        .write(true)
        .open(place.path().join("old.py"))
        .unwrap();
    file.set_modified(long_ago).unwrap();
    // Its kernel time is new, so it is not yet trusted.
    capture(&options, &Progress::hidden()).unwrap();
    assert!(!trees.exists());

    let root = place.path().canonicalize().unwrap();
    let stat = entries::FileStat::of(&std::fs::metadata(root.join("old.py")).unwrap());
    let mut known = StatCache::load(options.cache_directory.as_deref(), &root);
    let planted = BlobHash::of(b"planted");
    known.remember("old.py", stat, planted);
    assert_eq!(known.save(), None);
    let second = capture(&options, &Progress::hidden()).unwrap();
    assert_eq!(
        second.file("old.py").0,
        planted,
        "an unchanged file is not read"
    );

    place.write("old.py", "2");
    let third = capture(&options, &Progress::hidden()).unwrap();
    assert_eq!(third.file("old.py").0, BlobHash::of(b"2"));
    assert_ne!(first.tree, third.tree);

    let damaged = std::fs::read_dir(&trees)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(damaged, "nonsense").unwrap();
    assert_eq!(
        capture(&options, &Progress::hidden()).unwrap().tree,
        third.tree
    );
}
