//! Who leads: openraft's view, made careful about this node.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Instant as _, ServerState};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::NodeId;

use crate::config::Timing;
use crate::error::chain;
use crate::failure::Failure;
use crate::published::Published;
use crate::raft_types::Raft;

/// Who leads, as one replica sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Raft's term; at most one node leads in it, so it is a fence.
    pub term: u64,
    /// When this replica learned of it.
    pub since: Instant,
    /// This node was elected, has applied everything up to its own first entry, and a majority has
    /// answered it lately.
    pub is_self: bool,
}

impl Leadership {
    pub(crate) fn unknown() -> Self {
        Self {
            leader: None,
            term: 0,
            since: Instant::now(),
            is_self: false,
        }
    }
}

/// Keeps `leadership` up to date, and reports when Raft dies by itself.
pub(crate) async fn watch_leadership(
    raft: Raft,
    published: Arc<Published>,
    leadership: watch::Sender<Leadership>,
    watcher: Watcher,
) {
    let mut server = raft.server_metrics();
    let mut applied = published.applied();
    let mut tick = tokio::time::interval(Duration::from_millis(watcher.timing.heartbeat_ms));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let waits_for_apply = watcher.refresh(&raft, &published, &leadership);
        tokio::select! {
            () = watcher.stop.cancelled() => return,
            changed = server.changed() => if changed.is_err() {
                // Raft has ended: say so once more. One that panicked has left no word in its metrics.
                watcher.refresh(&raft, &published, &leadership);
                if !watcher.stop.is_cancelled() {
                    watcher.failure.report("consensus stopped: its task has ended");
                }
                return;
            },
            changed = applied.changed(), if waits_for_apply => if changed.is_err() { return },
            _ = tick.tick() => {}
        }
    }
}

/// Settings of [`watch_leadership`].
pub(crate) struct Watcher {
    pub(crate) node: NodeId,
    pub(crate) timing: Timing,
    pub(crate) failure: Failure,
    pub(crate) stop: CancellationToken,
}

impl Watcher {
    /// Publishes the newest view; true if this node leads but has not applied its first entry.
    fn refresh(
        &self,
        raft: &Raft,
        published: &Published,
        leadership: &watch::Sender<Leadership>,
    ) -> bool {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        if let Err(fatal) = &metrics.running_state
            && !self.stop.is_cancelled()
        {
            self.failure
                .report(format!("consensus stopped: {}", chain(fatal)));
        }
        let term = metrics.current_term;
        let works = metrics.running_state.is_ok() && self.failure.why().is_none();
        let leads = metrics.state == ServerState::Leader && works;
        let applied = published.term() == term;
        let alone = metrics.membership_config.voter_ids().nth(1).is_none();
        let limit = self.timing.election_max() * 2;
        let answered = metrics
            .last_quorum_acked
            .as_ref()
            .is_some_and(|at| at.elapsed() < limit);
        let is_self = leads && applied && (alone || answered);
        let leader = metrics
            .current_leader
            .as_ref()
            .map(|replica| replica.0.clone());
        let leader = leader.filter(|leader| *leader != self.node || is_self);
        drop(metrics);
        leadership.send_if_modified(|now| {
            if now.leader == leader && now.term == term && now.is_self == is_self {
                return false;
            }
            tracing::info!(node_id = ?leader, term, is_self, "leader changed");
            *now = Leadership {
                leader,
                term,
                since: Instant::now(),
                is_self,
            };
            true
        });
        leads && !applied
    }
}
