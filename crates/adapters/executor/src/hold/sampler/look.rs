//! One look at a tree: counters as cgroups and `/proc` have them.

use std::io;

use crate::cgroup::JobCgroups;
use crate::process_tree::{self, Process};
use crate::process_use::{
    NetworkCounters, Transferred, disk_bytes, network_bytes, reaped_disk_bytes,
};

/// What a look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Processor time since the start.
    pub(super) cpu_ms: u64,
    /// Memory now.
    pub(super) memory_bytes: u64,
    pub(super) processes: u32,
    pub(super) threads: u32,
    /// Since the start.
    pub(super) disk: Option<Transferred>,
    pub(super) network: Option<NetworkCounters>,
}

/// Looks at the cgroups, and at `/proc` for what they do not count. Who is in the tree the cgroups tell if they can: the
/// cost is then that of the tree, else that of a walk over all processes of the machine.
pub(super) fn look(cgroups: &JobCgroups) -> io::Result<Look> {
    // None inside means that they could not be moved in.
    let members = cgroups.members().filter(|members| !members.is_empty());
    match members {
        Some(members) => Ok(look_at(&members, cgroups)),
        None => Ok(sum(
            &process_tree::descendants(std::process::id())?,
            cgroups,
        )),
    }
}

/// The same where the processes are known.
pub(super) fn look_at(members: &[u32], cgroups: &JobCgroups) -> Look {
    let tree: Vec<Process> = members
        .iter()
        .filter_map(|pid| process_tree::read(*pid))
        .collect();
    sum(&tree, cgroups)
}

fn sum(tree: &[Process], cgroups: &JobCgroups) -> Look {
    let pids: Vec<u32> = tree.iter().map(|process| process.pid).collect();
    let resident = || tree.iter().map(|process| process.resident_bytes).sum();
    let counted = || tree.iter().map(|process| process.cpu_ms).sum::<u64>() + reaped_cpu_ms();
    let threads: u32 = tree.iter().map(|process| process.threads).sum();
    Look {
        cpu_ms: cgroups.cpu_ms().unwrap_or_else(counted),
        memory_bytes: cgroups.memory().unwrap_or_else(resident),
        processes: u32::try_from(tree.len()).unwrap_or(u32::MAX),
        threads,
        disk: disk(&pids),
        network: network_bytes(&pids),
    }
}

/// What is left to look at when the tree is gone: its own network namespaces are gone with it, the host's is there.
pub(super) fn look_back(cgroups: &JobCgroups) -> Look {
    Look {
        cpu_ms: cgroups.cpu_ms().unwrap_or_else(reaped_cpu_ms),
        disk: reaped_disk_bytes(),
        network: network_bytes(&[]),
        ..Look::default()
    }
}

fn disk(pids: &[u32]) -> Option<Transferred> {
    let mut sum = reaped_disk_bytes()?;
    for pid in pids {
        // One that may not be looked at is missing from the sum until it is waited for.
        sum = sum.plus(disk_bytes(*pid).unwrap_or_default());
    }
    Some(sum)
}

/// Processor time of the children that this process waited for, and of theirs.
fn reaped_cpu_ms() -> u64 {
    // Own time is in it too: a holder uses next to none.
    process_tree::read(std::process::id()).map_or(0, |own| own.cpu_ms)
}
