//! Who is in, who votes, and who must know it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use membership::{Change, Health, Progress, Replicas};
use service::{Handle, PeerMessage};
use state_machine::{Command, UpdateNode};
use tokio_util::sync::CancellationToken;
use types::{LogIndex, MemberList, NodeFacts, NodeId, Timestamp, codec};

use crate::data_directory::{DataDirectory, write_durably};
use crate::loops::links::{Links, announce};

/// Time between two looks when no event came: what a lost event costs.
const LOOK: Duration = Duration::from_secs(2);
/// Log entries that a replica may lack when it gets a vote: some tenths of a second of a busy cluster.
const CAUGHT_UP: u64 = 500;
/// Time for a message about membership.
const DEADLINE: Duration = Duration::from_secs(2);

/// The membership loop of one node.
pub(crate) struct Membership {
    pub(crate) handle: Handle,
    /// Where the signed member list is kept.
    pub(crate) directory: Arc<DataDirectory>,
    /// What this node is now.
    pub(crate) facts: NodeFacts,
    /// Version and replicas of the last table given to the network.
    pub(crate) known: (u64, BTreeSet<NodeId>),
    /// Version of the list that is on disk.
    pub(crate) kept: u64,
    /// Workers that have the list of this version.
    pub(crate) told: (u64, BTreeSet<NodeId>),
    /// Members without state that know so since this change of voters or learners.
    pub(crate) released: (LogIndex, BTreeSet<(NodeId, Option<Timestamp>)>),
    /// The links that this node keeps.
    pub(crate) links: Links,
    /// Voters that were given the cluster's key by this leader.
    pub(crate) keyed: BTreeSet<NodeId>,
}

impl Membership {
    /// Follows the members until cancelled.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut events = self.handle.consensus().subscribe();
        let mut leadership = self.handle.consensus().leader();
        loop {
            self.follow().await;
            if self.handle.is_leader() {
                self.lead().await;
            } else {
                self.keyed.clear();
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = leadership.changed() => if changed.is_err() { return },
                () = wait_for_members(&mut events, &self.directory) => {}
                () = self.handle.members_changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Gives the network its members, keeps the signed list, tells the cluster what this node is.
    pub(crate) async fn follow(&mut self) {
        let consensus = self.handle.consensus();
        let replicas: BTreeSet<_> = consensus
            .voters()
            .into_iter()
            .chain(consensus.learners())
            .collect();
        let Some(list) = self.list(&replicas) else {
            return;
        };
        self.links.follow(&self.handle, &list).await;
        if (list.version, &replicas) != (self.known.0, &self.known.1) {
            let stays = |node: &NodeId| list.members.iter().any(|member| member.node == *node);
            let peers = self.handle.network().peers();
            let gone: Vec<_> = peers
                .into_iter()
                .filter(|peer| peer.connected && !stays(&peer.node))
                .map(|peer| peer.node)
                .collect();
            self.handle.bid_farewell(&gone).await;
            announce(&self.handle, &list).await;
            self.handle
                .network()
                .set_subscribed(self.handle.is_replica())
                .await;
            self.known = (list.version, replicas);
        }
        if let Err(error) = self.keep() {
            tracing::warn!(%error, "member list not kept");
        }
        let state = self.handle.consensus().state();
        if (state.nodes().count() > 1 || state.experiments().next().is_some())
            && let Err(error) = self.directory.set_unused(false)
        {
            tracing::warn!(%error, "the mark of an unused cluster could not be removed");
        }
        let stale = list
            .members
            .iter()
            .any(|member| member.node == *self.handle.node_id() && member.facts != self.facts);
        if stale {
            let update = UpdateNode {
                node: self.handle.node_id().clone(),
                facts: self.facts.clone(),
            };
            if let Err(error) = self
                .handle
                .propose_as_node(Command::UpdateNode(update))
                .await
            {
                tracing::debug!(%error, "own facts not told yet");
            }
        }
    }

    /// The newest list: that of the state, or one that was told, which is ahead of the state of a replica that does
    /// not reach the leader because the leader's addresses have changed.
    fn list(&self, replicas: &BTreeSet<NodeId>) -> Option<MemberList> {
        let state = self.handle.consensus().state();
        let own = self
            .handle
            .is_replica()
            .then(|| state.member_list(|node| replicas.contains(node)))
            .flatten();
        let told = self.handle.kept_members().and_then(|signed| {
            codec::decode::<MemberList>(&signed.list, codec::MAX_MESSAGE_BYTES).ok() // Checked before it was kept.
        });
        let position = |list: &MemberList| (list.incarnation, list.version);
        match (own, told) {
            (Some(own), Some(told)) if position(&told) > position(&own) => Some(told),
            (own, told) => own.or(told),
        }
    }

    /// Stores the newest signed list, so that a restarted node finds its cluster.
    fn keep(&mut self) -> std::io::Result<()> {
        let Some(signed) = self.handle.signed_members() else {
            return Ok(());
        };
        let version = codec::decode::<MemberList>(&signed.list, codec::MAX_MESSAGE_BYTES)
            .map_or(0, |list| list.version);
        if version <= self.kept {
            return Ok(());
        }
        write_durably(&self.directory.path("members"), &codec::encode(&signed))?;
        self.handle.take_members(signed);
        self.kept = version;
        Ok(())
    }

    /// Voters by rule, one change at a time; the key for voters; the list for nodes without state.
    async fn lead(&mut self) {
        self.choose_voters().await;
        let consensus = self.handle.consensus();
        let (voters, learners) = (consensus.voters(), consensus.learners());
        let Some(signed) = self.handle.signed_members() else {
            return;
        };
        let at = consensus.membership_index();
        if self.released.0 != at {
            self.released = (at, BTreeSet::new());
        }
        if self.told.0 != self.known.0 {
            self.told = (self.known.0, BTreeSet::new());
        }
        let view = self.handle.view();
        let now = service::view_now();
        let state = consensus.state();
        // Who is silent hears it when it is back; nobody else waits for it.
        let without_state = state
            .nodes()
            .map(|record| &record.node)
            .filter(|node| !voters.contains(*node) && !learners.contains(*node))
            .filter(|node| view.health(node, now) != Health::Suspect);
        for node in without_state {
            // A node that was started again reads from its disk that it holds the state.
            let start = (
                node.clone(),
                view.get(node).map(|seen| seen.report.node_started_at),
            );
            let replicas = voters.iter().chain(&learners).cloned().collect();
            let released = PeerMessage::Released { at, replicas };
            if !self.released.1.contains(&start) && self.tell(node, &released).await {
                self.released.1.insert(start);
            }
            let list = PeerMessage::Members(signed.clone());
            if !self.told.1.contains(node) && self.tell(node, &list).await {
                self.told.1.insert(node.clone());
            }
        }
    }

    async fn tell(&self, node: &NodeId, message: &PeerMessage) -> bool {
        self.handle.ask(node, message, DEADLINE).await.is_ok()
    }

    /// Gives the cluster's key to the replicas that vote or shall.
    async fn hand_out(&mut self, key: &Bytes, now: &Replicas, voters: &BTreeSet<NodeId>) {
        let (view, at) = (self.handle.view(), service::view_now());
        let replicas = now.voters.iter().chain(now.learners.intersection(voters));
        let new: Vec<_> = replicas
            .filter(|node| *node != self.handle.node_id() && !self.keyed.contains(*node))
            .filter(|node| view.health(node, at) != Health::Suspect)
            .cloned()
            .collect();
        for node in new {
            if self
                .tell(&node, &PeerMessage::ClusterKey(key.clone()))
                .await
            {
                self.keyed.insert(node);
            }
        }
    }

    async fn choose_voters(&mut self) {
        let consensus = self.handle.consensus();
        let state = consensus.state();
        if state.node(self.handle.node_id()).is_none() {
            return; // The first entry of the cluster is not written yet.
        }
        let (members, now, plan) = self.handle.voter_plan(&state);
        let mut caught_up = consensus.caught_up(CAUGHT_UP);
        // Nobody votes, and nobody leads, without the key: the member list could not be signed any more.
        if let Some(key) = self.handle.cluster_key_bytes() {
            self.hand_out(&key, &now, &plan.voters).await;
            caught_up.retain(|node| node == self.handle.node_id() || self.keyed.contains(node));
        }
        let consensus = self.handle.consensus();
        let progress = Progress {
            is_joint: consensus.is_joint(),
            caught_up,
        };
        let Some(change) = membership::next_change(&members, &plan, &now, &progress) else {
            return;
        };
        tracing::info!(?change, reason = plan.reason, "changing the replicas");
        let made = match change {
            Change::AddLearner(node) => consensus.add_learner(node).await,
            Change::SetVoters(voters) => consensus.set_voters(voters, true).await,
            Change::HandOver(heir) => consensus.transfer_leader(heir).await,
            Change::Release(node) => consensus.remove(node).await,
        };
        match made {
            Ok(()) => self.handle.look_at_members_again(),
            Err(error) => tracing::warn!(%error, "replicas not changed yet"),
        }
    }
}

/// Until who is in has changed, or until a cluster that carries the mark of an unused one is used.
async fn wait_for_members(
    events: &mut tokio::sync::broadcast::Receiver<(LogIndex, state_machine::Event)>,
    directory: &DataDirectory,
) {
    loop {
        match events.recv().await {
            Ok((_, state_machine::Event::MembersChanged)) | Err(_) => return,
            Ok((_, state_machine::Event::ExperimentQueued(_))) if directory.is_unused() => return,
            Ok(_) => {}
        }
    }
}
