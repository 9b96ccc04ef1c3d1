//! What nodes ask of each other on the control and bulk planes, and the answers.

use std::time::Duration;

use agent::leases::LONG_LEASE;
use bytes::Bytes;
use state_machine::{Command, Outcome};
use types::{AttemptToken, Author, Incarnation, LogIndex, NodeId, WantedSet, codec};

use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, lock};
use crate::peer_message::{BulkMessage, BulkReply, PeerMessage, PeerReply};

/// Largest control-plane message: a spec of 64 KiB with room for its wrapping.
const MAX_PEER_MESSAGE_BYTES: usize = 1 << 20;
/// Largest control-plane answer: a long list of experiments.
const MAX_PEER_REPLY_BYTES: usize = 8 << 20;
/// Largest bulk-plane message: a few seconds of a full console.
const MAX_BULK_BYTES: usize = 16 << 20;

impl Handle {
    /// Asks a peer on the control plane.
    ///
    /// # Errors
    /// It does not answer in time, or not understandably.
    pub async fn ask(
        &self,
        to: &NodeId,
        message: &PeerMessage,
        deadline: Duration,
    ) -> Result<PeerReply, ServiceError> {
        let bytes = Bytes::from(codec::encode(message));
        let answer = self.rpc(to, bytes, deadline).await;
        let answer = answer.map_err(|error| {
            if matches!(error, network::CallError::Refused { .. }) {
                self.note_refused();
            }
            ServiceError::new(ErrorKind::Unavailable, "unreachable", error.to_string())
                .hint(format!("is muster running on {}?", to.short()))
        })?;
        codec::decode(&answer, MAX_PEER_REPLY_BYTES).map_err(|error| {
            ServiceError::new(
                ErrorKind::Internal,
                "bad-answer",
                format!("{to} answered something unreadable: {error}"),
            )
        })
    }

    /// Asks a peer on the bulk plane.
    ///
    /// # Errors
    /// It does not answer in time, or not understandably, or cannot do it.
    pub async fn ask_bulk(
        &self,
        to: &NodeId,
        message: &BulkMessage,
        deadline: Duration,
    ) -> Result<BulkReply, ServiceError> {
        let bytes = Bytes::from(codec::encode(message));
        let answer = self.inner.network.bulk_call(to, bytes, deadline).await;
        let answer = answer.map_err(|error| {
            ServiceError::new(ErrorKind::Unavailable, "unreachable", error.to_string())
        })?;
        match codec::decode(&answer, MAX_BULK_BYTES) {
            Ok(BulkReply::Failed(why)) => {
                Err(ServiceError::new(ErrorKind::Conflict, "peer-failed", why))
            }
            Ok(reply) => Ok(reply),
            Err(error) => Err(ServiceError::new(
                ErrorKind::Internal,
                "bad-answer",
                error.to_string(),
            )),
        }
    }

    /// Answers a peer's control-plane request; `from` is the connection's peer.
    pub async fn answer_peer(&self, from: &NodeId, request: &Bytes) -> Bytes {
        let reply = match codec::decode(request, MAX_PEER_MESSAGE_BYTES) {
            Ok(message) => self.answer_message(from, message).await,
            Err(error) => {
                tracing::warn!(node_id = %from, %error, "unreadable request of a peer");
                PeerReply::Call(Err(ServiceError::new(
                    ErrorKind::Invalid,
                    "unreadable",
                    error.to_string(),
                )))
            }
        };
        codec::encode(&reply).into()
    }

    async fn answer_message(&self, from: &NodeId, message: PeerMessage) -> PeerReply {
        self.hear(from);
        match message {
            PeerMessage::Call(vouched) => PeerReply::Call(self.answer_call(from, vouched).await),
            PeerMessage::Propose(command) => {
                PeerReply::Propose(self.answer_propose(from, *command).await)
            }
            PeerMessage::Lease {
                tokens,
                members_version,
            } => PeerReply::Lease(self.answer_lease(from, &tokens, members_version).await),
            PeerMessage::Wanted(wanted) if wanted.incarnation < self.newest_incarnation() => {
                tracing::warn!(node_id = %from, incarnation = wanted.incarnation.0, "word of an older history dropped");
                PeerReply::Done
            }
            PeerMessage::RelayLease {
                tokens,
                members_version,
            } => PeerReply::Lease(self.relay_lease(from, tokens, members_version).await),
            PeerMessage::LeaseFor {
                node,
                tokens,
                members_version,
            } => PeerReply::Lease(self.answer_lease(&node, &tokens, members_version).await),
            PeerMessage::Wanted(_) if !self.could_lead(from) => {
                tracing::warn!(node_id = %from, "wanted set of a node that never leads dropped");
                PeerReply::Done
            }
            PeerMessage::Wanted(wanted) => {
                self.set_leader_hint(Some(from.clone()));
                self.take_wanted(wanted, false);
                PeerReply::Done
            }
            PeerMessage::Members(list) => {
                self.take_members(list);
                PeerReply::Done
            }
            PeerMessage::ClusterKey(bytes) => {
                self.take_cluster_key(&bytes);
                PeerReply::Done
            }
            PeerMessage::Ping { in_doubt } => {
                self.answer_ping(in_doubt);
                PeerReply::Done
            }
            PeerMessage::Removed { members, message } => {
                self.take_removal(members, message);
                PeerReply::Done
            }
            PeerMessage::Released { at, replicas } => {
                self.take_released(at, replicas);
                PeerReply::Done
            }
            PeerMessage::Dial { node, to } => {
                PeerReply::Reached(self.answer_dial(&node, &to).await)
            }
            PeerMessage::Reach { node, within } => {
                PeerReply::Reached(self.answer_reach(&node, within).await)
            }
            PeerMessage::Machine => {
                PeerReply::Machine(Box::new(self.inner.telemetry.machine().as_ref().clone()))
            }
            PeerMessage::Packages(project) => {
                PeerReply::Packages(self.answer_packages(&project).await)
            }
            PeerMessage::AttestLedger { length, hash } => {
                PeerReply::Attested(self.attest_ledger(length, hash).await)
            }
        }
    }

    /// Whether a member might lead, by the facts that are known here; one that is not known yet might.
    fn could_lead(&self, node: &NodeId) -> bool {
        let facts = self.member_facts();
        facts.get(node).is_none_or(|facts| facts.may_vote)
    }

    /// A node may only speak for itself.
    async fn answer_propose(
        &self,
        from: &NodeId,
        command: Command,
    ) -> Result<Outcome, ServiceError> {
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        let own = match &command {
            Command::ReportAttempt(report) => report.node == *from,
            Command::UpdateNode(update) => update.node == *from,
            // What happened at its own door: written down under its name.
            Command::NoteRefusals(_) | Command::NoteTokenUses(_) => true,
            // The voter that the stranger spoke to has checked the proof.
            Command::AdmitNode(_) | Command::ReplaceNode(_) => {
                self.inner.consensus.voters().contains(from)
            }
            Command::SealSegment(seal) => {
                self.rank_on(&seal.token, from) == Some(seal.segment.rank)
            }
            // Before it restarts.
            Command::ExtendLease(extend) => {
                extend.lease_ms <= LONG_LEASE && self.rank_on(&extend.token, from).is_some()
            }
            _ => false,
        };
        if !own {
            tracing::warn!(node_id = %from, ?command, "node proposed what is not its own");
            let message = "a node proposes only its own reports and facts";
            return Err(ServiceError::new(
                ErrorKind::Forbidden,
                "not-yours",
                message,
            ));
        }
        self.propose(&Author::node(from.clone()), None, command)
            .await
            .map(|(_, outcome)| outcome)
    }

    /// The rank of a current attempt that a node runs.
    fn rank_on(&self, token: &AttemptToken, node: &NodeId) -> Option<u32> {
        let state = self.inner.consensus.state();
        let experiment = state.experiment(token.experiment)?;
        let current = experiment.current_attempt();
        current
            .filter(|attempt| attempt.token == *token)?
            .rank_on(node)
    }

    /// Takes in a wanted set; the execution loop decides what it means.
    pub fn take_wanted(&self, wanted: WantedSet, confirmed: bool) {
        self.inner.wanted.send_modify(|current| {
            let newer = current.as_ref().is_none_or(|(known, was_confirmed)| {
                let (new, old) = (position(&wanted), position(known));
                new > old || new == old && confirmed && !was_confirmed
            });
            if newer {
                *current = Some((wanted, confirmed));
            }
        });
    }

    fn take_cluster_key(&self, bytes: &Bytes) {
        let pinned = self.inner.consensus.state().cluster();
        match network::ClusterKey::from_bytes(bytes) {
            Ok(key) if pinned.is_none() || pinned == Some(key.cluster_id()) => {
                if let Err(error) = (self.inner.keep_cluster_key)(bytes) {
                    tracing::warn!(%error, "cluster key could not be stored");
                    return;
                }
                *lock(&self.inner.cluster_key) = Some(key);
            }
            Ok(_) => tracing::warn!("cluster key of another cluster refused"),
            Err(error) => tracing::warn!(%error, "unreadable cluster key refused"),
        }
    }

    /// Answers a peer's bulk-plane request.
    pub async fn answer_bulk(&self, from: &NodeId, request: &Bytes) -> Bytes {
        let reply = match codec::decode(request, MAX_BULK_BYTES) {
            Ok(message) => self.answer_bulk_message(from, message).await,
            Err(error) => BulkReply::Failed(format!("unreadable: {error}")),
        };
        codec::encode(&reply).into()
    }
}

fn position(wanted: &WantedSet) -> (Incarnation, LogIndex) {
    (wanted.incarnation, wanted.index)
}
