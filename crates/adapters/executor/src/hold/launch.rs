//! The last steps between holder and job, in the process that becomes the job: a session of its own, another user or a
//! hidden node, death together with the holder, working directory and environment, then `exec`.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::process::{Gid, Signal, Uid};
use serde::{Deserialize, Serialize};
use types::codec;

use super::hide::hide;
use super::{chain, log};
use crate::attempt_directory::AttemptDirectory;
use crate::durable_file;
use crate::job_user::{Account, Confinement};
use crate::stored::{MAX_STORED_BYTES, OrderV1};

/// Exit code of a job process that never became the command, as shells have it.
const NOT_LAUNCHED: u8 = 127;

/// Why the command was not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LaunchError {
    /// The program is not there or cannot be executed.
    Command {
        /// What the kernel said.
        error: String,
    },
    /// The working directory is not there or outside the tree.
    WorkingDirectory {
        /// What was wrong with it.
        error: String,
    },
    /// This process could not be prepared.
    Preparation {
        /// What the kernel said.
        error: String,
    },
    /// The program, or the way to it, is not for this user.
    NotAllowed {
        /// What the kernel said.
        error: String,
    },
}

/// Becomes the job, or leaves the reason and ends with 127.
pub(super) fn launch(directory: &AttemptDirectory) -> ExitCode {
    // Opened before anything is given up: afterwards this process may not write there.
    let report = match durable_file::create(&directory.launch_error(), b"") {
        Ok(report) => report,
        Err(error) => {
            log(&format!("the launch error cannot be stored: {error}"));
            return ExitCode::from(NOT_LAUNCHED);
        }
    };
    let error = match directory.read_whole_order() {
        Ok(Some((order, confinement, _))) => become_job(directory, &order, &confinement),
        Ok(None) => preparation("the order is gone"),
        Err(error) => preparation(&chain(&error)),
    };
    fail(report, &error)
}

fn become_job(
    directory: &AttemptDirectory,
    order: &OrderV1,
    confinement: &Confinement,
) -> LaunchError {
    if let Err(error) = rustix::process::setsid() {
        return preparation(&error.to_string());
    }
    let kept = [directory.work(), directory.temporary()];
    if let Err(error) = give_up_rights(confinement, &kept) {
        return preparation(&error.to_string());
    }
    // After the change of user, which takes the wish back (prctl(2)).
    let wished = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if let Err(error) = wished {
        return preparation(&error.to_string());
    }
    // The holder may have died before the death signal was asked for: then this process has another parent.
    let holder = std::env::var(HOLDER_VARIABLE).unwrap_or_default();
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_pid().to_string());
    if parent.as_deref() != Some(holder.as_str()) {
        return preparation("the holder is gone");
    }
    let working_directory = match working_directory(directory, order) {
        Ok(path) => path,
        Err(error) => {
            return LaunchError::WorkingDirectory {
                error: format!("{}: {error}", order.working_directory),
            };
        }
    };
    let Some((program, arguments)) = order.command.split_first() else {
        return LaunchError::Command {
            error: "the command is empty".to_owned(),
        };
    };
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(order.variables.iter().map(|(name, value)| (name, value)))
        .current_dir(working_directory)
        .exec();
    let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
    let error = error.to_string();
    match is_denied {
        true => LaunchError::NotAllowed { error },
        false => LaunchError::Command { error },
    }
}

/// Gives up what a job must not have of its node; `kept` is the job's own in the node's directory.
pub(super) fn give_up_rights(confinement: &Confinement, kept: &[PathBuf]) -> io::Result<()> {
    if confinement.account.is_none() && confinement.hidden.is_none() {
        return Ok(());
    }
    if let Some(hidden) = &confinement.hidden {
        hide(Path::new(hidden), kept, &confinement.visible)
            .map_err(|error| io::Error::other(format!("hiding the node's directory: {error}")))?;
    }
    if let Some(account) = &confinement.account {
        become_user(account)
            .map_err(|error| io::Error::other(format!("becoming {}: {error}", account.name)))?;
    }
    // No program with a set-user-id bit gives back what was given up.
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// This process has one thread: changing the thread's ids changes the process's.
fn become_user(account: &Account) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    // So that the job can open /dev/stdout and /dev/stderr by name.
    rustix::fs::fchown(io::stdout(), Some(user), Some(group))?;
    rustix::fs::fchown(io::stderr(), Some(user), Some(group))?;
    let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Process id of the holder, told to the process that becomes the job.
pub(super) const HOLDER_VARIABLE: &str = "MUSTER_HOLD_PARENT";

/// Where the command starts: inside the tree, links followed.
fn working_directory(directory: &AttemptDirectory, order: &OrderV1) -> io::Result<PathBuf> {
    let work = directory.work().canonicalize()?;
    let wanted = work.join(&order.working_directory).canonicalize()?;
    if !wanted.starts_with(&work) {
        return Err(io::Error::other("it is outside the source tree"));
    }
    Ok(wanted)
}

fn preparation(error: &str) -> LaunchError {
    LaunchError::Preparation {
        error: error.to_owned(),
    }
}

fn fail(mut report: File, error: &LaunchError) -> ExitCode {
    if let Err(error) = report.write_all(&codec::encode(error)) {
        log(&format!("the launch error cannot be stored: {error}"));
    }
    ExitCode::from(NOT_LAUNCHED)
}

/// What a launching process left behind; none if the command was started.
pub(super) fn read_launch_error(directory: &AttemptDirectory) -> Option<LaunchError> {
    let bytes = durable_file::read_if_there(&directory.launch_error(), MAX_STORED_BYTES);
    match bytes {
        Ok(bytes) => bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| {
            codec::decode(&bytes, MAX_STORED_BYTES).unwrap_or_else(|error| {
                LaunchError::Preparation {
                    error: format!("and its reason does not decode: {error}"),
                }
            })
        }),
        Err(error) => Some(LaunchError::Preparation {
            error: format!("and its reason cannot be read: {error}"),
        }),
    }
}
