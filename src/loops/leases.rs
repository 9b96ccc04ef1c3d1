//! Leases on the leader: a new leader holds all of them for their full length; what runs out is given up.

use std::time::Duration;

use agent::leases::{LONG_WORK, lease_length};

use membership::Suspicion;
use service::Handle;
use state_machine::{Command, ExtendLease, LoseAttempt};
use tokio_util::sync::CancellationToken;
use types::{AttemptToken, Cause, CauseKind};

/// Longest sleep without a lease: then nothing is to be watched.
const IDLE: Duration = Duration::from_secs(3_600);
/// Pause after a proposal that failed.
const RETRY: Duration = Duration::from_millis(200);

/// Watches the leases while this node leads.
pub(crate) async fn run(handle: Handle, cancel: CancellationToken) {
    let mut leadership = handle.consensus().leader();
    let mut applied = handle.consensus().applied();
    loop {
        let leads = leadership.borrow_and_update().is_self;
        let wait = if leads { watch(&handle).await } else { IDLE };
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
            changed = applied.changed(), if leads => if changed.is_err() { return },
            () = handle.leases_changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Lengthens leases of long work, gives up what is over; says how long nothing more will be due.
async fn watch(handle: &Handle) -> Duration {
    let extended = lengthen(handle).await;
    let looked = handle.with_leases(|leases, now| {
        let next = leases
            .next_expiry()
            .map(|at| Duration::from_millis(at.saturating_sub(now) + 1));
        (leases.expired(now), next)
    });
    let Some((expired, next)) = looked else {
        return IDLE; // Somebody else leads now.
    };
    if expired.is_empty() {
        return next.unwrap_or(IDLE).min(extended);
    }
    for token in expired {
        lose(handle, token).await;
    }
    RETRY
}

/// Commits the long lease for attempts that have run long (invariant 11); says when the next one will have.
async fn lengthen(handle: &Handle) -> Duration {
    let state = handle.consensus().state();
    let mut next = IDLE;
    for (experiment, attempt) in state.active() {
        let Some(since) = attempt.ranks.iter().find_map(|rank| rank.started_at) else {
            continue;
        };
        let now = handle.cluster_time();
        let ran = now.since(since);
        let lease_ms = lease_length(&experiment.spec.policy, Some(since), now);
        if lease_ms > attempt.lease_ms {
            let reason = format!("it has run for {ran}");
            let extend = ExtendLease {
                token: attempt.token,
                lease_ms,
                reason,
            };
            if let Err(error) = handle.propose_as_node(Command::ExtendLease(extend)).await {
                tracing::debug!(token = %attempt.token, %error, "lease not lengthened yet");
                next = RETRY;
            }
        } else if ran < LONG_WORK {
            next = next.min(Duration::from_millis(LONG_WORK.0 - ran.0 + 1));
        }
    }
    next
}

async fn lose(handle: &Handle, token: AttemptToken) {
    let state = handle.consensus().state();
    let attempt = state
        .experiment(token.experiment)
        .and_then(|experiment| experiment.current_attempt().cloned());
    let Some(attempt) = attempt.filter(|attempt| attempt.token == token) else {
        return;
    };
    let segments = handle.seal_mirror_of(&attempt).await;
    let node = attempt
        .ranks
        .first()
        .map(|rank| rank.placement.node.clone());
    let name = node
        .as_ref()
        .and_then(|node| state.node(node))
        .map(|record| record.facts.name.clone())
        .unwrap_or_default();
    // Meanwhile the lead may have gone and come back; in a new term the lease is held again.
    let over = handle.with_leases(|leases, now| leases.expired(now).contains(&token));
    if over != Some(true) {
        return;
    }
    let evidence = vec![
        format!(
            "{name} did not renew the lease of {} in time",
            attempt.lease_ms
        ),
        format!(
            "{} segments of its output were saved by its mirror",
            segments.len()
        ),
    ];
    if let Some(node) = &node {
        // Before it is placed again: not there, until the node gives a sign of life.
        handle.suspect(node, Suspicion::LeaseOver);
    }
    tracing::warn!(%token, node = name, "attempt lost: its lease ran out");
    let cause = Cause::new(CauseKind::NodeLost, evidence);
    if let Err(error) = handle
        .propose_as_node(Command::LoseAttempt(LoseAttempt {
            token,
            cause,
            segments,
        }))
        .await
    {
        tracing::warn!(%token, %error, "lost attempt not recorded yet");
    }
}
