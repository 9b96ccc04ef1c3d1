//! From the voters that are to those that should be: one change at a time.

use std::collections::BTreeSet;

use types::NodeId;

use crate::candidate::Candidate;
use crate::voters::{Replicas, VoterPlan};

/// One change of membership. The next is decided when this one is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Start to replicate to a member, without a vote.
    AddLearner(NodeId),
    /// Replace the voters, by joint consensus; who loses its vote stays as a learner.
    SetVoters(BTreeSet<NodeId>),
    /// Let another voter lead: the leader is to lose its vote.
    HandOver(NodeId),
    /// Stop to replicate to a learner.
    Release(NodeId),
}

/// What Raft says of a change under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// A leader before has left a joint configuration: it is made whole first.
    pub is_joint: bool,
    /// Replicas whose log is nearly whole: they may get a vote without holding everything up.
    pub caught_up: BTreeSet<NodeId>,
}

/// What to do next to get from `now` to `plan`; none: nothing, or nothing yet.
///
/// A leader that is to go hands over first, to a voter that stays; only if there is none, it makes one. That, and a joint
/// configuration, are the only ways to an even number of voters, and each lasts for one change.
#[must_use]
pub fn next_change(
    members: &[Candidate],
    plan: &VoterPlan,
    now: &Replicas,
    progress: &Progress,
) -> Option<Change> {
    let replicas: BTreeSet<_> = now.voters.union(&now.learners).cloned().collect();
    let wanted: BTreeSet<_> = plan.voters.union(&plan.learners).cloned().collect();
    // Voters first: a learner is only for later.
    let new_voter = plan.voters.difference(&replicas).next();
    if let Some(node) = new_voter {
        return Some(Change::AddLearner(node.clone()));
    }
    let spare = now.learners.difference(&wanted).next();
    let release = spare.map(|node| Change::Release(node.clone()));
    if plan.voters != now.voters || progress.is_joint {
        // While a voter is waited for, nobody stands by that is not to.
        let waiting = release.filter(|_| !progress.is_joint);
        return toward_voters(members, plan, now, progress).or(waiting);
    }
    if let Some(node) = wanted.difference(&replicas).next() {
        return Some(Change::AddLearner(node.clone()));
    }
    release
}

fn toward_voters(
    members: &[Candidate],
    plan: &VoterPlan,
    now: &Replicas,
    progress: &Progress,
) -> Option<Change> {
    let mut new = plan.voters.difference(&now.voters);
    if !new.all(|node| progress.caught_up.contains(node)) {
        return None; // Each write would wait for it.
    }
    let leader = now.leader.as_ref()?;
    if plan.voters.contains(leader) {
        return Some(Change::SetVoters(plan.voters.clone()));
    }
    let here = |node: &&NodeId| {
        let member = members.iter().find(|member| member.node == **node);
        member.is_some_and(|member| member.presence.is_here())
    };
    let ready = |node: &&NodeId| progress.caught_up.contains(*node);
    let mut staying = plan.voters.intersection(&now.voters);
    match staying.find(|node| here(node) && ready(node)) {
        Some(heir) if !progress.is_joint => Some(Change::HandOver(heir.clone())),
        Some(_) | None => {
            let mut voters = plan.voters.clone();
            voters.insert(leader.clone());
            (voters != now.voters || progress.is_joint).then_some(Change::SetVoters(voters))
        }
    }
}
