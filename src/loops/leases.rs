//! Leases on the leader: a new leader holds all of them for their full length; what runs out is given up.

use std::collections::BTreeMap;
use std::time::Duration;

use agent::leases::{LONG_WORK, Leased, lease_length};

use membership::Suspicion;
use service::Handle;
use state_machine::{Command, ExtendLease, LoseAttempt};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use types::{Cause, CauseKind};

/// Longest sleep without a lease: then nothing is to be watched.
const IDLE: Duration = Duration::from_secs(3_600);
/// Pause after a proposal that failed.
const RETRY: Duration = Duration::from_millis(200);
/// Attempts that are given up at one time: more than small experiments run on one machine, so that the last of them waits
/// for one silent mirror at most, and few enough for a mirror that seals a file for each.
const MOST_LOSSES: usize = 64;

/// Watches the leases while this node leads.
pub(crate) async fn run(handle: Handle, cancel: CancellationToken) {
    let mut leadership = handle.consensus().leader();
    let mut applied = handle.consensus().applied();
    let mut losses = Losses::default();
    loop {
        let (leads, term) = {
            let now = leadership.borrow_and_update();
            (now.is_self, now.term)
        };
        let wait = if leads {
            watch(&handle, term, &mut losses).await
        } else {
            IDLE
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
            changed = applied.changed(), if leads => if changed.is_err() { return },
            () = handle.leases_changed() => {}
            Some(ended) = losses.tasks.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "giving up an attempt ended by a panic");
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Attempts that are being given up, each by a task of its own: one whose mirror is silent holds up no other.
#[derive(Debug, Default)]
struct Losses {
    tasks: JoinSet<()>,
    open: BTreeMap<Leased, AbortHandle>,
}

impl Losses {
    /// Begins with those that are not being given up yet; the rest has its turn when others are done.
    fn begin(&mut self, handle: &Handle, term: u64, expired: Vec<Leased>) {
        self.open.retain(|_, task| !task.is_finished());
        for leased in expired {
            if self.open.len() < MOST_LOSSES && !self.open.contains_key(&leased) {
                let task = self.tasks.spawn(lose(handle.clone(), term, leased));
                self.open.insert(leased, task);
            }
        }
    }
}

/// Lengthens leases of long work, gives up what is over; says how long nothing more will be due.
async fn watch(handle: &Handle, term: u64, losses: &mut Losses) -> Duration {
    let extended = lengthen(handle).await;
    let looked = handle.with_leases(term, |leases, now| {
        let next = leases
            .next_expiry()
            .map(|at| Duration::from_millis(at.saturating_sub(now) + 1));
        (leases.expired(now), next)
    });
    let Some((expired, next)) = looked else {
        return IDLE; // Somebody else leads now, or this node in another term: the change wakes.
    };
    if expired.is_empty() {
        return next.unwrap_or(IDLE).min(extended);
    }
    losses.begin(handle, term, expired);
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

/// Gives up a rank whose lease was over in `term`, after its mirror has sealed what it kept.
async fn lose(handle: Handle, term: u64, leased: Leased) {
    let (token, number) = leased;
    let state = handle.consensus().state();
    let attempt = state
        .experiment(token.experiment)
        .and_then(|experiment| experiment.current_attempt().cloned());
    let Some(attempt) = attempt.filter(|attempt| attempt.token == token) else {
        return;
    };
    let Some(rank) = attempt.rank(number).filter(|rank| !rank.ended) else {
        return;
    };
    let segments = handle.seal_mirror_of(&attempt, number).await;
    let node = &rank.placement.node;
    let name = state.node(node).map(|record| record.facts.name.clone());
    let name = name.unwrap_or_else(|| node.short().to_owned());
    // Meanwhile the lead may have gone and come back; in a new term the lease is held again.
    let over = handle.with_leases(term, |leases, now| leases.expired(now).contains(&leased));
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
    // Before it is placed again: not there, until the node gives a sign of life.
    handle.suspect(node, Suspicion::LeaseOver);
    tracing::warn!(%token, rank = number, node = name, "attempt lost: its lease ran out");
    let command = Command::LoseAttempt(LoseAttempt {
        token,
        rank: number,
        cause: Cause::new(CauseKind::NodeLost, evidence),
        segments,
    });
    if let Err(error) = handle.propose_in_term(command, term).await {
        tracing::warn!(%token, rank = number, %error, "lost attempt not recorded yet");
        tokio::time::sleep(RETRY).await;
    }
}
