//! One attempt on this node: its way to the executor, and its report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use executor::{Phase, StartAttempt};
use service::{ErrorKind, Handle, ServiceError, now};
use state_machine::{AttemptEnd, AttemptReport, Command, ReportAttempt};
use tokio_util::sync::CancellationToken;
use types::{
    AttemptToken, BlobHash, Cause, CauseKind, DurationMs, Environment, EnvironmentSpec, SegmentRef,
    SourceTree, TreeEntryKind, WantedAttempt,
};

/// Records of a short attempt that travel inside its report.
const MAX_INLINE_RECORDS: usize = 4 << 10;

/// Attempts that the executor does not have yet, or never will. Cloneable.
#[derive(Clone, Default)]
pub(crate) struct Preparing {
    /// Source tree on its way: the newest lease deadline, and who cancels it.
    under_way: Arc<Mutex<BTreeMap<AttemptToken, (u64, CancellationToken)>>>,
    /// Over before a process was started, until the report is in the log.
    failed: Arc<Mutex<BTreeMap<AttemptToken, AttemptEnd>>>,
}

impl Preparing {
    /// Brings the source tree here and hands the attempt to the executor. True when it will not run: its end is kept
    /// for the report.
    pub(crate) async fn start(
        &self,
        handle: &Handle,
        wanted: WantedAttempt,
        deadline: u64,
    ) -> bool {
        let token = wanted.token;
        let cancel = CancellationToken::new();
        if lock(&self.under_way)
            .insert(token, (deadline, cancel.clone()))
            .is_some()
        {
            return false; // Under way already.
        }
        tracing::info!(%token, name = wanted.spec.name, "starting attempt");
        let prepared = tokio::select! {
            () = cancel.cancelled() => return true,
            fetched = fetch_all(handle, &wanted) => fetched,
        };
        let started = match prepared {
            Ok(((tree, files, variables), environment)) => {
                let Some((deadline_boottime_ms, _)) = lock(&self.under_way).remove(&token) else {
                    return true;
                };
                if let Some(kind) = handle.broken_gpu(&wanted.resources) {
                    let evidence = vec!["it had not started yet".to_owned()];
                    let end = end_without_process(Cause::new(kind, evidence));
                    lock(&self.failed).insert(token, end);
                    return true;
                }
                let start = StartAttempt {
                    gpus: handle.gpu_names(&wanted.resources),
                    wanted,
                    tree,
                    files,
                    environment,
                    deadline_boottime_ms,
                    variables,
                };
                handle
                    .executor()
                    .start_attempt(start)
                    .await
                    .map_err(|error| internal(&error))
            }
            Err(error) => Err(error),
        };
        let Err(error) = started else { return false };
        tracing::warn!(%token, %error, "attempt could not start");
        lock(&self.under_way).remove(&token);
        // What nobody reachable has now may be there for another node; what is wrong with the tree stays wrong.
        let kind = match error.kind {
            ErrorKind::Unavailable => CauseKind::RefusedByNode,
            _ => CauseKind::SourceTree,
        };
        let cause = Cause::new(kind, vec![error.message, error.hint]);
        lock(&self.failed).insert(token, end_without_process(cause));
        true
    }

    /// A later lease deadline for one that is under way.
    pub(crate) fn extend(&self, token: &AttemptToken, deadline: u64) {
        if let Some(entry) = lock(&self.under_way).get_mut(token) {
            entry.0 = entry.0.max(deadline);
        }
    }

    /// Cancels the preparation; its end is kept for the report. False if none is under way.
    pub(crate) fn cancel(&self, token: &AttemptToken, cause: Cause) -> bool {
        let Some((_, cancel)) = lock(&self.under_way).remove(token) else {
            return false;
        };
        lock(&self.failed).insert(*token, end_without_process(cause));
        cancel.cancel();
        true
    }

    /// The report is in the log.
    pub(crate) fn forget(&self, token: &AttemptToken) {
        lock(&self.failed).remove(token);
    }

    /// Reports the end of an attempt; true when it is in the log or was refused for good.
    pub(crate) async fn report_end(&self, handle: &Handle, token: AttemptToken, rank: u32) -> bool {
        let failed = lock(&self.failed).get(&token).cloned();
        let running = handle.executor().running();
        let status = running.into_iter().find(|status| status.token == token);
        let report = match (failed, status.map(|status| status.phase)) {
            (Some(end), _) => ended(end),
            (None, Some(Phase::Ended(known))) => {
                match report_of(handle, token, rank, known).await {
                    Ok(report) => report,
                    Err(error) => {
                        tracing::warn!(%token, %error, "records or outputs not stored yet; the report waits");
                        return false;
                    }
                }
            }
            (None, Some(Phase::Preparing | Phase::Running)) => return false,
            (None, None) => {
                let evidence = vec!["the node has no trace of it any more".to_owned()];
                ended(end_without_process(Cause::new(
                    CauseKind::HolderFailed,
                    evidence,
                )))
            }
        };
        send_report(handle, token, rank, report).await
    }
}

/// The end of an attempt that ran here, with all that it left stored.
async fn report_of(
    handle: &Handle,
    token: AttemptToken,
    rank: u32,
    known: executor::Ended,
) -> Result<AttemptReport, ServiceError> {
    let outputs = handle.keep_outputs(&token).await?;
    let cause = handle.with_gpu_facts(token, known.started_at, known.cause);
    let cause = cause.await;
    let end = AttemptEnd {
        cause: with_loss(handle, token, known.records, cause),
        at: known.ended_at,
        peak_memory_bytes: known.peak_memory_bytes,
        peak_vram_bytes: known.peak_vram_bytes,
        cpu_ms: DurationMs(known.cpu_ms),
        tree_kill_method: known.tree_kill_method,
        outputs: outputs.map(Box::new),
    };
    let alone = is_alone(handle, &token);
    let (segments, inline_records) = collect_records(handle, token, rank, alone).await?;
    Ok(AttemptReport::Ended {
        end,
        segments,
        inline_records,
    })
}

/// A source tree, the files of it, and the variables that this node adds.
type Source = (
    Option<SourceTree>,
    BTreeMap<BlobHash, std::path::PathBuf>,
    Vec<(String, String)>,
);

/// What the attempt needs from the cluster, on this node.
async fn fetch_all(
    handle: &Handle,
    wanted: &WantedAttempt,
) -> Result<(Source, Option<EnvironmentSpec>), ServiceError> {
    let source = fetch(handle, wanted).await?;
    let environment = match &wanted.spec.environment {
        Environment::Host => None,
        Environment::Locked(named) => Some(handle.environment_spec(named.spec).await?),
    };
    Ok((source, environment))
}

/// The source tree and its files.
async fn fetch(handle: &Handle, wanted: &WantedAttempt) -> Result<Source, ServiceError> {
    let mut variables = handle.gang_variables(wanted)?;
    variables.extend(handle.report_variables(wanted));
    let Some(source) = &wanted.spec.source else {
        return Ok((None, BTreeMap::new(), variables));
    };
    let tree = handle.source_tree(source.tree, &[]).await?;
    let SourceTree::V1 { entries, .. } = &tree;
    let hashes = entries.iter().filter_map(|entry| match &entry.kind {
        TreeEntryKind::File { hash, .. } => Some(*hash),
        TreeEntryKind::Symlink { .. } | TreeEntryKind::Directory => None,
    });
    let hashes: Vec<_> = hashes.collect();
    handle.fetch_blobs(&hashes, &[]).await?;
    let files = hashes
        .into_iter()
        .map(|hash| (hash, handle.blob_store().path(&hash)))
        .collect();
    Ok((Some(tree), files, variables))
}

/// All records of an ended attempt: inline when few, else as blobs on their copies.
async fn collect_records(
    handle: &Handle,
    token: AttemptToken,
    rank: u32,
    may_inline: bool,
) -> Result<(Vec<SegmentRef>, Bytes), ServiceError> {
    let sealed = handle
        .executor()
        .sealed_segments(&token)
        .map_err(|error| internal(&error))?;
    let total: u64 = sealed.iter().map(|segment| segment.summary.bytes).sum();
    if may_inline && total <= MAX_INLINE_RECORDS as u64 {
        let read = handle
            .executor()
            .read_tail(&token, 0, MAX_INLINE_RECORDS)
            .await
            .map_err(|error| internal(&error))?;
        return Ok((Vec::new(), read.frames));
    }
    let mut segments = Vec::with_capacity(sealed.len());
    for segment in &sealed {
        segments.push(handle.store_segment(segment, rank).await?);
    }
    Ok((segments, Bytes::new()))
}

/// It is known to be the only rank: its few records may travel in the report. Blobs are good for all.
fn is_alone(handle: &Handle, token: &AttemptToken) -> bool {
    let wanted = handle.wanted();
    let wanted = wanted.borrow();
    let mut attempts = wanted.iter().flat_map(|(set, _)| &set.attempts);
    attempts.any(|attempt| attempt.token == *token && attempt.gang.is_empty())
}

/// Says so in the evidence when not all records could be kept.
fn with_loss(handle: &Handle, token: AttemptToken, records: u64, cause: Cause) -> Cause {
    let sealed = handle
        .executor()
        .sealed_segments(&token)
        .unwrap_or_default(); // Unknown here: then it has no records.
    let kept = sealed
        .last()
        .map_or(0, |segment| segment.summary.end_sequence);
    if kept >= records {
        return cause;
    }
    tracing::error!(%token, kept, records, "records of an attempt could not be sealed");
    let line = format!(
        "only {kept} of {records} records of its output could be kept: see the log of its node"
    );
    let evidence = [vec![line], cause.evidence.clone()].concat();
    cause.with_evidence(evidence)
}

/// Proposes a report; true when it is in the log or was refused for good.
pub(crate) async fn send_report(
    handle: &Handle,
    token: AttemptToken,
    rank: u32,
    report: AttemptReport,
) -> bool {
    let node = handle.node_id().clone();
    let command = Command::ReportAttempt(Box::new(ReportAttempt {
        token,
        node,
        rank,
        report,
    }));
    match handle.propose_as_node(command).await {
        Ok(_) => true,
        Err(error) if error.kind == ErrorKind::Unavailable => false,
        Err(error) => {
            tracing::warn!(%token, %error, "report refused");
            true
        }
    }
}

/// A report without records.
pub(crate) fn ended(end: AttemptEnd) -> AttemptReport {
    AttemptReport::Ended {
        end,
        segments: Vec::new(),
        inline_records: Bytes::new(),
    }
}

/// The end of an attempt that never had a process.
pub(crate) fn end_without_process(cause: Cause) -> AttemptEnd {
    AttemptEnd {
        cause,
        at: now(),
        peak_memory_bytes: 0,
        peak_vram_bytes: 0,
        cpu_ms: DurationMs(0),
        tree_kill_method: String::new(),
        outputs: None,
    }
}

fn internal(error: &executor::Error) -> ServiceError {
    ServiceError::new(ErrorKind::Internal, "executor", error.to_string())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
