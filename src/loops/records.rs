//! Records of running attempts: the open tail goes to the mirror each second, sealed segments become blobs.

use std::collections::BTreeMap;
use std::time::Duration;

use executor::{Phase, SealedSegment};
use service::{BulkMessage, BulkReply, Handle};
use state_machine::{Command, SealSegment};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::{AttemptToken, NodeId};

/// Time between two sendings of the open tail: what losing the running machine's disk may cost, less the second of
/// the holder's own sync.
const MIRROR_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks for mirrored tails that nobody needs any more.
const CLEAN_INTERVAL: Duration = Duration::from_secs(60);
/// Bytes sent at once.
const MIRROR_CHUNK: usize = 4 << 20;
/// Time for the mirror to make them durable.
const MIRROR_DEADLINE: Duration = Duration::from_secs(5);

/// A segment that the executor has sealed.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) token: AttemptToken,
    pub(crate) segment: SealedSegment,
}

/// How far the mirror of an attempt is: (segment, bytes).
type Progress = BTreeMap<AttemptToken, (u32, u64)>;

/// Mirrors and seals until cancelled.
pub(crate) async fn run(
    handle: Handle,
    mut sealed: mpsc::Receiver<Sealed>,
    cancel: CancellationToken,
) {
    let mut progress = Progress::new();
    let mut clean = tokio::time::interval(CLEAN_INTERVAL);
    clean.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Segments wait for a tick: those of an attempt that has ended by then travel with its report.
    let mut waiting = Vec::new();
    let mut tick = tokio::time::interval(MIRROR_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(done) = sealed.recv() => waiting.push(done),
            _ = clean.tick() => if let Err(error) = handle.clean_mirrors().await {
                tracing::warn!(%error, "old mirrored records not removed");
            },
            _ = tick.tick() => {
                for done in waiting.drain(..) {
                    if let Some(rank) = running_rank(&handle, &done.token) {
                        seal(&handle, done, rank).await;
                    }
                }
                mirror_all(&handle, &mut progress).await;
            }
        }
    }
}

/// The rank of an attempt that runs here.
fn running_rank(handle: &Handle, token: &AttemptToken) -> Option<u32> {
    let running = handle.executor().running();
    let runs = |status: &&executor::AttemptStatus| {
        status.token == *token && status.phase == Phase::Running
    };
    running.iter().find(runs).map(|status| status.rank)
}

async fn seal(handle: &Handle, sealed: Sealed, rank: u32) {
    let token = sealed.token;
    let segment = match handle.store_segment(&sealed.segment, rank).await {
        Ok(segment) => segment,
        Err(error) => return tracing::warn!(%token, %error, "segment not stored yet"),
    };
    if let Err(error) = handle
        .propose_as_node(Command::SealSegment(SealSegment { token, segment }))
        .await
    {
        tracing::debug!(%token, %error, "segment is named by the report at the end");
    }
}

async fn mirror_all(handle: &Handle, progress: &mut Progress) {
    let mirrors = mirrors(handle);
    progress.retain(|token, _| mirrors.contains_key(token));
    for (token, mirror) in mirrors {
        let at = progress.entry(token).or_default();
        if let Err(why) = mirror_one(handle, token, &mirror, at).await {
            tracing::debug!(%token, node_id = %mirror, why, "tail not mirrored");
        }
    }
}

/// Attempts that run here, with the node that keeps their second copy.
fn mirrors(handle: &Handle) -> BTreeMap<AttemptToken, NodeId> {
    let wanted = handle.wanted();
    let wanted = wanted.borrow();
    let attempts = wanted.iter().flat_map(|(set, _)| &set.attempts);
    attempts
        .filter_map(|attempt| Some((attempt.token, attempt.mirror.clone()?)))
        .collect()
}

async fn mirror_one(
    handle: &Handle,
    token: AttemptToken,
    mirror: &NodeId,
    at: &mut (u32, u64),
) -> Result<(), String> {
    loop {
        let unsealed = handle
            .executor()
            .unsealed(&token, at.0, at.1, MIRROR_CHUNK)
            .await;
        let unsealed = unsealed.map_err(|error| error.to_string())?;
        if unsealed.bytes.is_empty() {
            if unsealed.ended || !unsealed.complete {
                return Ok(());
            }
            *at = (at.0 + 1, 0);
            continue;
        }
        let message = BulkMessage::Mirror {
            token,
            segment: at.0,
            first_sequence: unsealed.first_sequence,
            offset: at.1,
            bytes: unsealed.bytes,
        };
        match handle
            .ask_bulk(mirror, &message, MIRROR_DEADLINE)
            .await
            .map_err(|error| error.message)?
        {
            BulkReply::Mirrored { segment, length } => *at = (segment, length),
            other => return Err(format!("answered {other:?}")),
        }
    }
}
