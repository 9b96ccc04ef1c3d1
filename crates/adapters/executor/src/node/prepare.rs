//! From a wanted attempt to a running holder: directory, order, source tree, process. Blocking.

use std::fs::Permissions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use tokio::process::{Child, Command};
use types::{Cause, CauseKind, codec};

use super::attempt::Attempt;
use super::build::Packages;
use super::environment::variables;
use super::{Shared, StartAttempt};
use crate::attempt_directory::AttemptDirectory;
use crate::clock::{boottime_ms, wall_clock};
use crate::durable_file;
use crate::environments::Failure;
use crate::job_user::{Account, Confinement, give, make_passable};
use crate::layout::{LayoutError, lay_out};
use crate::protocol::StopReason;
use crate::python;
use crate::stored::{Ended, Order, OrderV1};

/// A holder that was just started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    /// The node's end of the holder's standard input: it talks [`crate::protocol`].
    pub(super) stream: UnixStream,
}

/// Why no holder was started.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("the attempt's directory cannot be made")]
    Directory(#[source] io::Error),
    #[error("the order cannot be written")]
    Order(#[source] io::Error),
    #[error("the source tree cannot be laid out")]
    Layout(#[source] LayoutError),
    #[error("the experiment has no command")]
    NoCommand,
    #[error("the lease was over before everything was prepared")]
    LeaseOver,
    #[error("it was stopped before its command was started")]
    Stopped(StopReason),
    #[error("the holder cannot be started")]
    Holder(#[source] io::Error),
    #[error("its environment could not be built")]
    Environment(Failure),
}

impl PrepareError {
    fn kind(&self) -> CauseKind {
        let full = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        match self {
            Self::Directory(error) | Self::Order(error) if full(error) => CauseKind::DiskFull,
            Self::Layout(LayoutError::Make { source, .. }) if full(source) => CauseKind::DiskFull,
            Self::Layout(_) => CauseKind::SourceTree,
            Self::NoCommand => CauseKind::CommandNotFound {
                command: String::new(),
            },
            Self::Stopped(StopReason::Requested { by }) => CauseKind::Stopped { by: by.clone() },
            Self::Stopped(StopReason::TimeLimit) => CauseKind::TimeLimit,
            Self::Stopped(StopReason::RuleMet { rule }) => {
                CauseKind::RuleMet { rule: rule.clone() }
            }
            Self::Stopped(StopReason::VramOveruse { .. }) => CauseKind::VramOveruse,
            Self::Stopped(StopReason::GpuFailed { gpu, problem }) => CauseKind::GpuFailed {
                gpu: *gpu,
                problem: problem.clone(),
            },
            Self::LeaseOver | Self::Stopped(StopReason::LeaseLost) => CauseKind::LeaseExpired,
            Self::Holder(_) => CauseKind::HolderFailed,
            Self::Directory(_) | Self::Order(_) => CauseKind::RefusedByNode,
            Self::Environment(Failure::Build(_)) => CauseKind::EnvironmentBuild,
            Self::Environment(Failure::Machine { full: true, .. }) => CauseKind::DiskFull,
            Self::Environment(Failure::Machine { .. } | Failure::Cancelled) => {
                CauseKind::RefusedByNode
            }
        }
    }

    /// The cause, with each error of the chain as a line of evidence.
    pub(super) fn cause(&self) -> Cause {
        if let Self::Environment(Failure::Build(lines)) = self {
            let kind = self.kind();
            let advice = diagnosis::advice(&kind);
            let cause = Cause::new(kind, lines.clone());
            return Cause { advice, ..cause };
        }
        let mut evidence = vec![self.to_string()];
        if let Self::Environment(Failure::Machine { line, .. }) = self {
            evidence.push(line.clone());
        }
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            evidence.push(error.to_string());
            source = error.source();
        }
        Cause::new(self.kind(), evidence)
    }
}

/// The end of an attempt that never ran.
pub(super) fn never_ran(shared: &Shared, cause: Cause) -> Ended {
    let now = wall_clock();
    Ended {
        cause,
        started_at: now,
        ended_at: now,
        peak_memory_bytes: 0,
        peak_vram_bytes: 0,
        cpu_ms: 0,
        tree_kill_method: shared.cgroups.tree_kill_method().to_owned(),
        records: 0,
    }
}

/// Makes the directories of an attempt.
pub(super) fn make_directories(attempt: &Attempt) -> Result<(), PrepareError> {
    let directory = &attempt.directory;
    for path in [
        &directory.root,
        &directory.work(),
        &directory.temporary(),
        &directory.records(),
    ] {
        std::fs::create_dir(path).map_err(PrepareError::Directory)?;
    }
    Ok(())
}

/// Makes everything the holder needs and starts it. The order becomes durable while the holder starts.
pub(super) fn prepare(
    shared: &Shared,
    attempt: &Attempt,
    start: &StartAttempt,
    packages: Option<&Packages>,
) -> Result<Started, PrepareError> {
    let directory = &attempt.directory;
    if start.wanted.spec.command.is_empty() {
        return Err(PrepareError::NoCommand);
    }
    if let Some(tree) = &start.tree {
        lay_out(tree, &start.files, &directory.work()).map_err(PrepareError::Layout)?;
    }
    python::lay_out(&directory.temporary()).map_err(PrepareError::Directory)?;
    let submitter = &start.wanted.submitted_by;
    let mut confinement = shared
        .protection
        .confine(submitter, shared.config.max_processes);
    confinement
        .visible
        .extend(packages.map(|packages| packages.path.clone()));
    if let Some(account) = &confinement.account {
        hand_over(directory, account).map_err(PrepareError::Directory)?;
    }
    // After the layout, which may outlast a lease that is renewed meanwhile.
    let deadline_boottime_ms = attempt.known().deadline_boottime_ms;
    let order = order(
        shared,
        directory,
        start,
        (deadline_boottime_ms, &confinement),
        packages,
    );
    let order = Order::V3(order, confinement, start.gpu_terms());
    let file = durable_file::create(&directory.order(), &codec::encode(&order))
        .map_err(PrepareError::Order)?;
    if boottime_ms() >= deadline_boottime_ms {
        return Err(PrepareError::LeaseOver);
    }
    if let Some(reason) = attempt.known().stop.clone() {
        return Err(PrepareError::Stopped(reason));
    }
    let started = start_holder(shared, directory).map_err(PrepareError::Holder)?;
    let durable = file
        .sync_all()
        .and_then(|()| durable_file::sync_directory(&directory.root))
        .and_then(|()| durable_file::sync_directory(&shared.config.directory));
    if let Err(error) = durable {
        // Only a power cut could make a difference, and after one the attempt is over anyway.
        tracing::warn!(%error, path = %directory.root.display(), "order is not durable");
    }
    Ok(started)
}

/// Gives the job's user what is the job's, and the way to it.
fn hand_over(directory: &AttemptDirectory, account: &Account) -> io::Result<()> {
    make_passable(&directory.root)?;
    for path in [directory.work(), directory.temporary()] {
        give(&path, account)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o700))?;
    }
    std::fs::set_permissions(directory.records(), Permissions::from_mode(0o700))
}

fn order(
    shared: &Shared,
    directory: &AttemptDirectory,
    start: &StartAttempt,
    (deadline_boottime_ms, confinement): (u64, &Confinement),
    packages: Option<&Packages>,
) -> OrderV1 {
    let wanted = &start.wanted;
    let temporary = directory.temporary();
    let temporary = temporary
        .to_str()
        .expect("the attempts directory is text, and the rest is made of digits and letters");
    let machine_name = machine_name(shared, directory);
    OrderV1 {
        token: wanted.token,
        rank: wanted.rank,
        boot_id: shared.boot_id,
        command: wanted.spec.filled_command(),
        working_directory: wanted.spec.working_directory.clone(),
        variables: variables(
            &shared.host_variables,
            start,
            (temporary, &machine_name),
            confinement.account.as_ref(),
            &shared.config.mps_directory,
            packages,
        ),
        deadline_boottime_ms,
        stop_margin_ms: shared.config.stop_margin.0,
        time_limit_ms: wanted.spec.policy.time_limit_ms.0,
        stop_grace_ms: wanted.spec.policy.stop_grace_ms.0,
        stop_rule: wanted.spec.policy.stop_rule.clone(),
        outputs: wanted.spec.outputs.clone(),
        memory_bytes: wanted.resources.memory_bytes,
        cpu_milli: wanted.resources.cpu_milli,
        cgroups: shared.cgroups.named(&machine_name),
        segment_max_bytes: shared.config.segment_max_bytes,
        segment_max_age_ms: shared.config.segment_max_age.0,
    }
}

/// Names the attempt on this machine: its cgroups, and its processes in their environment. Several nodes on one machine may run ranks of the same attempt.
fn machine_name(shared: &Shared, directory: &AttemptDirectory) -> String {
    let hash = blake3::hash(shared.config.directory.as_os_str().as_encoded_bytes());
    let name = directory.root.file_name().unwrap_or_default();
    format!("muster-{}-{}", &hash.to_hex()[..8], name.display())
}

fn start_holder(shared: &Shared, directory: &AttemptDirectory) -> io::Result<Started> {
    let (stream, theirs) = UnixStream::pair()?;
    let log = durable_file::create(&directory.holder_log(), b"")?;
    let child = Command::new(&shared.config.holder_program)
        .args(&shared.config.holder_arguments)
        .arg(&directory.root)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .spawn()?;
    Ok(Started { child, stream })
}
