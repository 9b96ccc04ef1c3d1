//! Whose child a process is.

use std::collections::BTreeMap;

use crate::OwnTree;

/// Generations that are followed: more than any sane tree has, and an end if ids are reused while they are read.
const MAX_GENERATIONS: usize = 256;

/// Finds the attempts of processes; what was read of `/proc` is good for one sample.
#[derive(Debug)]
pub(super) struct Lineage<'trees> {
    /// Attempts by the id of their root.
    trees: BTreeMap<u32, &'trees str>,
    read: BTreeMap<u32, Option<Process>>,
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
    fn this_process_belongs_to_the_tree_of_its_parent_and_not_to_another() {
        let tree = |attempt: &str, root_pid| OwnTree {
            attempt: attempt.to_owned(),
            root_pid,
        };
        let parent = std::os::unix::process::parent_id();
        let trees = [tree("other", u32::MAX), tree("mine", parent)];
        let mut lineage = Lineage::new(&trees);
        assert_eq!(lineage.attempt(std::process::id()), Some("mine"));
        assert_eq!(lineage.attempt(1), None);
        assert_eq!(lineage.attempt(u32::MAX - 1), None, "there is none");
        assert!(lineage.name(std::process::id()).is_some());
    }
}
