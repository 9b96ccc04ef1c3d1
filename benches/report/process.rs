//! A server of ours or of a peer, as a child process; what it costs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::{Child, Command};

/// Clock ticks per second in /proc: 100 on every Linux that people run.
const TICKS_PER_SECOND: f64 = 100.0;
/// Longest wait for the end of processes that are killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) process_id: u32,
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// All resident pages.
    pub(crate) resident_bytes: u64,
    /// Shared pages counted in parts.
    pub(crate) proportional_bytes: u64,
}

impl Server {
    /// Starts `command` with its output in `log`.
    pub(crate) fn start(mut command: Command, out: &Path, log: &Path) -> anyhow::Result<Self> {
        let open = |path: &Path| {
            let file = File::options().append(true).create(true).open(path);
            file.with_context(|| format!("open {}", path.display()))
        };
        command
            .stdin(Stdio::null())
            .stdout(open(out)?)
            .stderr(open(log)?)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("start {:?}", command.as_std().get_program()))?;
        let process_id = child.id().context("it ended at once")?;
        Ok(Self { child, process_id })
    }

    /// SIGKILL; returns as soon as it is sent.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.start_kill().context("kill a server")
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        self.child.wait().await.context("wait for a server")?;
        Ok(())
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn memory(&self) -> Memory {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process_id));
        let text = text.unwrap_or_default();
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            kibibytes.unwrap_or(0_u64) * 1_024
        };
        Memory {
            resident_bytes: bytes("Rss:"),
            proportional_bytes: bytes("Pss:"),
        }
    }

    /// Processor time so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.process_id));
        let text = text.unwrap_or_default();
        let fields = text.rsplit(')').next().unwrap_or_default();
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || {
            fields
                .next()
                .and_then(|field| field.parse::<u32>().ok())
                .unwrap_or(0)
        };
        f64::from(ticks() + ticks()) / TICKS_PER_SECOND
    }
}

/// Kills all processes whose home or working directory lies below `directory`, until none is left, since one may be
/// making another meanwhile. Gives how many there were.
pub(crate) async fn end_all_below(directory: &Path) -> anyhow::Result<usize> {
    let began = Instant::now();
    let mut killed = BTreeSet::new();
    loop {
        let found = all_below(directory)?;
        if found.is_empty() {
            return Ok(killed.len());
        }
        for pid in found {
            // The handle is taken before the look: what is killed is what was looked at, not a later process of this
            // number. An error means that it is gone.
            if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
                && belongs_below(pid, directory)
                && pidfd_send_signal(&handle, Signal::KILL).is_ok()
            {
                killed.insert(pid.as_raw_nonzero());
            }
        }
        if began.elapsed() > PATIENCE {
            bail!("processes below {} cannot be killed", directory.display());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn all_below(directory: &Path) -> anyhow::Result<Vec<Pid>> {
    let entries = fs::read_dir("/proc").context("read /proc")?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()); // others are no processes
    let pids = numbers.filter_map(Pid::from_raw);
    Ok(pids.filter(|pid| belongs_below(*pid, directory)).collect())
}

/// The dead that wait for their parent, and the gone, tell nothing.
fn belongs_below(pid: Pid, directory: &Path) -> bool {
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_pid()));
    let environment = fs::read(proc.join("environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    let home = variables.find_map(|one| one.strip_prefix(b"HOME="));
    let home = String::from_utf8_lossy(home.unwrap_or_default()).into_owned();
    let works_in = fs::read_link(proc.join("cwd")).unwrap_or_default();
    Path::new(&home).starts_with(directory) || works_in.starts_with(directory)
}

/// Bytes on disk below `directory`.
pub(crate) fn disk_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut open: Vec<PathBuf> = vec![directory.to_owned()];
    let mut bytes = 0;
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue; // Removed meanwhile.
        };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => open.push(entry.path()),
                Ok(found) => bytes += found.blocks() * 512,
                Err(_removed_meanwhile) => {}
            }
        }
    }
    bytes
}
