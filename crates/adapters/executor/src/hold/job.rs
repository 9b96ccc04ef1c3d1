//! The job's main process and its pipes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open, wait};
use types::Timestamp;

use super::launch::HOLDER_VARIABLE;
use super::{ROLE_LAUNCH, ROLE_VARIABLE};
use crate::clock::{boottime_ms, wall_clock};

/// The running command as the holder sees it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) pid: u32,
    /// Readable when the main process has ended.
    pub(super) pidfd: OwnedFd,
    /// None after end of file.
    pub(super) stdout: Option<OwnedFd>,
    /// None after end of file.
    pub(super) stderr: Option<OwnedFd>,
    pub(super) started_at: Timestamp,
    pub(super) started_boottime_ms: u64,
    /// How the main process ended.
    pub(super) exit: Option<WaitStatus>,
    /// The kernel says that nobody is left: no child of this subreaper.
    pub(super) tree_is_gone: bool,
}

impl Job {
    /// Starts this program again as the process that becomes the job (see [`super::launch`]): no fork of
    /// this process, and the job's first steps run as the job.
    pub(super) fn spawn() -> io::Result<Self> {
        let started_at = wall_clock();
        let started_boottime_ms = boottime_ms();
        let mut child = Command::new("/proc/self/exe")
            .args(std::env::args_os().skip(1))
            .env(ROLE_VARIABLE, ROLE_LAUNCH)
            .env(HOLDER_VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pid = child.id();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let stdout = child.stdout.take().map(OwnedFd::from);
        let stderr = child.stderr.take().map(OwnedFd::from);
        for pipe in [&stdout, &stderr].into_iter().flatten() {
            rustix::io::ioctl_fionbio(pipe.as_fd(), true)?;
        }
        Ok(Self {
            pid,
            pidfd,
            stdout,
            stderr,
            started_at,
            started_boottime_ms,
            exit: None,
            tree_is_gone: false,
        })
    }

    /// Waits, without blocking, for whoever has ended: the main process, and orphans that became this
    /// subreaper's children. Without any child left the whole tree is gone.
    pub(super) fn reap(&mut self) -> io::Result<()> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid.as_raw_pid().cast_unsigned() == self.pid => {
                    self.exit = Some(status);
                }
                Ok(Some(_orphan)) => {}
                Ok(None) => return Ok(()),
                Err(rustix::io::Errno::CHILD) => {
                    self.tree_is_gone = true;
                    return Ok(());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
