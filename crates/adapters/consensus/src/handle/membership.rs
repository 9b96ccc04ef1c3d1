//! Voters and learners: one change at a time, on the leader, joint consensus inside openraft.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode};
use types::{LogIndex, NodeId};

use super::Handle;
use crate::error::MembershipError;
use crate::raft_types::{Replica, Types};

/// Time for a change to commit in both majorities; a learner that catches up is not waited for.
const DEADLINE: Duration = Duration::from_secs(30);

impl Handle {
    /// Starts to replicate to `node`, without a vote. Returns when the change is committed; the node
    /// may still be catching up.
    ///
    /// # Errors
    /// Not the leader, or the change did not commit.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        let change = self
            .inner
            .raft
            .add_learner(Replica(node), EmptyNode::new(), false);
        self.change(change).await
    }

    /// Makes `voters` the voters; each must be a learner or a voter now. Other voters stay as
    /// learners, or leave.
    ///
    /// # Errors
    /// Not the leader, or the change did not commit.
    pub async fn set_voters(
        &self,
        voters: BTreeSet<NodeId>,
        keep_others_as_learners: bool,
    ) -> Result<(), MembershipError> {
        let voters: BTreeSet<_> = voters.into_iter().map(Replica).collect();
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.change(
            self.inner
                .raft
                .change_membership(change, keep_others_as_learners),
        )
        .await
    }

    /// Takes `node` out, voter or learner.
    ///
    /// # Errors
    /// Not the leader, or the change did not commit.
    pub async fn remove(&self, node: NodeId) -> Result<(), MembershipError> {
        let voters = self.voters();
        if voters.contains(&node) {
            let rest = voters.into_iter().filter(|voter| *voter != node).collect();
            return self.set_voters(rest, false).await;
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([Replica(node)]));
        self.change(self.inner.raft.change_membership(change, false))
            .await
    }

    /// Log index of the newest change of voters or learners that this replica knows.
    #[must_use]
    pub fn membership_index(&self) -> LogIndex {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let changed_at = metrics.membership_config.log_id().as_ref();
        LogIndex(changed_at.map_or(0, |id| id.index))
    }

    /// Whether a change of voters is half made: its leader has gone in the middle. Setting the voters makes it whole.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let configs = metrics.membership_config.membership().get_joint_config();
        configs.len() > 1
    }

    /// On the leader: itself, and the replicas that lack at most so many entries of its log.
    #[must_use]
    pub fn caught_up(&self, lag: u64) -> BTreeSet<NodeId> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let replicas = metrics.replication.iter().flatten();
        let near = replicas.filter(|(_, matched)| {
            let matched = matched.as_ref().map_or(0, |matched| matched.index);
            matched + lag >= last
        });
        near.map(|(replica, _)| replica.0.clone())
            .chain([self.inner.config.node.clone()])
            .collect()
    }

    /// Hands leadership to the voter `to`; returns when this node no longer leads.
    ///
    /// # Errors
    /// It still leads after two election timeouts.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), MembershipError> {
        let stopped = |error| MembershipError::Stopped {
            why: self.why_stopped(&error),
        };
        self.inner
            .raft
            .trigger()
            .transfer_leader(Replica(to.clone()))
            .await
            .map_err(stopped)?;
        let mut leader = self.leader();
        let moved = leader.wait_for(|now| now.leader.as_ref() == Some(&to));
        let deadline = self.inner.config.timing.election_max() * 2;
        match tokio::time::timeout(deadline, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(MembershipError::NotMade {
                why: format!("{to} did not take over within {deadline:?}"),
            }),
        }
    }

    async fn change<T>(
        &self,
        change: impl Future<Output = Result<T, RaftError<Types, ClientWriteError<Types>>>>,
    ) -> Result<(), MembershipError> {
        let _one_change = self.inner.changing.lock().await;
        let not_made = |why: String| Err(MembershipError::NotMade { why });
        match tokio::time::timeout(DEADLINE, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(MembershipError::NotLeader {
                    leader: forward.leader_id.map(|replica| replica.0),
                })
            }
            Ok(Err(RaftError::APIError(error))) => not_made(error.to_string()),
            Ok(Err(RaftError::Fatal(fatal))) => Err(MembershipError::Stopped {
                why: self.why_stopped(&fatal),
            }),
            Err(_elapsed) => not_made(format!("it was not committed within {DEADLINE:?}")),
        }
    }
}
