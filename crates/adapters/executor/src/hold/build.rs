//! Builds an environment: the same program as the holder, started by the node in another role. One process watches, and
//! kills all that the build started as soon as the node lets go of its standard input; below it another becomes the
//! job's user and runs the programs of the order.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, wait};

use super::launch::{HOLDER_VARIABLE, give_up_rights};
use super::{ROLE_BUILD_STEPS, ROLE_VARIABLE};
use crate::environments::BuildOrder;
use crate::process_tree;

/// Most rounds of killing: each kills all that it finds.
const MAX_KILL_ROUNDS: u32 = 100;
/// Exit code of a build that was stopped or could not begin.
const NOT_BUILT: u8 = 125;

/// Watches over a build until it ends, or until the node lets go.
pub(super) fn watch() -> ExitCode {
    match watched() {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    }
}

fn watched() -> io::Result<u8> {
    rustix::process::setsid()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env(ROLE_VARIABLE, ROLE_BUILD_STEPS)
        .env(HOLDER_VARIABLE, std::process::id().to_string())
        .stdin(Stdio::null())
        .spawn()?;
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let stdin = io::stdin();
    let let_go = loop {
        let mut events = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::new(&pidfd, PollFlags::IN),
        ];
        match poll(&mut events, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if !events[1].revents().is_empty() {
            break false;
        }
        if !events[0].revents().is_empty() {
            break true;
        }
    };
    let code = match let_go {
        true => None,
        false => child.wait()?.code(),
    };
    kill_tree()?;
    Ok(code
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(NOT_BUILT)) // ended by a signal
}

/// Nothing of a build outlives it.
fn kill_tree() -> io::Result<()> {
    for _round in 0..MAX_KILL_ROUNDS {
        for process in process_tree::descendants(std::process::id())? {
            process_tree::signal(&process, Signal::KILL)?;
        }
        let mut options = WaitOptions::empty();
        loop {
            match wait(options) {
                Err(rustix::io::Errno::CHILD) => return Ok(()),
                Ok(Some(_)) => options = WaitOptions::NOHANG,
                Ok(None) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(io::Error::other("processes of the build keep coming back"))
}

/// Runs the programs of the order in `directory`, one after the other.
pub(super) fn run_steps(directory: &Path) -> ExitCode {
    match stepped(directory) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    }
}

fn stepped(directory: &Path) -> io::Result<u8> {
    let order = BuildOrder::read(directory)?;
    rustix::process::setsid()?;
    let writes: Vec<PathBuf> = order.writes.iter().map(PathBuf::from).collect();
    give_up_rights(&order.confinement, &writes)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // After the change of user, which takes the wish back (prctl(2)).
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    for step in &order.steps {
        let Some((program, arguments)) = step.split_first() else {
            continue;
        };
        let status = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(order.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&order.working_directory)
            .stdin(Stdio::null())
            .process_group(0)
            .status()
            .map_err(|error| io::Error::other(format!("{program} cannot be run: {error}")))?;
        if !status.success() {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(code.unwrap_or(NOT_BUILT)); // ended by a signal
        }
    }
    Ok(0)
}

fn fail(error: &io::Error) -> ExitCode {
    if writeln!(io::stderr(), "the build cannot be run: {error}").is_err() {
        // Nobody listens; the exit code still tells.
    }
    ExitCode::from(NOT_BUILT)
}
