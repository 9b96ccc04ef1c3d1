//! Processes of this machine, told apart beyond the reuse of their numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Environment variable that marks every process of an instance with its id.
pub const INSTANCE_VARIABLE: &str = "MUSTER_INSTANCE_ID";

/// One process for ever: its number, when it started, and in which boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) pid: i32,
    /// Clock ticks after boot.
    start_ticks: u64,
    boot_id: String,
}

/// What the kernel tells of a process.
struct Stat {
    parent: i32,
    start_ticks: u64,
    /// Not ended: no zombie.
    runs: bool,
}

/// A process that can be signalled without hitting another that got its number.
#[derive(Debug)]
pub(super) struct Target {
    descriptor: OwnedFd,
}

impl Target {
    /// The process, none if it has ended.
    pub(super) fn open(process: &ProcessId) -> Result<Option<Self>, Error> {
        let pid = Pid::from_raw(process.pid).expect("a process id is not 0");
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::SRCH) => return Ok(None),
            Err(e) => return Err(Error::read(&proc_path(process.pid, "stat"), e.into())),
        };
        // Looked at after opening: if it is still the same process now, the descriptor is its.
        Ok(is_running(process)?.then_some(Self { descriptor }))
    }

    /// Sends a signal; one that has ended needs none.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.descriptor, signal) {
            Err(Errno::SRCH) | Ok(()) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for its end, at most `time`; whether it came.
    pub(super) fn wait(&self, time: Duration) -> io::Result<bool> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(
                &mut [PollFd::new(&self.descriptor, PollFlags::IN)],
                Some(&left),
            ) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// The identity of a child that was just started and is not reaped.
pub(super) fn of_child(child: &Child) -> Result<ProcessId, Error> {
    let pid = i32::try_from(child.id()).expect("process ids fit in 31 bits");
    let gone = || Error::read(&proc_path(pid, "stat"), io::ErrorKind::NotFound.into());
    let stat = read_stat(pid)?.ok_or_else(gone)?;
    Ok(ProcessId {
        pid,
        start_ticks: stat.start_ticks,
        boot_id: boot_id()?,
    })
}

/// Whether it is the same process and has not ended.
pub(super) fn is_running(process: &ProcessId) -> Result<bool, Error> {
    let same = |stat: &Stat| stat.runs && stat.start_ticks == process.start_ticks;
    Ok(read_stat(process.pid)?.as_ref().is_some_and(same) && boot_id()? == process.boot_id)
}

/// Reaps a child if it has ended: its exit code, or 128 + signal.
pub(super) fn reap(child: &mut Child, id: &str) -> Result<Option<i32>, Error> {
    let status = child.try_wait().map_err(|source| Error::Signal {
        id: id.to_owned(),
        source,
    })?;
    Ok(status.map(|status| {
        let signal = status.signal().unwrap_or_default();
        status.code().unwrap_or(128 + signal)
    }))
}

/// All processes of an instance: those that carry its mark, and whatever these started.
pub(super) fn of_instance(id: &str) -> Result<Vec<ProcessId>, Error> {
    let boot_id = boot_id()?;
    let found = scan(id)?.into_iter().map(|(pid, stat)| ProcessId {
        pid,
        start_ticks: stat.start_ticks,
        boot_id: boot_id.clone(),
    });
    Ok(found.collect())
}

/// The process of an instance that started first: the one that was launched.
pub(super) fn first_of_instance(id: &str) -> Result<Option<ProcessId>, Error> {
    let found = of_instance(id)?;
    Ok(found.into_iter().min_by_key(|process| process.start_ticks))
}

fn scan(id: &str) -> Result<BTreeMap<i32, Stat>, Error> {
    let mark = format!("{INSTANCE_VARIABLE}={id}");
    let own = i32::try_from(std::process::id()).expect("process ids fit in 31 bits");
    let mut running = BTreeMap::new();
    let mut members = BTreeSet::new();
    let directory = Path::new("/proc");
    for entry in fs::read_dir(directory).map_err(|e| Error::read(directory, e))? {
        let name = entry.map_err(|e| Error::read(directory, e))?.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<i32>().ok()); // not a number: not a process
        let Some(pid) = pid.filter(|pid| *pid != own) else {
            continue;
        };
        let Some(stat) = read_stat(pid)?.filter(|stat| stat.runs) else {
            continue;
        };
        running.insert(pid, stat);
        if carries(pid, &mark) {
            members.insert(pid);
        }
    }
    // Children of members are members, until no more are found: they may have cleared their environment.
    loop {
        let is_child =
            |(pid, stat): &(&i32, &Stat)| members.contains(&stat.parent) && !members.contains(pid);
        let children: Vec<i32> = running
            .iter()
            .filter(is_child)
            .map(|(pid, _)| *pid)
            .collect();
        if children.is_empty() {
            break;
        }
        members.extend(children);
    }
    running.retain(|pid, _stat| members.contains(pid));
    Ok(running)
}

/// Whether the environment of a process holds the mark. One that cannot be read is another user's or has ended:
/// not ours.
fn carries(pid: i32, mark: &str) -> bool {
    let environment = fs::read(proc_path(pid, "environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|variable| variable == mark.as_bytes())
}

/// What the kernel tells of a process, none if there is none of that number.
fn read_stat(pid: i32) -> Result<Option<Stat>, Error> {
    let path = proc_path(pid, "stat");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(parse_stat(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || is_gone(&e) => Ok(None),
        // A name that is no text: not one of ours.
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(e) => Err(Error::read(&path, e)),
    }
}

/// It ended between the opening and the reading.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// Fields of `/proc/PID/stat` after the name in parentheses, which may hold anything (`proc_pid_stat(5)`).
fn parse_stat(text: &str) -> Option<Stat> {
    let (_name, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?, // not a number: not that file
        start_ticks: fields.get(19)?.parse().ok()?,
        runs: !matches!(*fields.first()?, "Z" | "X" | "x"),
    })
}

fn boot_id() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
    Ok(text.trim().to_owned())
}

fn proc_path(pid: i32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let text = "42 (a) Z (b) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9999 10 11";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.parent, stat.start_ticks, stat.runs), (7, 9999, true));
        assert!(!parse_stat(&text.replace(" S 7", " Z 7")).unwrap().runs);
        assert!(parse_stat("42 (short) S 7").is_none());
    }

    #[test]
    fn reused_number_is_another_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        let stat = read_stat(own).unwrap().unwrap();
        let process = ProcessId {
            pid: own,
            start_ticks: stat.start_ticks,
            boot_id: boot_id().unwrap(),
        };
        assert!(is_running(&process).unwrap());
        let other_start = ProcessId {
            start_ticks: 1,
            ..process.clone()
        };
        let other_boot = ProcessId {
            boot_id: "another".to_owned(),
            ..process
        };
        for other in [other_start, other_boot] {
            assert!(!is_running(&other).unwrap());
            assert!(Target::open(&other).unwrap().is_none());
        }
    }
}
