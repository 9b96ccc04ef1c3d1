//! What `/proc` counts for a process: bytes to and from disks, bytes over the network of its namespace.
//!
//! Each returns none for a process that is gone, for one that may not be looked at, and where the kernel counts nothing:
//! processes end while they are looked at, so none is no error.

use std::collections::BTreeSet;

use crate::process_tree;

/// Bytes in both directions since a beginning that does not matter: only differences do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transferred {
    /// Read or received.
    pub(crate) inward: u64,
    /// Written or sent.
    pub(crate) outward: u64,
}

impl Transferred {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            inward: self.inward.saturating_add(other.inward),
            outward: self.outward.saturating_add(other.outward),
        }
    }

    /// What came since `before`; nothing where a counter fell.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            inward: self.inward.saturating_sub(before.inward),
            outward: self.outward.saturating_sub(before.outward),
        }
    }

    /// The larger of each direction.
    pub(crate) fn at_least(self, other: Self) -> Self {
        Self {
            inward: self.inward.max(other.inward),
            outward: self.outward.max(other.outward),
        }
    }
}

/// Disk bytes of a process and of the children that it waited for, as the kernel adds them up (`wait_task_zombie` in
/// kernel/exit.c).
pub(crate) fn disk_bytes(pid: u32) -> Option<Transferred> {
    read_disk(&format!("/proc/{pid}/io"))
}

/// Disk bytes of the children that this process waited for, and of theirs, without its own.
pub(crate) fn reaped_disk_bytes() -> Option<Transferred> {
    let whole = read_disk("/proc/self/io")?;
    // Read after the whole: what a thread writes meanwhile makes this less for a moment, never more.
    let mut own = Transferred::default();
    for thread in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
        let path = thread.path().join("io");
        own = own.plus(read_disk(path.to_str()?).unwrap_or_default());
    }
    Some(whole.since(own))
}

fn read_disk(path: &str) -> Option<Transferred> {
    // As the module says.
    let text = std::fs::read_to_string(path).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some(Transferred {
        inward: field("read_bytes:")?,
        outward: field("write_bytes:")?,
    })
}

/// Counters of network interfaces, and whose they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkCounters {
    /// The namespaces that are counted, by what their links in `/proc` say; none is this process's own, the host's.
    pub(crate) own_namespaces: Option<BTreeSet<String>>,
    pub(crate) bytes: Transferred,
}

/// Network bytes of the processes `pids` if they are all in namespaces of their own, else of this process's namespace.
pub(crate) fn network_bytes(pids: &[u32]) -> Option<NetworkCounters> {
    let host = namespace("self")?;
    let mut namespaces = BTreeSet::new();
    let mut members = Vec::new();
    for pid in pids {
        let found = namespace(&pid.to_string());
        let Some(found) = found.filter(|found| *found != host) else {
            // A process that may not be looked at counts as one of the host's: nothing is claimed for the attempt.
            if process_tree::read(*pid).is_some_and(|process| !process.zombie) {
                members.clear();
                break;
            }
            continue;
        };
        if namespaces.insert(found) {
            members.push(*pid);
        }
    }
    let bytes = |who: &str, cards: &[String]| {
        let text = std::fs::read_to_string(format!("/proc/{who}/net/dev")).ok()?; // as the module says
        parse_interfaces(&text, cards)
    };
    if members.is_empty() {
        return Some(NetworkCounters {
            own_namespaces: None,
            bytes: bytes("self", &cards())?,
        });
    }
    let mut sum = Transferred::default();
    for pid in members {
        sum = sum.plus(bytes(&pid.to_string(), &[])?);
    }
    Some(NetworkCounters {
        own_namespaces: Some(namespaces),
        bytes: sum,
    })
}

fn namespace(who: &str) -> Option<String> {
    // As the module says.
    let link = std::fs::read_link(format!("/proc/{who}/ns/net")).ok()?;
    link.to_str().map(str::to_owned)
}

/// Interfaces of the host with a device: bridges, bonds and the ends of containers carry what these carry once more.
fn cards() -> Vec<String> {
    let Ok(directory) = std::fs::read_dir("/sys/class/net") else {
        return Vec::new();
    };
    let interfaces = directory.flatten();
    interfaces
        .filter(|interface| interface.path().join("device").exists())
        .filter_map(|interface| interface.file_name().into_string().ok())
        .collect()
}

/// Sums `/proc/net/dev` over these cards, or over all but loopback if there are none: two lines of heads, then
/// `name: received … sent …`.
fn parse_interfaces(text: &str, cards: &[String]) -> Option<Transferred> {
    let mut sum = Transferred::default();
    for line in text.lines().skip(2) {
        let (name, counters) = line.split_once(':')?;
        let name = name.trim();
        if name == "lo" || !cards.is_empty() && !cards.iter().any(|card| card == name) {
            continue;
        }
        let mut counters = counters.split_ascii_whitespace();
        let inward = counters.next()?.parse().ok()?;
        // Eight counters of each direction, bytes first (proc_pid_net(5)).
        let outward = counters.nth(7)?.parse().ok()?;
        sum = sum.plus(Transferred { inward, outward });
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_not_the_network() {
        let text = "Inter-|   Receive |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets
    lo: 3621195812 5379422 0 0 0 0 0 0 3621195812 5379422 0 0 0 0 0 0
  eth0:    1000 1 0 0 0 0 0 0 30 1 0 0 0 0 0 0
  eth1:2000 1 0 0 0 0 0 0 4 1 0 0 0 0 0 0
";
        let expected = Transferred {
            inward: 3_000,
            outward: 34,
        };
        assert_eq!(parse_interfaces(text, &[]), Some(expected));
        let card = Transferred {
            inward: 1_000,
            outward: 30,
        };
        assert_eq!(parse_interfaces(text, &["eth0".to_owned()]), Some(card));
        assert_eq!(parse_interfaces("a\nb\n eth0: 1 2", &[]), None);
    }

    #[test]
    fn a_process_of_this_namespace_is_told_the_hosts_bytes() {
        let found = network_bytes(&[std::process::id()]).unwrap();
        assert_eq!(found.own_namespaces, None);
        assert!(disk_bytes(std::process::id()).is_some());
    }
}

/// Reads text as `/proc/<pid>/net/dev`, in which a job with a namespace of its own may have named the interfaces.
#[cfg(fuzzing)]
pub(crate) fn fuzz(text: &str) {
    parse_interfaces(text, &[]);
}
