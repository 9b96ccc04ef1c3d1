//! The holder: one small process per attempt that owns the job's processes, pipes, exit status and lease deadline. It
//! needs no node process and no runtime. One thread supervises, another writes the records: a disk that hangs holds up
//! the second only.

mod build;
mod console;
mod ending;
mod hide;
mod job;
mod launch;
mod metric;
mod points;
mod recorder;
mod sampler;
mod subscribers;
mod supervisor;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;

pub(crate) use hide::{Program, can_hide};

use crate::attempt_directory::AttemptDirectory;
use crate::clock::boottime_ms;
use crate::stored::WholeOrder;

/// Set for the process that becomes the job: the same program, started again by the holder.
pub(crate) const ROLE_VARIABLE: &str = "MUSTER_HOLD_ROLE";
/// Its value there.
const ROLE_LAUNCH: &str = "launch";
/// Its value for the process that tries whether a directory can be hidden; the directory is the argument.
const ROLE_PROBE: &str = "probe";

/// Its value for the process that watches over the build of an environment; its place is the argument.
pub(crate) const ROLE_BUILD: &str = "build";
/// Its value for the process that runs the programs of that build.
const ROLE_BUILD_STEPS: &str = "build-steps";

/// Why the holder could not do its part; printed to `holder.log`, where the node looks for evidence.
#[derive(Debug, thiserror::Error)]
enum HoldError {
    #[error("the order cannot be read")]
    Order(#[source] crate::Error),
    #[error("there is no order in {directory}")]
    NoOrder { directory: String },
    #[error("the attempt cannot be locked")]
    Lock(#[source] io::Error),
    #[error("another holder has this attempt, or it has ended")]
    NotMine,
    #[error("the holder cannot become a session and subreaper")]
    Detach(#[source] rustix::io::Errno),
    #[error("the socket cannot be opened")]
    Socket(#[source] io::Error),
    #[error("the job process cannot be made")]
    Spawn(#[source] io::Error),
    #[error("the thread that writes the records cannot be made")]
    Records(#[source] io::Error),
    #[error("waiting for events failed")]
    Wait(#[source] rustix::io::Errno),
    #[error("the processes cannot be listed or signalled")]
    Signal(#[source] io::Error),
    #[error("the end cannot be stored")]
    Exit(#[source] io::Error),
}

/// Entry point of `muster hold-attempt <attempt directory>`, called before any runtime or thread is made: holds
/// one attempt from its start to its durable end. The program must pass its arguments through unchanged
/// when started again with the same ones (this is how the job process is launched).
#[must_use]
pub fn hold(attempt_directory: &Path) -> ExitCode {
    let directory = AttemptDirectory {
        root: attempt_directory.to_owned(),
    };
    let result = match std::env::var(ROLE_VARIABLE) {
        Ok(role) if role == ROLE_LAUNCH => return launch::launch(&directory),
        Ok(role) if role == ROLE_PROBE => return probe(attempt_directory),
        Ok(role) if role == ROLE_BUILD => return build::watch(),
        Ok(role) if role == ROLE_BUILD_STEPS => return build::run_steps(attempt_directory),
        Ok(_) | Err(_) => hold_attempt(&directory),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn probe(directory: &Path) -> ExitCode {
    match hide::probe(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn hold_attempt(directory: &AttemptDirectory) -> Result<(), HoldError> {
    rustix::process::setsid().map_err(HoldError::Detach)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(HoldError::Detach)?;
    let (order, lock) = take_order(directory)?;
    // Before the job runs: from then on this thread leaves the disk to another, and no disk delays a deadline.
    let listener = listen(directory).map_err(HoldError::Socket)?;
    if boottime_ms() + order.0.stop_margin_ms >= order.0.deadline_boottime_ms {
        let ended = ending::lease_over_before_start(&order.0);
        return directory.write_exit(&ended).map_err(HoldError::Exit);
    }
    let job = job::Job::spawn().map_err(HoldError::Spawn)?;
    let node = node_connection().map_err(HoldError::Socket)?;
    let supervisor = supervisor::Supervisor::new(directory.clone(), order, job, listener, node)?;
    supervisor.run()?;
    drop(lock);
    Ok(())
}

/// Reads the order and locks the attempt: whoever has the lock decides whether it runs. A node that finds no
/// holder takes the lock and stores an end, so a holder that comes late must not start anything.
fn take_order(directory: &AttemptDirectory) -> Result<(WholeOrder, File), HoldError> {
    let order = directory.read_whole_order().map_err(HoldError::Order)?;
    let order = order.ok_or_else(|| HoldError::NoOrder {
        directory: directory.root.display().to_string(),
    })?;
    let lock = directory.try_lock().map_err(HoldError::Lock)?;
    let lock = lock.ok_or(HoldError::NotMine)?;
    if directory.exit().exists() || directory.status().exists() {
        return Err(HoldError::NotMine);
    }
    Ok((order, lock))
}

fn listen(directory: &AttemptDirectory) -> io::Result<UnixListener> {
    let (_open, path) = directory.socket()?;
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The node that started this holder is connected from birth, through standard input.
fn node_connection() -> io::Result<Option<UnixStream>> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    if rustix::net::sockopt::socket_type(&stdin).is_err() {
        // Started by hand, for looking at it: nodes connect to the socket.
        return Ok(None);
    }
    let stream = UnixStream::from(stdin);
    stream.set_nonblocking(true)?;
    Ok(Some(stream))
}

/// Writes a line to standard error, which is `holder.log`.
fn log(line: &str) {
    if writeln!(io::stderr(), "{line}").is_err() {
        // The log is the last place to complain; the exit code still tells.
    }
}

/// An error with all its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The scalars of an output that comes in pieces.
#[cfg(fuzzing)]
pub(crate) fn fuzz_metrics(pieces: &[&[u8]]) -> Vec<types::RecordBody> {
    let mut lines = metric::MetricLines::default();
    pieces.iter().flat_map(|piece| lines.take(piece)).collect()
}
