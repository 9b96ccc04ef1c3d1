//! Holders that outlived a node process, and attempts whose holder is gone.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use types::{AttemptToken, Cause, CauseKind};

use super::attempt::Attempt;
use super::environment::MACHINE_NAME_VARIABLE;
use super::prepare::never_ran;
use super::{GpuTenant, Phase, Shared, build};
use crate::attempt_directory::{AttemptDirectory, parse_directory_name};
use crate::cgroup::JobCgroups;
use crate::clock::wall_clock;
use crate::durable_file;
use crate::error::Error;
use crate::process_tree;
use crate::protocol::Request;
use crate::segment;
use crate::stored::{Ended, OrderV1, Status};

/// Between two tries to connect to a living holder that does not listen yet.
const CONNECT_INTERVAL: Duration = Duration::from_millis(5);
/// Most looks for processes of a dead holder; each kills all that it finds, so a second one finds what
/// was forked meanwhile.
const MAX_KILL_ROUNDS: u32 = 100;
/// Last lines of `holder.log` in the evidence.
const LOG_LINES: usize = 4;
/// Most of `holder.log` that is read: a holder writes a few lines in its life.
const MAX_LOG_BYTES: usize = 64 << 10;

/// An attempt found on disk.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) attempt: Arc<Attempt>,
    pub(super) requests: mpsc::Receiver<Request>,
    /// Its stored end.
    pub(super) ended: Option<Ended>,
}

/// Finds all attempts of the directory and makes them known.
pub(super) async fn scan(shared: &Arc<Shared>) -> Result<Vec<Found>, Error> {
    let own = Arc::clone(shared);
    let found = tokio::task::spawn_blocking(move || {
        let mut found = Vec::new();
        for token in tokens(&own)? {
            found.push(look(&own, token)?);
        }
        Ok(found)
    });
    let found = found.await.map_err(Error::Task)??;
    let mut attempts = shared.attempts();
    for found in &found {
        attempts.insert(found.attempt.token, Arc::clone(&found.attempt));
    }
    drop(attempts);
    Ok(found)
}

fn tokens(shared: &Shared) -> Result<Vec<AttemptToken>, Error> {
    let directory = &shared.config.directory;
    let error = |source| Error::Directory {
        path: directory.clone(),
        source,
    };
    let mut tokens = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        match name.to_str().and_then(parse_directory_name) {
            Some(token) => tokens.push(token),
            None => tracing::warn!(?name, "not an attempt, left alone"),
        }
    }
    Ok(tokens)
}

fn look(shared: &Shared, token: AttemptToken) -> Result<Found, Error> {
    let directory = AttemptDirectory::new(&shared.config.directory, &token);
    let order = directory.read_terms().unwrap_or_else(|error| {
        // A power cut may have torn it; the end says so.
        tracing::warn!(%error, %token, "order of attempt is not readable");
        None
    });
    let rank = order.as_ref().map_or(0, |(order, _)| order.rank);
    let deadline = order
        .as_ref()
        .map_or(0, |(order, _)| order.deadline_boottime_ms);
    let variables = order.iter().flat_map(|(order, _)| &order.variables);
    let environment = variables
        .filter(|(name, _)| name == build::VARIABLE)
        .find_map(|(_, path)| shared.environments.pin_path(path));
    let terms = order.and_then(|(_, terms)| terms);
    let tenant = terms.map(|terms| GpuTenant {
        rank,
        terms,
        is_adopted: true,
    });
    let (attempt, requests) = Attempt::new(shared, token, (rank, tenant), deadline);
    attempt.known().pin = environment;
    let ended = directory.read_exit().unwrap_or_else(|error| {
        // As above: one is made anew when its processes are gone.
        tracing::warn!(%error, %token, "end of attempt is not readable");
        None
    });
    if let Some(Status::V1 {
        pid, started_at, ..
    }) = directory.read_status().unwrap_or_else(|error| {
        // As above.
        tracing::warn!(%error, %token, "status of attempt is not readable");
        None
    }) {
        let mut known = attempt.known();
        known.pid = Some(pid);
        known.started_at = Some(started_at);
        known.phase = Phase::Running;
    }
    // That it has ended is said by `finish`, once its records are sealed: whoever heard it before would report none.
    Ok(Found {
        attempt,
        requests,
        ended,
    })
}

/// Connects to the attempt's holder; none when it is dead. Who holds the lock lives, so this waits as long
/// as the lock is held.
pub(super) async fn connect(attempt: &Arc<Attempt>) -> Option<UnixStream> {
    loop {
        let directory = attempt.directory.clone();
        let connected = match directory.socket() {
            Ok((_open, path)) => UnixStream::connect(path).await,
            Err(error) => Err(error),
        };
        if let Ok(stream) = connected {
            // Who listens there is the holder.
            let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()); // then not known, as documented
            attempt.known().holder_pid = pid.and_then(|pid| u32::try_from(pid).ok()); // no pid is negative
            return Some(stream);
        }
        match directory.try_lock() {
            Ok(None) => tokio::time::sleep(CONNECT_INTERVAL).await,
            Ok(Some(_dead)) => return None,
            Err(error) => {
                tracing::debug!(%error, token = %attempt.token, "attempt has no lock");
                return None;
            }
        }
    }
}

/// The end of an attempt that has no holder: the stored one, else its tree is killed and one is made
/// and stored. Under the attempt's lock, so that a holder that comes late does not start; none if one has it: it lives.
/// Blocking.
///
/// # Errors
/// Its processes cannot be killed, or nothing can be stored: then it has no end yet, and must not be called over.
pub(super) fn end_without_holder(
    shared: &Shared,
    directory: &AttemptDirectory,
) -> Result<Option<Ended>, Error> {
    let lock = match directory.try_lock() {
        Ok(Some(lock)) => Some(lock),
        Ok(None) => return Ok(None),
        // Without an order no holder can start.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => {
            let path = directory.order();
            return Err(Error::Read { path, source });
        }
    };
    match directory.read_exit() {
        Ok(Some(ended)) => return Ok(Some(ended)),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(%error, path = %directory.root.display(), "stored end is not readable");
        }
    }
    let order = match directory.read_order() {
        Ok(order) => order,
        Err(error) => {
            tracing::warn!(%error, path = %directory.root.display(), "order is not readable");
            None
        }
    };
    let mut ended = match order {
        Some(order) => abandoned(shared, directory, &order)?,
        None => {
            let line = "the node stopped before the attempt's order was on disk".to_owned();
            never_ran(shared, Cause::new(CauseKind::NodeRestarted, vec![line]))
        }
    };
    ended.records = segment::recover(&directory.records())?;
    directory
        .write_exit(&ended)
        .map_err(|source| Error::Write {
            path: directory.exit(),
            source,
        })?;
    drop(lock);
    Ok(Some(ended))
}

fn abandoned(
    shared: &Shared,
    directory: &AttemptDirectory,
    order: &OrderV1,
) -> Result<Ended, Error> {
    let booted_again = order.boot_id != shared.boot_id && order.boot_id != 0 && shared.boot_id != 0;
    // A torn one was told of when the attempt was found.
    let status = directory.read_status().unwrap_or_default();
    let mut ended = never_ran(shared, Cause::new(CauseKind::NodeRestarted, Vec::new()));
    if let Some(Status::V1 { started_at, .. }) = status {
        ended.started_at = started_at;
    }
    if booted_again {
        let line = format!(
            "the machine was started again: boot {:016x} then, {:016x} now",
            order.boot_id, shared.boot_id
        );
        ended.cause.evidence.push(line);
        return Ok(ended);
    }
    let cgroups = JobCgroups::existing(&order.cgroups);
    let killed = kill_without_holder(&cgroups, order).map_err(|source| Error::Read {
        path: "/proc".into(),
        source,
    })?;
    ended.tree_kill_method = cgroups.kill_method().to_owned();
    ended.cpu_ms = cgroups.cpu_ms().unwrap_or_default();
    ended.peak_memory_bytes = cgroups.peak_memory().unwrap_or_default();
    if let Err(error) = cgroups.remove() {
        tracing::warn!(%error, "cgroups of an abandoned attempt stay");
    }
    let who = match status {
        Some(Status::V1 { holder_pid, .. }) => format!("holder process {holder_pid}"),
        None => "the holder process".to_owned(),
    };
    let now = wall_clock();
    let mut evidence = vec![
        format!("{who} is gone and stored no end (seen at {} ms)", now.0),
        format!("{killed} processes of the attempt were still there and were killed"),
    ];
    evidence.extend(last_log_lines(directory));
    ended.cause = Cause::new(CauseKind::HolderFailed, evidence);
    Ok(ended)
}

/// Kills by cgroup, then whoever carries the attempt's name in its environment, until nobody is found.
fn kill_without_holder(cgroups: &JobCgroups, order: &OrderV1) -> std::io::Result<usize> {
    let mark = format!("{MACHINE_NAME_VARIABLE}={}", order.cgroups.name);
    let mut killed = cgroups.members().map_or(0, |pids| pids.len());
    cgroups.kill()?;
    for _round in 0..MAX_KILL_ROUNDS {
        let mut found = process_tree::with_variable(&mark)?;
        found.retain(|process| !process.zombie);
        if found.is_empty() {
            return Ok(killed);
        }
        for process in found {
            killed += usize::from(process_tree::signal(&process, Signal::KILL)?);
        }
    }
    Err(std::io::Error::other(
        "processes of the attempt keep coming back",
    ))
}

fn last_log_lines(directory: &AttemptDirectory) -> Vec<String> {
    let log = durable_file::read_if_there(&directory.holder_log(), MAX_LOG_BYTES);
    // A log that cannot be read is no evidence.
    let bytes = log.ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    lines[from..]
        .iter()
        .map(|line| format!("holder: {line}"))
        .collect()
}

#[cfg(test)]
mod tests;
