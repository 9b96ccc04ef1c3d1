//! The last steps between holder and job, in the process that becomes the job: a session of its own,
//! death together with the holder, working directory and environment, then `exec`.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use types::codec;

use super::{chain, log};
use crate::attempt_directory::AttemptDirectory;
use crate::durable_file;
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
}

/// Becomes the job, or leaves the reason and ends with 127.
pub(super) fn launch(directory: &AttemptDirectory) -> ExitCode {
    let order = match directory.read_order() {
        Ok(Some(order)) => order,
        Ok(None) => return fail(directory, &preparation("the order is gone")),
        Err(error) => return fail(directory, &preparation(&chain(&error))),
    };
    let error = become_job(directory, &order);
    fail(directory, &error)
}

fn become_job(directory: &AttemptDirectory, order: &OrderV1) -> LaunchError {
    let prepared = rustix::process::setsid()
        .map(drop)
        .and_then(|()| rustix::process::set_parent_process_death_signal(Some(Signal::KILL)));
    if let Err(error) = prepared {
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
    LaunchError::Command {
        error: error.to_string(),
    }
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

fn fail(directory: &AttemptDirectory, error: &LaunchError) -> ExitCode {
    let stored = durable_file::create(&directory.launch_error(), &codec::encode(error));
    if let Err(error) = stored {
        log(&format!("the launch error cannot be stored: {error}"));
    }
    ExitCode::from(NOT_LAUNCHED)
}

/// What a launching process left behind; none if the command was started.
pub(super) fn read_launch_error(directory: &AttemptDirectory) -> Option<LaunchError> {
    let bytes = durable_file::read_if_there(&directory.launch_error(), MAX_STORED_BYTES);
    match bytes {
        Ok(bytes) => bytes.map(|bytes| {
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
