//! Processes as `/proc` tells: who descends from whom, and signals that cannot hit a stranger.

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Ticks per second of the times in `/proc/<pid>/stat`: `USER_HZ`, 100 on every Linux that Rust supports (proc(5)).
const TICKS_PER_SECOND: u64 = 100;
/// `AT_PAGESZ` in the auxiliary vector (getauxval(3)).
const AUXILIARY_PAGE_SIZE: u64 = 6;

/// Bytes of a page, for the resident size in `/proc/<pid>/stat`.
fn page_bytes() -> u64 {
    static PAGE_BYTES: OnceLock<u64> = OnceLock::new();
    *PAGE_BYTES.get_or_init(|| {
        // Not readable: the page size of nearly every machine.
        let auxiliary = std::fs::read("/proc/self/auxv").unwrap_or_default();
        let (words, _rest) = auxiliary.as_chunks::<8>();
        let (pairs, _rest) = words.as_chunks::<2>();
        pairs
            .iter()
            .map(|[name, value]| (u64::from_ne_bytes(*name), u64::from_ne_bytes(*value)))
            .find_map(|(name, value)| (name == AUXILIARY_PAGE_SIZE).then_some(value))
            .unwrap_or(4_096)
    })
}

/// One process, as it was when `/proc` was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) name: String,
    /// Clock ticks after boot: with the pid, names a process for ever.
    pub(crate) start_ticks: u64,
    /// Own processor time and that of children it waited for.
    pub(crate) cpu_ms: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) threads: u32,
    /// Dead and not waited for.
    pub(crate) zombie: bool,
}

/// Reads one process; none if it is gone.
pub(crate) fn read(pid: u32) -> Option<Process> {
    // Not readable means gone: processes end while they are looked at.
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(pid, &String::from_utf8_lossy(&stat))
}

fn parse_stat(pid: u32, stat: &str) -> Option<Process> {
    let (_pid, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Field numbers of proc(5), less the three that came before.
    let number = |index: usize| fields.get(index - 3)?.parse::<u64>().ok();
    let ticks = [number(14)?, number(15)?, number(16)?, number(17)?]
        .into_iter()
        .fold(0, u64::saturating_add);
    Some(Process {
        pid,
        parent: u32::try_from(number(4)?).ok()?, // a pid always fits
        name: name.to_owned(),
        start_ticks: number(22)?,
        cpu_ms: ticks.saturating_mul(1_000) / TICKS_PER_SECOND,
        resident_bytes: number(24)?.saturating_mul(page_bytes()),
        threads: u32::try_from(number(20)?).ok()?, // bounded by the pids
        zombie: *fields.first()? == "Z",
    })
}

fn all() -> io::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        processes.extend(pid.and_then(read));
    }
    Ok(processes)
}

/// All living processes below `root`. Complete if `root` is a child subreaper: then whoever loses its
/// parent becomes its child, whatever session or group it made for itself.
pub(crate) fn descendants(root: u32) -> io::Result<Vec<Process>> {
    let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
    for process in all()? {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            parents.push(child.pid);
            found.push(child);
        }
    }
    found.retain(|process| !process.zombie);
    Ok(found)
}

/// All processes whose environment held `variable` (`NAME=value`) when they started: what is left of an
/// attempt whose holder is gone.
pub(crate) fn with_variable(variable: &str) -> io::Result<Vec<Process>> {
    let mut found = all()?;
    found.retain(|process| {
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid));
        // Not readable: another user's or gone, so none of ours.
        environment.is_ok_and(|bytes| {
            bytes
                .split(|&byte| byte == 0)
                .any(|entry| entry == variable.as_bytes())
        })
    });
    Ok(found)
}

/// Sends `signal` to the very process that was read, never to another that got its number. False if it is gone.
pub(crate) fn signal(process: &Process, signal: Signal) -> io::Result<bool> {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
        return Ok(false);
    };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    // The pidfd holds the number: if the start time still fits, this is the one that was read.
    if read(process.pid).is_none_or(|now| now.start_ticks != process.start_ticks) {
        return Ok(false);
    }
    match pidfd_send_signal(&pidfd, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_parentheses_parse() {
        let stat = "42 (a b) c) S 7 42 42 0 -1 4194304 100 0 0 0 5 3 2 1 20 0 1 0 9000 10000 25 18446744073709551615";
        let process = parse_stat(42, stat).unwrap();
        assert_eq!((process.parent, process.name.as_str()), (7, "a b) c"));
        assert_eq!((process.start_ticks, process.cpu_ms), (9_000, 110));
    }

    #[test]
    fn times_that_sum_to_more_than_64_bits_are_read() {
        let most = u64::MAX;
        let stat = format!(
            "1 (x) S 7 1 1 0 -1 0 0 0 0 0 {most} {most} {most} {most} 20 0 1 0 9 0 {most} 0"
        );
        let process = parse_stat(1, &stat).unwrap();
        assert_eq!(process.cpu_ms, most / TICKS_PER_SECOND);
        assert_eq!(process.resident_bytes, most);
    }

    #[test]
    fn a_process_with_another_start_time_is_not_signalled() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let mut process = read(child.id()).unwrap();
        process.start_ticks += 1;
        assert!(!signal(&process, Signal::KILL).unwrap());
        process.start_ticks -= 1;
        assert!(signal(&process, Signal::KILL).unwrap());
        assert!(!child.wait().unwrap().success());
    }
}

/// Reads text as a line of `/proc/pid/stat`.
#[cfg(fuzzing)]
pub(crate) fn fuzz(text: &str) {
    parse_stat(1, text);
}
