//! Whose child a process is.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use crate::OwnTree;

/// Generations that are followed: more than any sane tree has, and an end if ids are reused while they are read.
const MAX_GENERATIONS: usize = 256;

/// Finds the attempts of processes; what was read of `/proc` is good for one sample.
#[derive(Debug)]
pub(super) struct Lineage<'trees> {
    /// Attempts by the id of their root.
    trees: BTreeMap<u32, &'trees str>,
    read: BTreeMap<u32, Option<Process>>,
    /// Login names by user id.
    users: BTreeMap<u32, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    name: String,
    parent: u32,
}

impl<'trees> Lineage<'trees> {
    pub(super) fn new(trees: &'trees [OwnTree]) -> Self {
        let trees = trees.iter();
        Self {
            trees: trees
                .map(|tree| (tree.root_pid, tree.attempt.as_str()))
                .collect(),
            read: BTreeMap::new(),
            users: BTreeMap::new(),
        }
    }

    /// The attempt whose tree the process is in.
    pub(super) fn attempt(&mut self, pid: u32) -> Option<&'trees str> {
        let mut pid = pid;
        for _generation in 0..MAX_GENERATIONS {
            if let Some(attempt) = self.trees.get(&pid) {
                return Some(attempt);
            }
            pid = self.process(pid)?.parent;
        }
        None
    }

    /// Its program, as the kernel has it.
    pub(super) fn name(&mut self, pid: u32) -> Option<String> {
        self.process(pid).map(|process| process.name.clone())
    }

    /// The login name of whom it runs as, or the number where this machine has none for it.
    pub(super) fn user(&mut self, pid: u32) -> Option<String> {
        let id = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid(); // It is gone, or of another container.
        if self.users.is_empty() {
            // Without a directory server, which might not answer.
            let entries = std::fs::read("/etc/passwd").unwrap_or_default();
            self.users = users(&String::from_utf8_lossy(&entries));
        }
        let name = self.users.get(&id).cloned();
        Some(name.unwrap_or_else(|| id.to_string()))
    }

    fn process(&mut self, pid: u32) -> Option<&Process> {
        let read = || {
            // It is gone, or of another container.
            let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
            parse(&String::from_utf8_lossy(&stat))
        };
        self.read.entry(pid).or_insert_with(read).as_ref()
    }
}

/// `4711 (name) S 1 …`; the name may have spaces and brackets (`man 5 proc_pid_stat`).
fn parse(stat: &str) -> Option<Process> {
    let (_pid, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    let parent = rest.split_ascii_whitespace().nth(1)?;
    Some(Process {
        name: name.to_owned(),
        parent: parent.parse().ok()?, // The kernel writes a number.
    })
}

/// `name:password:id:…` in each line (`man 5 passwd`); of two with one id the first counts.
fn users(passwd: &str) -> BTreeMap<u32, String> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name)) // Not an entry: it names nobody.
    };
    passwd.lines().rev().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_may_look_like_anything() {
        let read = parse("7 (a) b (c)) S 3 7 7 0").unwrap();
        assert_eq!((read.name.as_str(), read.parent), ("a) b (c)", 3));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn users_are_called_by_the_first_name_of_their_id() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\n# none\nann:x:1000:1000::/:\nbea:x:1000:1000::/:\n";
        let known = users(passwd);
        assert_eq!(known.get(&0).map(String::as_str), Some("root"));
        assert_eq!(known.get(&1_000).map(String::as_str), Some("ann"));
        assert_eq!(known.len(), 2);
        let own = Lineage::new(&[]).user(std::process::id());
        assert!(own.is_some_and(|name| !name.is_empty()));
    }

    #[test]
    fn this_process_belongs_to_the_tree_of_its_parent_and_not_to_another() {
        let tree = |attempt: &str, root_pid| OwnTree {
            attempt: attempt.to_owned(),
            root_pid,
        };
        let parent = std::os::unix::process::parent_id();
        let trees = [tree("other", u32::MAX), tree("mine", parent)];
        let mut lineage = Lineage::new(&trees);
        assert_eq!(lineage.attempt(std::process::id()), Some("mine"));
        assert_eq!(lineage.attempt(u32::MAX - 1), None, "there is none");
        assert!(lineage.name(std::process::id()).is_some());
    }
}
