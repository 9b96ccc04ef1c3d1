//! Paths that may belong to the tree, before they are looked at.

/// Paths that may belong to the tree.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// In any order; the same path may come twice.
    pub(super) paths: Vec<ListedPath>,
}

/// A path below the root, `/`-separated, as the file system has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListedPath {
    /// The bytes, which need not be UTF-8.
    pub(super) bytes: Vec<u8>,
    /// In a git checkout, and git does not track it.
    pub(super) untracked: bool,
}

/// A path below `prefix`, which is empty for the root.
pub(super) fn join(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    match prefix {
        [] => name.to_vec(),
        _ => [prefix, b"/", name].concat(),
    }
}
