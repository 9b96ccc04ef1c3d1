//! Why nothing can be written, in words; and waiting until it can.

use std::time::Duration;

use consensus::ProposeError;
use tokio::time::Instant;
use types::NodeId;

use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, lock};
use crate::peer_message::{PeerMessage, PeerReply};

/// Log entries that the next leader may lack: it gets them before it takes over.
const HEIR_LAG: u64 = 500;

impl Handle {
    /// Waits until somebody leads; false when the deadline came first.
    pub(crate) async fn wait_for_leader(&self, deadline: Instant) -> bool {
        let mut leadership = self.inner.consensus.leader();
        let pause = tokio::time::sleep(Duration::from_millis(20));
        tokio::pin!(pause);
        loop {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::select! {
                () = &mut pause => return true,
                changed = leadership.changed() => if changed.is_ok() && leadership.borrow().leader.is_some() {
                    return true;
                },
                () = tokio::time::sleep_until(deadline) => return false,
            }
        }
    }

    /// Before an orderly stop: lets another voter lead, so that nobody has to miss this one first. The vote is kept: a
    /// restart is short, and `muster node drain` is for longer absences.
    pub async fn lead_elsewhere(&self) {
        if !self.is_leader() {
            return;
        }
        let consensus = &self.inner.consensus;
        let ready = consensus.caught_up(HEIR_LAG);
        let peers = self.inner.network.peers();
        let connected = |node: &NodeId| {
            peers
                .iter()
                .any(|peer| peer.node == *node && peer.connected)
        };
        let heir = consensus
            .voters()
            .into_iter()
            .filter(|node| node != self.node_id() && ready.contains(node))
            .find(connected);
        let Some(heir) = heir else { return };
        match consensus.transfer_leader(heir.clone()).await {
            Ok(()) => tracing::info!(node_id = %heir, "handed the lead over"),
            Err(error) => tracing::info!(%error, "lead not handed over"),
        }
    }

    /// Some member that holds the state, best connected first.
    pub(crate) fn any_replica(&self) -> Option<NodeId> {
        let list = self.opened_members()?;
        let known = self.known_replicas(&list);
        let others = list
            .members
            .into_iter()
            .filter(|member| member.node != *self.node_id());
        let (replicas, others): (Vec<_>, Vec<_>) =
            others.partition(|member| known.contains(&member.node));
        let peers = self.inner.network.peers();
        let connected = |node: &NodeId| {
            peers
                .iter()
                .any(|peer| peer.node == *node && peer.connected)
        };
        let best = replicas.iter().find(|member| connected(&member.node));
        // The list may be older than the last change of voters: any connected member that may vote knows more.
        let other = || {
            others
                .iter()
                .find(|member| member.facts.may_vote && connected(&member.node))
        };
        // Else one that is dialled for this; another one each time, for it may be down.
        let any = || replicas.get(rand::random_range(0..replicas.len().max(1)));
        let best = best.or_else(other).or_else(any);
        best.map(|member| member.node.clone())
    }

    /// Asks whoever leads, or any replica that knows who does. Given up as soon as another leader is known: the
    /// old one may be dead, and requests carry ids, so that asking again is safe.
    pub(crate) async fn ask_leader(
        &self,
        message: &PeerMessage,
        deadline: Duration,
    ) -> Result<PeerReply, ServiceError> {
        let Some(target) = self.leader().or_else(|| self.any_replica()) else {
            return Err(ServiceError::new(
                ErrorKind::Unavailable,
                "no-leader",
                "no leader is known",
            ));
        };
        let mut leadership = self.inner.consensus.leader();
        let replaced =
            leadership.wait_for(|now| now.leader.as_ref().is_some_and(|leader| *leader != target));
        tokio::select! {
            answer = self.ask(&target, message, deadline) => answer.inspect_err(|_| self.set_leader_hint(None)),
            _ = replaced, if self.is_replica() => {
                Err(ServiceError::new(ErrorKind::Unavailable, "leader-changed", "another node leads now"))
            }
        }
    }

    /// Remembers the leader that a `not-leader` answer names.
    pub(crate) fn follow_hint(&self, error: ServiceError) -> ServiceError {
        if error.code == "not-leader" {
            self.set_leader_hint(
                error
                    .hint
                    .parse()
                    .ok()
                    .filter(|leader| leader != self.node_id()),
            );
        }
        error
    }

    /// The error of a node that is asked to lead and does not; its hint is the leader's id, for the asking node.
    pub(crate) fn not_leader(&self) -> ServiceError {
        let leader = self
            .leader()
            .map(|leader| leader.to_string())
            .unwrap_or_default();
        ServiceError::new(
            ErrorKind::Unavailable,
            "not-leader",
            "this node does not lead",
        )
        .hint(leader)
    }

    pub(crate) fn propose_error(&self, error: &ProposeError) -> ServiceError {
        match error {
            ProposeError::NotLeader { .. } => self.not_leader(),
            ProposeError::TooLarge { .. } => {
                ServiceError::new(ErrorKind::TooLarge, "too-large", error.to_string())
            }
            ProposeError::DiskFull { .. } => {
                ServiceError::new(ErrorKind::Unavailable, "disk-full", error.to_string())
            }
            other => self.no_leader(&other.to_string()),
        }
    }

    /// The error that a person reads when the cluster cannot decide, with who is missing and what to do.
    pub(crate) fn no_leader(&self, detail: &str) -> ServiceError {
        match self.problem() {
            Some((message, hint)) => {
                ServiceError::new(ErrorKind::Unavailable, "no-quorum", message).hint(hint)
            }
            None => {
                let message = format!("no leader answered in time: {detail}");
                let error = ServiceError::new(ErrorKind::Unavailable, "no-leader", message);
                error.hint("try again in a few seconds; nothing was lost")
            }
        }
    }

    /// What is wrong with the cluster as seen from here, and what to do; none when a leader is known.
    pub(crate) fn problem(&self) -> Option<(String, String)> {
        let voters = self.inner.consensus.voters();
        let me = self.node_id();
        let facts = self.member_facts();
        let name = |node: &NodeId| {
            facts
                .get(node)
                .map_or_else(|| node.short().to_owned(), |facts| facts.name.clone())
        };
        if voters.is_empty() {
            let connected = self.inner.network.peers().iter().any(|peer| peer.connected);
            if connected {
                return None;
            }
            let hint =
                "start a machine of the cluster, or check the network between them".to_owned();
            return Some((
                "this node reaches no member of its cluster".to_owned(),
                hint,
            ));
        }
        let peers = self.inner.network.peers();
        let reached = |node: &NodeId| {
            *node == *me
                || peers
                    .iter()
                    .any(|peer| peer.node == *node && peer.connected)
        };
        let (up, missing): (Vec<_>, Vec<_>) = voters.iter().partition(|node| reached(node));
        let majority = voters.len() / 2 + 1;
        if up.len() >= majority {
            return None;
        }
        let missing: Vec<_> = missing.into_iter().map(&name).collect();
        let message = format!(
            "no majority: this node reaches {} of {} voters (not: {}), and {majority} are needed to decide anything",
            up.len(),
            voters.len(),
            missing.join(", ")
        );
        let hint = format!(
            "start muster on {} or mend the network; running experiments go on until their lease ends, and reads work with --stale",
            missing.join(" or ")
        );
        Some((message, hint))
    }

    /// The last member list of the cluster, checked when it was stored.
    pub(crate) fn opened_members(&self) -> Option<types::MemberList> {
        let signed = lock(&self.inner.members).clone()?;
        types::codec::decode(&signed.list, types::codec::MAX_MESSAGE_BYTES).ok() // Checked before it was kept.
    }
}
