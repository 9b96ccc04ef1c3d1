//! The node's side of leases and wanted sets: asking whoever leads.

use std::time::Duration;

use agent::leases::LONG_LEASE;
use futures::future::join_all;
use state_machine::{Command, ExtendLease};
use types::{AttemptToken, NodeId, WantedSet};

use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::peer_message::{LeaseAnswer, PeerMessage, PeerReply};

/// Time for a lease request: well inside the shortest lease, so that a lost one is asked again.
const LEASE_DEADLINE: Duration = Duration::from_millis(1_500);
/// The same between machines far apart, where two ways there and back and one lost packet take longer. A lease counts
/// from its request, so a late answer is good for what is left; who drops it asks again while the leader holds.
const FAR_LEASE_DEADLINE: Duration = Duration::from_secs(4);
/// Silence of the leader after which another member is asked to pass the request on: longer than an answer takes.
const RELAY_AFTER: Duration = Duration::from_millis(500);
/// Time for a push of the leader.
const PUSH_DEADLINE: Duration = Duration::from_secs(2);

impl Handle {
    /// Asks the leader for leases, for what this node should run and for newer members; through another member when the
    /// leader cannot be reached (invariant 11).
    ///
    /// # Errors
    /// Nobody leads, or it does not answer in time.
    pub async fn lease(&self, tokens: &[AttemptToken]) -> Result<LeaseAnswer, ServiceError> {
        let members_version = self.opened_members().map_or(0, |list| list.version);
        if self.is_leader() {
            return self
                .answer_lease(self.node_id(), tokens, members_version)
                .await;
        }
        let answer = match self.ask_for_lease(tokens, members_version).await? {
            PeerReply::Lease(answer) => answer,
            other => {
                let message = format!("the leader answered {other:?}");
                return Err(ServiceError::new(
                    ErrorKind::Internal,
                    "bad-answer",
                    message,
                ));
            }
        };
        match answer {
            Ok(mut answer) => {
                self.set_leader_hint(Some(answer.leader.clone()));
                if let Some(members) = answer.members.take() {
                    self.take_members(members);
                }
                Ok(answer)
            }
            Err(error) => Err(self.follow_hint(error)),
        }
    }

    /// Directly; after a while, or when that fails, also through somebody else.
    async fn ask_for_lease(
        &self,
        tokens: &[AttemptToken],
        members_version: u64,
    ) -> Result<PeerReply, ServiceError> {
        let message = PeerMessage::Lease {
            tokens: tokens.to_vec(),
            members_version,
        };
        let mut direct = Box::pin(self.ask_leader(&message, self.lease_deadline()));
        let failed = match tokio::time::timeout(RELAY_AFTER, &mut direct).await {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(error)) => Some(error),
            Err(_slow) => None,
        };
        let Some(relay) = self.relay() else {
            return match failed {
                Some(error) => Err(error),
                None => direct.await,
            };
        };
        let message = PeerMessage::RelayLease {
            tokens: tokens.to_vec(),
            members_version,
        };
        let mut relayed = Box::pin(self.ask(&relay, &message, self.lease_deadline()));
        if let Some(error) = failed {
            return relayed.await.map_err(|_no_way| error);
        }
        tokio::select! {
            reply = &mut direct => match reply {
                Ok(reply) => Ok(reply),
                Err(error) => relayed.await.map_err(|_no_way| error),
            },
            reply = &mut relayed => match reply {
                Ok(PeerReply::Lease(Ok(answer))) => Ok(PeerReply::Lease(Ok(answer))),
                Ok(_) | Err(_) => direct.await,
            },
        }
    }

    fn lease_deadline(&self) -> Duration {
        let members = self.opened_members();
        if members.is_some_and(|list| list.timing == "wan") {
            FAR_LEASE_DEADLINE
        } else {
            LEASE_DEADLINE
        }
    }

    /// A member besides the leader: a connected one, one that holds the state first, which surely reaches the leader; else
    /// one that is dialled for this, another one each time.
    fn relay(&self) -> Option<NodeId> {
        let leader = self.leader();
        let peers = self.inner.network.peers();
        let list = self.opened_members()?;
        let replicas = self.known_replicas(&list);
        let members = list.members.into_iter().map(|member| member.node);
        let others = members.filter(|node| node != self.node_id() && Some(node) != leader.as_ref());
        let is_connected = |node: &NodeId| {
            let connected = |peer: &network::PeerStatus| peer.node == *node && peer.connected;
            peers.iter().any(connected)
        };
        let (mut near, mut far): (Vec<_>, Vec<_>) = others.partition(is_connected);
        near.sort_by_key(|node| !replicas.contains(node));
        if near.is_empty() && !far.is_empty() {
            return Some(far.swap_remove(rand::random_range(0..far.len())));
        }
        near.into_iter().next()
    }

    /// Passes a request for leases on to whoever leads.
    pub(crate) async fn relay_lease(
        &self,
        from: &NodeId,
        tokens: Vec<AttemptToken>,
        members_version: u64,
    ) -> Result<LeaseAnswer, ServiceError> {
        if self.is_leader() {
            return self.answer_lease(from, &tokens, members_version).await;
        }
        let message = PeerMessage::LeaseFor {
            node: from.clone(),
            tokens,
            members_version,
        };
        match self.ask_leader(&message, self.lease_deadline()).await? {
            PeerReply::Lease(answer) => answer,
            other => {
                let message = format!("the leader answered {other:?}");
                let kind = ErrorKind::Internal;
                Err(ServiceError::new(kind, "bad-answer", message))
            }
        }
    }

    /// Grants leases after a `ReadIndex` round begun now (invariant 11).
    pub(crate) async fn answer_lease(
        &self,
        from: &NodeId,
        tokens: &[AttemptToken],
        members_version: u64,
    ) -> Result<LeaseAnswer, ServiceError> {
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        let term = self.inner.consensus.leader().borrow().term;
        let patience = Duration::from_secs(2);
        let read = self.inner.consensus.read_index_as_leader(patience).await;
        read.map_err(|error| {
            if self.is_leader() {
                ServiceError::new(ErrorKind::Unavailable, "no-quorum", error.to_string())
            } else {
                self.not_leader()
            }
        })?;
        // Elected anew meanwhile, or not the leader any more: somebody else may hold these leases from an earlier time
        // than this one would grant them.
        if !self.is_leader() || self.inner.consensus.leader().borrow().term != term {
            return Err(self.not_leader());
        }
        let state = self.inner.consensus.state();
        let wanted = state.wanted_set(from);
        let mut answer = LeaseAnswer {
            granted: Vec::new(),
            refused: Vec::new(),
            members: None,
            leader: self.node_id().clone(),
            wanted,
        };
        for token in tokens {
            match answer
                .wanted
                .attempts
                .iter()
                .find(|attempt| attempt.token == *token)
            {
                Some(attempt) => {
                    let (leased, length) = ((*token, attempt.rank), attempt.lease_ms);
                    let granted = self
                        .with_leases(term, |leases, now| leases.grant(leased, length, now))
                        .ok_or_else(|| self.not_leader())?;
                    if granted {
                        answer.granted.push((*token, length));
                    } else {
                        answer
                            .refused
                            .push((*token, "its lease is over".to_owned()));
                    }
                }
                None => answer.refused.push((
                    *token,
                    format!("{token} is not to run on this node any more"),
                )),
            }
        }
        if !answer.granted.is_empty() {
            self.leases_have_changed();
        }
        if state.members_version() > members_version {
            answer.members = self.signed_members();
        }
        Ok(answer)
    }

    /// Before this node process ends in order: what runs here gets the long lease, so that a new version has minutes to
    /// come up (invariant 11). Does what can be done in `patience`; attempts whose submitter chose a lease keep it.
    pub async fn lengthen_own_leases(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.lengthen_all())
            .await
            .is_err()
        {
            tracing::warn!(
                "leases could not be lengthened in time: experiments here end when theirs are over"
            );
        }
    }

    async fn lengthen_all(&self) {
        let running = self.inner.executor.running();
        let running = |token: &AttemptToken| {
            let status = running.iter().find(|status| status.token == *token);
            status.is_some_and(|status| status.phase == executor::Phase::Running)
        };
        let wanted = self.inner.wanted.borrow().clone();
        let tokens: Vec<_> = wanted
            .into_iter()
            .flat_map(|(set, _)| set.attempts)
            .filter(|attempt| running(&attempt.token))
            .filter(|attempt| attempt.spec.policy.lease_ms.0 == 0 && attempt.lease_ms < LONG_LEASE)
            .map(|attempt| attempt.token)
            .collect();
        if tokens.is_empty() {
            return;
        }
        let extensions = tokens.iter().map(|token| {
            let extend = ExtendLease {
                token: *token,
                lease_ms: LONG_LEASE,
                reason: "its node process ends in order".to_owned(),
            };
            self.propose_as_node(Command::ExtendLease(extend))
        });
        for (token, extended) in tokens.iter().zip(join_all(extensions).await) {
            if let Err(error) = extended {
                tracing::warn!(%token, %error, "lease not lengthened");
            }
        }
        let sent_at = executor::boottime_ms();
        let granted = match self.lease(&tokens).await {
            Ok(answer) => answer.granted,
            Err(error) => return tracing::warn!(%error, "the longer leases were not granted"),
        };
        let margin = agent::AgentConfig::default().lease_margin;
        for (token, length) in granted {
            let deadline = (sent_at + length.0).saturating_sub(margin.0);
            if let Err(error) = self.inner.executor.extend_lease(&token, deadline).await {
                tracing::warn!(%token, %error, "holder not told of its longer lease");
            }
        }
    }

    /// Tells a node what it should run; itself too.
    ///
    /// # Errors
    /// It does not answer in time.
    pub async fn push_wanted(&self, node: &NodeId, wanted: WantedSet) -> Result<(), ServiceError> {
        if node == self.node_id() {
            self.take_wanted(wanted, false);
            return Ok(());
        }
        self.ask(node, &PeerMessage::Wanted(wanted), PUSH_DEADLINE)
            .await
            .map(drop)
    }
}
