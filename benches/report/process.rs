//! A server of ours or of a peer, as a child process; what it costs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::{Child, Command};

/// Clock ticks per second in /proc: 100 on every Linux that people run.
const TICKS_PER_SECOND: f64 = 100.0;

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
