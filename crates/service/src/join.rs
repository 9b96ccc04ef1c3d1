//! Admission: what a stranger may ask, and the signed member list.

use std::time::Duration;

use bytes::Bytes;
use state_machine::{AdmitNode, ClusterState, Command, Entrance, ReplaceNode};
use types::{
    JoinProof, JoinReply, JoinRequest, MemberList, NodeFacts, NodeId, SignedMemberList, TokenId,
    codec, rejoin_bytes,
};

use crate::doorkeeper::refuse_wrong_clock;
use crate::error::ServiceError;
use crate::experiment_views::with_names;
use crate::handle::{Handle, lock};
use crate::peer_message::PeerMessage;

/// Time for a removed node to hear of it before it is cut off.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(1);
/// Earlier identities of a machine that are looked at.
const MAX_EARLIER_IDENTITIES: usize = 8;
/// Largest request of a stranger.
const MAX_JOIN_BYTES: usize = 64 << 10;

impl Handle {
    /// Answers a stranger.
    pub async fn answer_join(&self, from: &NodeId, source: &str, request: &Bytes) -> Bytes {
        let reply = match codec::decode(request, MAX_JOIN_BYTES) {
            Ok(JoinRequest::V1 {
                token,
                proof,
                facts,
            }) => match self.check_join(from, source, &token, &proof).await {
                Ok(()) => self.admit(from, token, facts, None).await,
                Err(refusal) => refusal,
            },
            Ok(JoinRequest::Again {
                token,
                proof,
                facts,
                was,
            }) => match self.check_join(from, source, &token, &proof).await {
                Ok(()) => {
                    let old = self.earlier_identity(from, &token, &proof, &was);
                    self.admit(from, token, facts, old).await
                }
                Err(refusal) => refusal,
            },
            Ok(JoinRequest::Members) => self.answer_members(from),
            Err(error) => refused(
                "unreadable",
                &format!("the request cannot be read: {error}"),
            ),
        };
        codec::encode(&reply).into()
    }

    /// Whether the stranger knows the token's secret. Its number of bad tries is bounded, and its state not yet touched.
    async fn check_join(
        &self,
        from: &NodeId,
        source: &str,
        token: &TokenId,
        proof: &JoinProof,
    ) -> Result<(), JoinReply> {
        if !self.is_replica() {
            return Err(refused(
                "not-a-member",
                "ask another member: this node does not hold the cluster's state",
            ));
        }
        let from_error = |error: ServiceError| refused(&error.code, &error.message);
        refuse_wrong_clock().map_err(from_error)?;
        // A joiner tries again and again while there is no leader, with a token of which nobody knows yet whether it is good.
        self.refuse_locked_out(Entrance::Join, source, &[0; 32])
            .map_err(from_error)?;
        let patience = self.inner.config.write_patience;
        if let Err(error) = self.inner.consensus.read_index(patience).await {
            let message = self.no_leader(&error.to_string()).message;
            return Err(refused("no-leader", &message));
        }
        let state = self.inner.consensus.state();
        let Some(verifier) = state.join_token(token).map(|known| known.verifier) else {
            self.note_bad_token(Entrance::Join, source);
            return Err(refused(
                "unknown-token",
                "this token is unknown here: it was revoked, is long over, or belongs to another cluster; make one with `muster token new`",
            ));
        };
        if !proof.verify(&verifier, from, self.node_id()) {
            tracing::warn!(peer_id = %from, %token, "wrong join proof");
            self.note_bad_token(Entrance::Join, source);
            return Err(refused(
                "bad-proof",
                "the token's secret is wrong: copy the whole token again",
            ));
        }
        Ok(())
    }

    /// The newest earlier identity of a machine that is still a member and whose key the machine holds.
    fn earlier_identity(
        &self,
        from: &NodeId,
        token: &TokenId,
        proof: &JoinProof,
        was: &[(NodeId, Vec<u8>)],
    ) -> Option<NodeId> {
        let state = self.inner.consensus.state();
        let holds_key = |(old, signature): &&(NodeId, Vec<u8>)| {
            old != from
                && state.node(old).is_some()
                && network::verify(old, &rejoin_bytes(token, proof, old, from), signature)
        };
        let mut known = was.iter().take(MAX_EARLIER_IDENTITIES);
        known.find(holds_key).map(|(old, _)| old.clone())
    }

    async fn admit(
        &self,
        from: &NodeId,
        token: TokenId,
        facts: NodeFacts,
        old: Option<NodeId>,
    ) -> JoinReply {
        let admit = AdmitNode {
            token,
            node: from.clone(),
            facts,
        };
        let command = match old {
            Some(old) => Command::ReplaceNode(Box::new(ReplaceNode { admit, old })),
            None => Command::AdmitNode(admit),
        };
        match self.propose_admission(command).await {
            Ok(()) => match self.signed_members() {
                Some(members) => JoinReply::Admitted { members },
                None => refused(
                    "no-cluster-key",
                    "this node cannot sign the member list: join through another member",
                ),
            },
            Err(error) => refused(&error.code, &error.message),
        }
    }

    /// Admission goes through the leader; the member that checked the proof vouches for it.
    async fn propose_admission(&self, command: Command) -> Result<(), ServiceError> {
        self.propose_as_node(command).await.map(drop)
    }

    fn answer_members(&self, from: &NodeId) -> JoinReply {
        let state = self.inner.consensus.state();
        if let (Some(message), Some(members)) = (farewell(&state, from), self.signed_members()) {
            return JoinReply::Removed { members, message };
        }
        let known = self.member_facts().contains_key(from);
        match self.signed_members().filter(|_| known) {
            Some(members) => JoinReply::Admitted { members },
            None => refused("not-a-member", "this peer is not in the member list"),
        }
    }

    /// The member list: made and signed here if this node can, else the last one it was given.
    #[must_use]
    pub fn signed_members(&self) -> Option<SignedMemberList> {
        let consensus = &self.inner.consensus;
        if self.is_replica()
            && let Some(key) = lock(&self.inner.cluster_key).as_ref()
        {
            let (voters, learners) = (consensus.voters(), consensus.learners());
            let list = consensus
                .state()
                .member_list(|node| voters.contains(node) || learners.contains(node))?;
            return Some(key.sign(&list));
        }
        lock(&self.inner.members).clone()
    }

    /// Takes in a signed member list if it is valid and newer; the membership loop acts on it.
    pub fn take_members(&self, signed: SignedMemberList) {
        let mut known = lock(&self.inner.members);
        let current: Option<MemberList> = known
            .as_ref()
            .and_then(|known| codec::decode(&known.list, codec::MAX_MESSAGE_BYTES).ok()); // Checked when kept.
        let Some(pinned) = current.as_ref().map(|list| list.cluster).or(self
            .inner
            .consensus
            .state()
            .cluster())
        else {
            return;
        };
        match network::open_member_list(&signed, pinned) {
            Ok(list) => {
                let position = |list: &MemberList| (list.incarnation, list.version);
                if current.is_none_or(|current| position(&list) > position(&current)) {
                    *known = Some(signed);
                    drop(known);
                    self.inner.members_pushed.notify_one();
                }
            }
            Err(error) => tracing::warn!(%error, "member list refused"),
        }
    }

    /// Tells members that were taken out that they were, while they can still be reached.
    pub async fn bid_farewell(&self, gone: &[NodeId]) {
        let state = self.inner.consensus.state();
        let Some(members) = self.signed_members() else {
            return; // Another replica has the key.
        };
        let tell = gone.iter().filter_map(|node| {
            let message = PeerMessage::Removed {
                members: members.clone(),
                message: farewell(&state, node)?,
            };
            Some(async move {
                if let Err(error) = self.ask(node, &message, FAREWELL_DEADLINE).await {
                    tracing::debug!(node_id = %node, %error, "removed node not told: it will ask");
                }
            })
        });
        futures::future::join_all(tell).await;
    }

    /// A member says that this node was taken out: true only if the cluster's signature is under a newer list without it.
    pub(crate) fn take_removal(&self, signed: SignedMemberList, message: String) {
        let known = self.opened_members();
        let state = self.inner.consensus.state();
        let Some(pinned) = known.as_ref().map(|list| list.cluster).or(state.cluster()) else {
            return;
        };
        let position = |list: &MemberList| (list.incarnation, list.version);
        match network::open_member_list(&signed, pinned) {
            Ok(list)
                if known.is_none_or(|known| position(&list) > position(&known))
                    && !list
                        .members
                        .iter()
                        .any(|member| member.node == *self.node_id()) =>
            {
                self.take_members(signed);
                self.note_removed(message);
            }
            Ok(_) => tracing::warn!("a removal that its list does not prove"),
            Err(error) => tracing::warn!(%error, "a removal without the cluster's signature"),
        }
    }

    /// Resolves when a newer member list was taken in.
    pub async fn members_changed(&self) {
        self.inner.members_pushed.notified().await;
    }

    /// Wakes the membership loop: more is to do.
    pub fn look_at_members_again(&self) {
        self.inner.members_pushed.notify_one();
    }

    /// The last member list that was taken in.
    #[must_use]
    pub fn kept_members(&self) -> Option<SignedMemberList> {
        lock(&self.inner.members).clone()
    }

    /// The signing key, if this node has it, to hand to another voter.
    #[must_use]
    pub fn cluster_key_bytes(&self) -> Option<Bytes> {
        lock(&self.inner.cluster_key)
            .as_ref()
            .map(|key| Bytes::from(key.to_bytes()))
    }
}

/// By whom and why a node was taken out; none: it was not.
fn farewell(state: &ClusterState, node: &NodeId) -> Option<String> {
    let was = state.departure(node)?;
    let by = with_names(state, &was.by);
    let mut message = format!("{} was removed from the cluster by {by}", was.name);
    if !was.reason.is_empty() {
        message = format!("{message}: {}", was.reason);
    }
    Some(message)
}

fn refused(code: &str, message: &str) -> JoinReply {
    JoinReply::Refused {
        code: code.to_owned(),
        message: message.to_owned(),
    }
}
