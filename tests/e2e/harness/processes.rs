//! Processes as `/proc` shows them, and an end to those that belong to a machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::talk::{entries, read_lossy};
use super::{PATIENCE, pause};

/// How deep below the root of a hierarchy a node's own cgroup is looked for.
const CGROUP_DEPTH: u32 = 6;

/// What `/proc` tells about a process.
pub(crate) struct ProcessFacts {
    environment: Vec<u8>,
    directory: PathBuf,
    pub(crate) arguments: String,
}

impl ProcessFacts {
    fn read(pid: Pid) -> Self {
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_pid()));
        // Gone or not ours to look at: nothing.
        Self {
            environment: fs::read(proc.join("environ")).unwrap_or_default(),
            directory: fs::read_link(proc.join("cwd")).unwrap_or_default(),
            arguments: read_lossy(&proc.join("cmdline")).replace('\0', " "),
        }
    }

    /// Whether its home or its working directory lies in `directory`: so it is with every process of a machine.
    pub(crate) fn belongs_below(&self, directory: &Path) -> bool {
        let mut variables = self.environment.split(|byte| *byte == 0);
        let home = variables.find_map(|one| one.strip_prefix(b"HOME="));
        let home = PathBuf::from(String::from_utf8_lossy(home.unwrap_or_default()).as_ref());
        home.starts_with(directory) || self.directory.starts_with(directory)
    }
}

/// The living processes for which `wanted` holds. The dead that wait for their parent tell nothing any more.
pub(crate) fn processes_whose(wanted: impl Fn(&ProcessFacts) -> bool) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()); // others are no processes
    numbers
        .filter_map(Pid::from_raw)
        .filter(|pid| wanted(&ProcessFacts::read(*pid)))
        .collect()
}

/// Signals the processes for which `wanted` holds; says whether there were any.
pub(super) fn signal_all(signal: Signal, wanted: impl Fn(&ProcessFacts) -> bool) -> bool {
    let found = processes_whose(&wanted);
    for pid in &found {
        // The handle is taken before the look: what is signalled is what was looked at, not a later process of this number.
        let Ok(handle) = pidfd_open(*pid, PidfdFlags::empty()) else {
            continue;
        };
        if wanted(&ProcessFacts::read(*pid)) {
            match pidfd_send_signal(handle, signal) {
                Ok(()) | Err(_) => {} // An error means that it is gone.
            }
        }
    }
    !found.is_empty()
}

/// Kills them until none is left, since one may be making another meanwhile; false if some cannot be killed.
pub(super) fn end_all(wanted: impl Fn(&ProcessFacts) -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while signal_all(Signal::KILL, &wanted) {
        if Instant::now() > deadline {
            return false;
        }
        pause();
    }
    true
}

/// Removes the cgroups of attempts whose holders were killed; a node that ends in order does it itself.
pub(super) fn remove_cgroups(lab: &Path) {
    let names: Vec<String> = entries(lab)
        .iter()
        .flat_map(|machine| entries(&machine.join("data/attempts")))
        .filter_map(|attempt| Some(attempt.file_name()?.to_str()?.to_owned())) // ours are text
        .collect();
    let mut directories = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = directories.pop() {
        let name = directory.to_string_lossy();
        if names
            .iter()
            .any(|attempt| name.ends_with(&format!("-{attempt}")))
        {
            // An error leaves an empty directory behind, which harms nobody.
            drop(fs::remove_dir(&directory));
        } else if depth < CGROUP_DEPTH && directory.is_dir() {
            directories.extend(
                entries(&directory)
                    .into_iter()
                    .map(|below| (below, depth + 1)),
            );
        }
    }
}
