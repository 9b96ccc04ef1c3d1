//! What role a member has and why, and what the loss of one machine would do, in words.

use std::collections::{BTreeMap, BTreeSet};

use state_machine::Steadiness;
use types::NodeId;

use crate::candidate::{Candidate, Presence};
use crate::voters::{Replicas, VoterPlan};

/// The role of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// `leader`, `voter`, `learner`, `worker`.
    pub word: &'static str,
    /// Why it has it, and what is about to change.
    pub why: String,
}

/// The role that `member` has now, explained by the plan that decides about it.
#[must_use]
pub fn role_of(member: &Candidate, now: &Replicas, plan: &VoterPlan) -> Role {
    let node = &member.node;
    let leads = now.leader.as_ref() == Some(node);
    let (votes, stands_by) = (now.voters.contains(node), now.learners.contains(node));
    let (word, mut why) = match (leads, votes, stands_by) {
        (true, _, _) if now.voters.len() < 2 => ("leader", "the only voter".to_owned()),
        (true, _, _) => ("leader", format!("elected by {} voters", now.voters.len())),
        (_, true, _) => ("voter", why_it_votes(member, now.voters.len())),
        (_, _, true) => ("learner", "stands by for a voter that goes".to_owned()),
        _ => ("worker", why_it_does_not(member, plan)),
    };
    let next = match (votes, plan.voters.contains(node)) {
        (true, false) => Some(match &member.barred {
            Some(barred) => format!("gives its vote back: {barred}"),
            None if member.presence == Presence::Gone => {
                "gone for too long: its vote goes to another".to_owned()
            }
            None => "its vote goes to a member that is better placed".to_owned(),
        }),
        (false, true) => Some("gets a vote when it has the whole log".to_owned()),
        (false, false) if stands_by && member.barred.is_some() => member.barred.clone(),
        _ => None,
    };
    if let Some(next) = next {
        why = format!("{why}; {next}");
    }
    Role { word, why }
}

fn why_it_votes(member: &Candidate, voters: usize) -> String {
    let reason = if member.pinned {
        "a person wants it"
    } else {
        match member.steadiness {
            Steadiness::OnPrem => "here to stay",
            Steadiness::Cloud => "no machine of the house is free for it",
            Steadiness::Fleeting => "only machines that come and go are left",
        }
    };
    format!("one of {voters}: {reason}")
}

fn why_it_does_not(member: &Candidate, plan: &VoterPlan) -> String {
    match &member.barred {
        Some(barred) => barred.clone(),
        None if !member.presence.is_here() => "it is silent".to_owned(),
        None => format!("{} others vote, which is enough", plan.voters.len()),
    }
}

/// Whose absence alone would stop the cluster, in words (invariant 9); none: it survives the loss of any machine and of
/// any failure domain.
#[must_use]
pub fn stop_risk(
    members: &[Candidate],
    voters: &BTreeSet<NodeId>,
    name: impl Fn(&NodeId) -> String,
) -> Option<String> {
    let voting: Vec<_> = members
        .iter()
        .filter(|member| voters.contains(&member.node))
        .collect();
    let (there, missing): (Vec<_>, Vec<_>) = voting
        .iter()
        .copied()
        .partition(|member| member.presence.is_here());
    let majority = voters.len() / 2 + 1;
    let names = |members: &[&Candidate]| {
        let names: Vec<_> = members.iter().map(|member| name(&member.node)).collect();
        names.join(", ")
    };
    if there.len() < majority {
        return None; // It has stopped: said elsewhere.
    }
    if voters.len() == 1 {
        return Some(format!(
            "only {} votes: without it nothing can be decided; a third machine that may vote removes this",
            names(&there)
        ));
    }
    if there.len() == majority {
        let gone = if missing.is_empty() {
            "a third machine that may vote removes this".to_owned()
        } else {
            format!(
                "{} is missing: start it, or add another machine",
                names(&missing)
            )
        };
        return Some(format!(
            "one more machine down ({}) stops the cluster: {} of {} voters are there and {majority} are needed; {gone}",
            names(&there).replace(", ", " or "),
            there.len(),
            voters.len(),
        ));
    }
    let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
    for member in &there {
        *domains.entry(&member.failure_domain).or_default() += 1;
    }
    let fatal = domains
        .into_iter()
        .find(|(_, count)| *count > 1 && there.len() - count < majority)?;
    Some(format!(
        "the failure domain {} holds {} of {} voters: its loss stops the cluster; machines in other domains remove this",
        fatal.0,
        fatal.1,
        voters.len()
    ))
}
