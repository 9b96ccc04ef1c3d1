//! Whom a node is linked with and how it reaches the others: with replicas always, with workers for a call.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use network::CallError;
use tokio::time::Instant;
use types::{LogIndex, MemberList, NodeId, codec};

use crate::handle::{Handle, lock};
use crate::peer_message::{PeerMessage, PeerReply};

/// A dial that takes longer may be to a node that nobody can dial: then it is told to dial. Far longer than a dial within
/// a building takes, and no longer than a person notices.
const DIAL_BACK_AFTER: Duration = Duration::from_millis(300);
/// Time for that word and the dial.
const DIAL_BACK: Duration = Duration::from_secs(5);

/// The replicas as the leader told them to a node without state, at this change of voters or learners.
pub(crate) type ToldReplicas = Option<(LogIndex, BTreeSet<NodeId>)>;

impl Handle {
    /// This node holds no replica since then, by the leader's word; these do.
    pub(crate) fn take_released(&self, at: LogIndex, replicas: Vec<NodeId>) {
        self.inner.released_at.fetch_max(at.0, Ordering::Relaxed);
        let mut told = lock(&self.inner.told_replicas);
        if told.as_ref().is_none_or(|(known, _)| at > *known) && !replicas.is_empty() {
            *told = Some((at, replicas.into_iter().collect()));
            drop(told);
            self.look_at_members_again();
        }
    }

    /// Who holds the state, as far as this node knows: its own replica, or the leader's last word, or the list.
    #[must_use]
    pub fn known_replicas(&self, list: &MemberList) -> BTreeSet<NodeId> {
        if self.is_replica() {
            let consensus = &self.inner.consensus;
            let voters = consensus.voters().into_iter();
            return voters.chain(consensus.learners()).collect();
        }
        let told = lock(&self.inner.told_replicas).clone();
        let listed = || {
            let members = list.members.iter().filter(|member| member.has_state);
            members.map(|member| member.node.clone()).collect()
        };
        told.map_or_else(listed, |(_, replicas)| replicas)
    }

    /// Whether there is a link to a member at this moment.
    pub(crate) fn is_connected(&self, node: &NodeId) -> bool {
        let peers = self.inner.network.peers();
        peers
            .iter()
            .any(|peer| peer.node == *node && peer.connected)
    }

    /// Asks a member. One that does not answer a dial of this node may be behind a router that lets nobody in: a replica,
    /// which it keeps a link with, tells it to dial this node.
    pub(crate) async fn rpc(
        &self,
        to: &NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let network = &self.inner.network;
        if self.is_replica() || self.is_connected(to) {
            return network.rpc(to, request, deadline).await;
        }
        let end = Instant::now() + deadline;
        let mut first = std::pin::pin!(network.rpc(to, request.clone(), deadline));
        let mut back = std::pin::pin!(self.ask_to_be_dialled(to));
        let (failed, dialled) = tokio::select! {
            answer = &mut first => match answer {
                Err(failed @ CallError::Unreachable { .. }) => {
                    // An error means that the caller's time is over.
                    (failed, tokio::time::timeout_at(end, back).await.unwrap_or(false))
                }
                answer => return answer,
            },
            dialled = &mut back => match first.await {
                Err(failed @ CallError::Unreachable { .. }) => (failed, dialled),
                answer => return answer,
            },
        };
        if !dialled {
            return Err(failed);
        }
        let left = end.saturating_duration_since(Instant::now());
        network.rpc(to, request, left).await
    }

    /// Whether a member dialled this node, told by a replica after a pause.
    async fn ask_to_be_dialled(&self, node: &NodeId) -> bool {
        tokio::time::sleep(DIAL_BACK_AFTER).await;
        let Some(list) = self.opened_members() else {
            return false;
        };
        let replicas = self.known_replicas(&list);
        let through = replicas
            .iter()
            .find(|replica| *replica != node && self.is_connected(replica));
        let Some(through) = through else { return false };
        let dial = PeerMessage::Dial {
            node: node.clone(),
            to: self.node_id().clone(),
        };
        self.tell_to_dial(through, &dial).await
    }

    /// Dials for another member, or passes it on to whom it is for.
    pub(crate) async fn answer_dial(&self, node: &NodeId, to: &NodeId) -> bool {
        let message = if node == self.node_id() {
            let in_doubt = false;
            return self.tell_to_dial(to, &PeerMessage::Ping { in_doubt }).await;
        } else if self.is_connected(node) {
            PeerMessage::Dial {
                node: node.clone(),
                to: to.clone(),
            }
        } else {
            return false;
        };
        self.tell_to_dial(node, &message).await
    }

    async fn tell_to_dial(&self, node: &NodeId, message: &PeerMessage) -> bool {
        let bytes = Bytes::from(codec::encode(message));
        match self.inner.network.rpc(node, bytes, DIAL_BACK).await {
            Ok(answer) => matches!(
                codec::decode(&answer, codec::MAX_MESSAGE_BYTES),
                Ok(PeerReply::Reached(true) | PeerReply::Done)
            ),
            Err(error) => {
                tracing::debug!(node_id = %node, %error, "no dial back");
                false
            }
        }
    }
}
