//! Who is there: questions to members that are silent, and what the answers mean.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use membership::{Action, Candidate, Detector, Input, Replicas, Suspicion, Timing, VoterPlan};
use state_machine::ClusterState;
use tokio::time::Instant;
use types::{DurationMs, NodeId, Timestamp};

use crate::handle::{Handle, lock, view_now};
use crate::peer_message::{PeerMessage, PeerReply};

/// Time between two looks at who is silent: a fraction of the shortest patience.
const LOOK: Duration = Duration::from_millis(200);
/// A question is waited for so many times its time: an answer that comes too late still says that the member lives.
const LATE_ANSWERS: u32 = 4;
/// Part of the time of a helper after which it says that it did not reach the member, so that its word comes in time.
const HELPERS_PART: u32 = 2;
/// How long a refusal by a member counts: some rounds of looking for a leader.
const REFUSAL_COUNTS: DurationMs = DurationMs::from_secs(15);
/// Longest time that a helper spends on a question of another node.
const MOST_HELP: Duration = Duration::from_secs(30);

/// What a node knows of the others' liveness beside their reports.
#[derive(Debug)]
pub(crate) struct Liveness {
    detector: Detector,
    /// When this node began to look.
    watching_since: Timestamp,
}

impl Liveness {
    pub(crate) fn new() -> Self {
        Self {
            detector: Detector::new(Timing::lan()),
            watching_since: view_now(),
        }
    }
}

impl Handle {
    /// Watches the other members as long as this node holds the state.
    pub async fn watch_members(&self) -> Infallible {
        let mut due = Instant::now();
        loop {
            due += LOOK;
            tokio::time::sleep_until(due).await;
            let late = due.elapsed();
            if late >= LOOK {
                due = Instant::now();
            }
            for action in self.look(late) {
                self.perform(action);
            }
        }
    }

    fn look(&self, late: Duration) -> Vec<Action> {
        let state = self.inner.consensus.state();
        let others = state
            .nodes()
            .map(|record| record.node.clone())
            .filter(|node| node != self.node_id() && self.is_replica());
        let others: Vec<_> = others.collect();
        let late = DurationMs(u64::try_from(late.as_millis()).unwrap_or(u64::MAX));
        let mut liveness = lock(&self.inner.liveness);
        let detector = &mut liveness.detector;
        detector.keep_time(Timing::named(state.timing()));
        detector.watch(others, self.is_leader(), view_now());
        detector.step(view_now(), Input::Look { late })
    }

    fn perform(&self, action: Action) {
        let handle = self.clone();
        match action {
            Action::Ask {
                node,
                within,
                in_doubt,
            } => {
                tokio::spawn(async move { handle.ping(&node, within.into(), in_doubt).await });
            }
            Action::AskThrough {
                node,
                helpers,
                within,
            } => {
                for helper in helpers {
                    let (handle, node) = (handle.clone(), node.clone());
                    tokio::spawn(async move {
                        let reached = handle.reach_through(&helper, &node, within).await;
                        let help = Input::Helper {
                            node: node.clone(),
                            helper,
                            reached,
                        };
                        if reached == Some(true) {
                            handle.hear(&node);
                        }
                        handle.tell_detector(help);
                    });
                }
            }
            Action::Suspect(node) => self.suspect(&node, Suspicion::NoAnswer),
        }
    }

    /// Asks a member whether it is there.
    pub(crate) async fn ping(&self, node: &NodeId, within: Duration, in_doubt: bool) {
        let asked = self
            .ask(node, &PeerMessage::Ping { in_doubt }, within * LATE_ANSWERS)
            .await;
        match asked {
            Ok(_) => self.hear(node),
            Err(_) => self.tell_detector(Input::Failed(node.clone())),
        }
    }

    async fn reach_through(
        &self,
        helper: &NodeId,
        node: &NodeId,
        within: DurationMs,
    ) -> Option<bool> {
        let message = PeerMessage::Reach {
            node: node.clone(),
            within,
        };
        match self.ask(helper, &message, within.into()).await {
            Ok(PeerReply::Reached(reached)) => Some(reached),
            Ok(_) | Err(_) => None,
        }
    }

    /// Asks a member for another node that misses it.
    pub(crate) async fn answer_reach(&self, node: &NodeId, within: DurationMs) -> bool {
        let within = Duration::from(within).min(MOST_HELP) / HELPERS_PART;
        let in_doubt = true;
        let reached = self
            .ask(node, &PeerMessage::Ping { in_doubt }, within)
            .await
            .is_ok();
        if reached {
            self.hear(node);
        }
        reached
    }

    /// Another node is in doubt about this one: it may be this one that is slow, and it speaks up.
    pub(crate) fn answer_ping(&self, in_doubt: bool) {
        if in_doubt {
            self.tell_detector(Input::InDoubt);
            self.inner.speak_up.notify_one();
        }
    }

    /// Resolves when this node should tell everybody that it is there.
    pub async fn asked_to_speak_up(&self) {
        self.inner.speak_up.notified().await;
    }

    pub(crate) fn note_refused(&self) {
        self.inner.refused_at.store(view_now().0, Ordering::Relaxed);
    }

    /// Whether a member has lately said that it does not know this node: it may have been taken out.
    #[must_use]
    pub fn was_refused_lately(&self) -> bool {
        let at = self.inner.refused_at.load(Ordering::Relaxed);
        at > 0 && view_now().since(Timestamp(at)) < REFUSAL_COUNTS
    }

    /// The cluster has proven that this node was taken out; `text` is for people.
    pub fn note_removed(&self, text: String) {
        self.inner.removed.send_replace(Some(text));
    }

    /// Resolves when this node was taken out of the cluster: by whom and why.
    pub async fn removed(&self) -> String {
        let mut removed = self.inner.removed.subscribe();
        loop {
            if let Some(text) = removed.borrow_and_update().clone() {
                return text;
            }
            if removed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes in a sign of life of a member.
    pub(crate) fn hear(&self, node: &NodeId) {
        self.tell_detector(Input::Heard(node.clone()));
        if lock(&self.inner.view).hear(node, view_now()) {
            tracing::info!(node_id = %node, "member is there again");
            self.inner.view_changed.notify_one();
        }
    }

    /// Places nothing on a member until its next sign of life.
    pub fn suspect(&self, node: &NodeId, why: Suspicion) {
        if lock(&self.inner.view).suspect(node, view_now(), why) {
            tracing::warn!(node_id = %node, %why, "member is suspect");
        }
    }

    pub(crate) fn tell_detector(&self, input: Input) {
        lock(&self.inner.liveness).detector.step(view_now(), input);
    }

    /// The members as those who may vote, the replicas there are, and those there should be, as this node sees it.
    #[must_use]
    pub fn voter_plan(&self, state: &ClusterState) -> (Vec<Candidate>, Replicas, VoterPlan) {
        let consensus = &self.inner.consensus;
        let since = lock(&self.inner.liveness).watching_since;
        let members = membership::candidates(state, &self.view(), view_now(), since);
        let now = Replicas {
            voters: consensus.voters(),
            learners: consensus.learners(),
            leader: consensus.leader().borrow().leader.clone(),
        };
        let plan = membership::choose_voters(&members, &now);
        (members, now, plan)
    }
}
