//! Leases on the leader: a new leader holds all of them for their full length; what runs out is given up.

use std::time::Duration;

use service::Handle;
use state_machine::{Command, LoseAttempt};
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
    let mut term = 0;
    loop {
        let led = {
            let now = leadership.borrow_and_update();
            now.is_self.then_some(now.term)
        };
        let wait = match led {
            Some(current) => {
                let fresh = term != current;
                term = current;
                watch(&handle, fresh).await
            }
            None => {
                term = 0;
                IDLE
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
            changed = applied.changed(), if led.is_some() => if changed.is_err() { return },
            () = handle.leases_changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Follows the state and gives up what is over; says how long nothing more will run out.
async fn watch(handle: &Handle, fresh: bool) -> Duration {
    let state = handle.consensus().state();
    let now = executor::boottime_ms();
    let (expired, next) = handle.with_leases_quietly(|leases| {
        if fresh {
            leases.hold_all(&state, now)
        } else {
            leases.refresh(&state, now)
        }
        (leases.expired(now), leases.next_expiry())
    });
    if !expired.is_empty() {
        for token in expired {
            lose(handle, token).await;
        }
        return RETRY;
    }
    next.map_or(IDLE, |at| Duration::from_millis(at.saturating_sub(now) + 1))
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
