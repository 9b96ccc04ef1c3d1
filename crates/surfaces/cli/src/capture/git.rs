//! What git says about a checkout. git is run by its arguments, without hooks, filesystem monitor or locks.

mod command;
mod remote;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use types::MAX_TREE_ENTRIES;

use super::ignore::IgnoreRules;
use super::listing::{ListedPath, Listing, join};
use super::walk;
use crate::error::Error;
use command::git;
use remote::without_credentials;

/// Most bytes of a listing: the file limit at generous path lengths.
const LISTING_LIMIT_BYTES: u64 = 64 << 20;
/// Most bytes of a short answer.
const ANSWER_LIMIT_BYTES: u64 = 1 << 20;
/// Deepest submodule in a submodule; beyond, something is wrong.
const SUBMODULE_DEPTH: usize = 16;
/// git's mode of a submodule.
const SUBMODULE_MODE: &[u8] = b"160000";

/// A git checkout.
#[derive(Debug)]
pub(super) struct Checkout {
    root: PathBuf,
}

/// Where the checkout stands and how it differs from there.
#[derive(Debug)]
pub(super) struct Changes {
    /// Full hash; empty before the first commit.
    pub(super) commit: String,
    /// Empty if detached.
    pub(super) branch: String,
    /// Without credentials; empty if none.
    pub(super) remote: String,
    /// `git diff HEAD --binary`.
    pub(super) diff: Bytes,
}

impl Checkout {
    /// The checkout that `directory` is in.
    pub(super) fn around(directory: &Path) -> Option<Self> {
        let root = directory
            .ancestors()
            .find(|path| path.join(".git").exists())?;
        Some(Self {
            root: root.to_owned(),
        })
    }

    /// Its top directory.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Lists tracked files, and untracked ones that git does not ignore; submodules as plain files.
    pub(super) fn list(&self) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        self.list_below(&[], 0, &mut listing)?;
        Ok(listing)
    }

    fn list_below(&self, prefix: &[u8], depth: usize, listing: &mut Listing) -> Result<(), Error> {
        let directory = self.root.join(std::ffi::OsStr::from_bytes(prefix));
        let arguments = [
            "ls-files",
            "-z",
            "-t",
            "-s",
            "--cached",
            "--others",
            "--exclude-standard",
        ];
        let output = git(&directory, &arguments, LISTING_LIMIT_BYTES)?;
        for record in output.split(|&byte| byte == 0) {
            let Some(listed) = read_record(record) else {
                continue;
            };
            let path = join(prefix, listed.path);
            if listed.is_repository {
                self.list_repository(path, listed.untracked, depth, listing)?;
            } else {
                if listing.paths.len() >= MAX_TREE_ENTRIES {
                    return Err(Error::TooManyFiles {
                        limit: MAX_TREE_ENTRIES,
                    });
                }
                listing.paths.push(ListedPath {
                    bytes: path,
                    untracked: listed.untracked,
                });
            }
        }
        Ok(())
    }

    /// A submodule, or a repository that lies in this one without being its submodule.
    fn list_repository(
        &self,
        path: Vec<u8>,
        untracked: bool,
        depth: usize,
        listing: &mut Listing,
    ) -> Result<(), Error> {
        let directory = self.root.join(std::ffi::OsStr::from_bytes(&path));
        if directory.join(".git").exists() && depth < SUBMODULE_DEPTH {
            return self.list_below(&path, depth + 1, listing);
        }
        if directory.is_dir() {
            // Not checked out: an empty directory. Files in it are nobody's but the user's.
            walk::walk_below(
                &self.root,
                path,
                untracked,
                &IgnoreRules::default(),
                listing,
            )?;
        }
        Ok(())
    }

    /// Where the checkout stands, and how what `rules` keep differs from there.
    ///
    /// # Errors
    /// git fails, or the difference is over `limit` bytes.
    pub(super) fn changes(&self, rules: &IgnoreRules, limit: u64) -> Result<Changes, Error> {
        let root = &self.root;
        let (head, remotes, diff) = std::thread::scope(|scope| {
            let head = scope.spawn(|| self.head());
            let remotes = scope.spawn(|| {
                let urls = ["config", "-z", "--get-regexp", r"^remote\..*\.url$"];
                // git fails without a word where there is no remote.
                unless_silent(git(root, &urls, ANSWER_LIMIT_BYTES))
            });
            let diff = self.diff(rules, limit);
            let [head, remotes] =
                [head, remotes].map(|thread| thread.join().expect("git's threads do not panic"));
            (head, remotes, diff)
        });
        let (head, remotes) = (head?, remotes?);
        let remote = remote::preferred(&remotes).map(without_credentials);
        // Before the first commit there is nothing to differ from, and no difference is to be had.
        let diff = match head.is_empty() {
            true => Vec::new(),
            false => diff?,
        };
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.lines();
        let commit = lines.next().unwrap_or_default().to_owned();
        let branch = lines
            .next()
            .and_then(|name| name.strip_prefix("refs/heads/"));
        Ok(Changes {
            commit,
            branch: branch.unwrap_or_default().to_owned(),
            remote: remote.unwrap_or_default(),
            diff: diff.into(),
        })
    }

    /// The commit and, on a second line, the full name of the branch; empty before the first commit.
    fn head(&self) -> Result<Vec<u8>, Error> {
        let both = ["rev-parse", "HEAD", "--symbolic-full-name", "HEAD"];
        let error = match git(&self.root, &both, ANSWER_LIMIT_BYTES) {
            Ok(lines) => return Ok(lines),
            Err(error) => error,
        };
        let commit = ["rev-parse", "--verify", "--quiet", "HEAD"];
        match unless_silent(git(&self.root, &commit, ANSWER_LIMIT_BYTES))? {
            none if none.is_empty() => Ok(none),
            _ => Err(error),
        }
    }

    fn diff(&self, rules: &IgnoreRules, limit: u64) -> Result<Vec<u8>, Error> {
        let mut arguments: Vec<Vec<u8>> = [
            "diff",
            "HEAD",
            "--binary",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--src-prefix=a/",
            "--dst-prefix=b/",
            "--submodule=short",
            "--",
            ".",
        ]
        .map(|argument| argument.as_bytes().to_vec())
        .to_vec();
        if !rules.is_empty() {
            let names = [
                "diff",
                "HEAD",
                "--name-only",
                "--no-renames",
                "-z",
                "--no-ext-diff",
            ];
            let names = git(&self.root, &names, LISTING_LIMIT_BYTES)?;
            for name in names
                .split(|&byte| byte == 0)
                .filter(|name| !name.is_empty())
            {
                if rules.leave_out(&String::from_utf8_lossy(name), false) {
                    arguments.push([b":(top,exclude,literal)", name].concat());
                }
            }
        }
        let arguments: Vec<&std::ffi::OsStr> = arguments
            .iter()
            .map(|argument| std::ffi::OsStr::from_bytes(argument))
            .collect();
        git(&self.root, &arguments, limit)
    }
}

/// git's exit without a word means "none".
fn unless_silent(answer: Result<Vec<u8>, Error>) -> Result<Vec<u8>, Error> {
    match answer {
        Err(Error::Git { message, .. }) if message.is_empty() => Ok(Vec::new()),
        other => other,
    }
}

/// A record of `git ls-files -z -t -s`.
struct Listed<'a> {
    path: &'a [u8],
    untracked: bool,
    is_repository: bool,
}

/// `H 100644 <hash> 0\t<path>` for what is tracked, `? <path>` for what is not.
fn read_record(record: &[u8]) -> Option<Listed<'_>> {
    let (tag, rest) = record.split_at_checked(2)?;
    if tag == b"? " {
        let directory = rest.strip_suffix(b"/");
        return Some(Listed {
            path: directory.unwrap_or(rest),
            untracked: true,
            is_repository: directory.is_some(),
        });
    }
    let tab = rest.iter().position(|&byte| byte == b'\t')?;
    Some(Listed {
        path: &rest[tab + 1..],
        untracked: false,
        is_repository: rest.starts_with(SUBMODULE_MODE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_git_are_read() {
        let tracked = read_record(b"H 100644 0123 0\ta b/c\td").unwrap();
        assert_eq!((tracked.path, tracked.untracked), (&b"a b/c\td"[..], false));
        assert!(read_record(b"H 160000 0123 0\tsub").unwrap().is_repository);
        let other = read_record(b"? nested/").unwrap();
        assert_eq!(other.path, b"nested");
        assert!(other.untracked && other.is_repository);
        assert!(read_record(b"").is_none());
    }
}
