//! Who votes: 1, 3 or 5 by cluster size (invariant 9), steady, spread over failure domains, on-prem first.

use std::collections::{BTreeMap, BTreeSet};

use state_machine::Steadiness;
use types::NodeId;

use crate::candidate::{Candidate, Presence};

/// Standby voters: they hold the state without a vote. Two replace any one loss and one more while the first catches up.
pub const MAX_LEARNERS: usize = 2;
/// Most voters: five survive any two losses, and each more slows every write.
const MAX_VOTERS: usize = 5;

/// Who holds the state now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Voters.
    pub voters: BTreeSet<NodeId>,
    /// Standby voters.
    pub learners: BTreeSet<NodeId>,
    /// The one voter that leads.
    pub leader: Option<NodeId>,
}

/// Who should vote and who should stand by. [`crate::next_change`] gets there by one membership change at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterPlan {
    /// Voters.
    pub voters: BTreeSet<NodeId>,
    /// Standby voters, at most [`MAX_LEARNERS`].
    pub learners: BTreeSet<NodeId>,
    /// Why, for people.
    pub reason: String,
}

/// Chooses voters and standby voters.
///
/// A current voter stays while it is an eligible member, unless it is gone and a healthy one can take its place, or a
/// settled member makes the choice strictly better: fewer machines that may go, more failure domains. Only healthy
/// members are added, and never so that the number of voters gets even.
#[must_use]
pub fn choose_voters(members: &[Candidate], now: &Replicas) -> VoterPlan {
    let leads = |member: &Candidate| Some(&member.node) == now.leader.as_ref();
    // Without anybody who may vote and is there, who leads goes on: somebody has to.
    let nobody = !members
        .iter()
        .any(|member| member.barred.is_none() && member.presence.is_here());
    let eligible: Vec<&Candidate> = members
        .iter()
        .filter(|member| member.barred.is_none() || nobody && leads(member))
        .collect();
    let votes = |member: &&Candidate| now.voters.contains(&member.node);
    let (current, others): (Vec<_>, Vec<_>) = eligible.iter().copied().partition(votes);
    let (failing, sound): (Vec<_>, Vec<_>) = current
        .into_iter()
        .partition(|member| member.presence == Presence::Gone && !leads(member));
    let spare: Vec<_> = others
        .into_iter()
        .filter(|member| member.presence.is_here())
        .collect();

    let base = sound.len() + failing.len();
    let pinned = eligible.iter().filter(|member| member.pinned).count();
    let size = size_for(eligible.len())
        .max(odd_at_most(base))
        .max(odd_at_least(pinned))
        .min(MAX_VOTERS);
    // Two of five that are gone and cannot be replaced leave no room for a third; three that are there leave one.
    let there = sound.len() + spare.len();
    let size = if size == MAX_VOTERS && there == MAX_VOTERS - 2 {
        size - 2
    } else {
        size
    };
    let reachable = base + spare.len();
    // With too few healthy members the failing voters stay, and nobody is added who would make the number even.
    let size = size.min(odd_at_most(reachable));
    let mut choice = Choice {
        leader: now.leader.as_ref(),
        chosen: Vec::new(),
    };
    // Who a person wants comes before who votes already.
    let wanted = |member: &&Candidate| is_wanted(member);
    choice.pick(sound.iter().copied().filter(wanted).collect(), size);
    choice.pick(spare.iter().copied().filter(wanted).collect(), size);
    choice.pick(sound, size);
    choice.pick(spare.clone(), size);
    choice.pick(failing, size);
    choice.improve(&spare);

    let voters = choice.chosen;
    let chosen: BTreeSet<_> = voters.iter().map(|member| member.node.clone()).collect();
    let learners = standby(&eligible, &voters, now);
    let reason = format!(
        "{} of {} eligible members vote ({} kept, {} added, {} left)",
        chosen.len(),
        eligible.len(),
        chosen.intersection(&now.voters).count(),
        chosen.difference(&now.voters).count(),
        now.voters.difference(&chosen).count(),
    );
    VoterPlan {
        voters: chosen,
        learners,
        reason,
    }
}

/// The best of those that do not vote; who stands by already goes on, also through a short silence: a replica is dear.
fn standby(eligible: &[&Candidate], voters: &[&Candidate], now: &Replicas) -> BTreeSet<NodeId> {
    let rest = eligible
        .iter()
        .copied()
        .filter(|member| !voters.iter().any(|voter| voter.node == member.node));
    let stands = |member: &Candidate| {
        now.learners.contains(&member.node) || now.voters.contains(&member.node)
    };
    let fit = rest.filter(|member| {
        member.presence.is_here() || stands(member) && member.presence == Presence::Silent
    });
    let (standing, new): (Vec<_>, Vec<_>) = fit.partition(|member| stands(member));
    let mut choice = Choice {
        leader: None,
        chosen: voters.to_vec(),
    };
    choice.pick(standing, voters.len() + MAX_LEARNERS);
    choice.pick(new, voters.len() + MAX_LEARNERS);
    let learners = choice.chosen.split_off(voters.len());
    learners
        .into_iter()
        .map(|member| member.node.clone())
        .collect()
}

/// A person's wish counts as long as the member is there.
fn is_wanted(member: &Candidate) -> bool {
    member.pinned && member.presence.is_here()
}

/// Voters for so many eligible members: a second voter would only add a way to stop.
#[must_use]
pub fn size_for(eligible: usize) -> usize {
    match eligible {
        0..=2 => 1,
        3..=6 => 3,
        _ => MAX_VOTERS,
    }
}

fn odd_at_most(count: usize) -> usize {
    if count.is_multiple_of(2) {
        count.saturating_sub(1)
    } else {
        count
    }
}

fn odd_at_least(count: usize) -> usize {
    if count.is_multiple_of(2) && count > 0 {
        count + 1
    } else {
        count
    }
}

/// Members that were chosen so far.
struct Choice<'a> {
    leader: Option<&'a NodeId>,
    chosen: Vec<&'a Candidate>,
}

impl<'a> Choice<'a> {
    /// Moves the best of `from` to the chosen until they are `size`: pinned, the leader, the steadiest, then the failure
    /// domain with the fewest chosen, then the oldest member.
    fn pick(&mut self, mut from: Vec<&'a Candidate>, size: usize) {
        from.retain(|member| !self.chosen.iter().any(|chosen| chosen.node == member.node));
        while self.chosen.len() < size {
            let crowd = self.crowd();
            let rank = |member: &&'a Candidate| {
                (
                    !is_wanted(member),
                    Some(&member.node) != self.leader,
                    member.steadiness,
                    crowd
                        .get(member.failure_domain.as_str())
                        .copied()
                        .unwrap_or_default(),
                    member.admitted_at,
                    member.node.clone(),
                )
            };
            let best = from
                .iter()
                .enumerate()
                .min_by_key(|(_, member)| rank(member));
            let Some(at) = best.map(|(at, _)| at) else {
                return;
            };
            self.chosen.push(from.swap_remove(at));
        }
    }

    /// Exchanges one voter for a settled member, if that makes the choice strictly better. One at a time: the next look
    /// finds the next. Strictly better each time, so it ends.
    fn improve(&mut self, spare: &[&'a Candidate]) {
        let before = self.worth();
        let mut best: Option<(Worth, usize, &'a Candidate)> = None;
        for at in 0..self.chosen.len() {
            let out = self.chosen[at];
            if is_wanted(out) || Some(&out.node) == self.leader {
                continue;
            }
            let settled = spare
                .iter()
                .filter(|member| member.presence == Presence::Settled)
                .filter(|member| !self.chosen.iter().any(|chosen| chosen.node == member.node));
            for member in settled {
                let mut with = self.chosen.clone();
                with[at] = member;
                let worth = worth(&with);
                let found = best.as_ref().map_or(&before, |(worth, _, _)| worth);
                if worth < *found {
                    best = Some((worth, at, member));
                }
            }
        }
        if let Some((_, at, member)) = best {
            self.chosen[at] = member;
        }
    }

    fn crowd(&self) -> BTreeMap<&'a str, usize> {
        crowd(&self.chosen)
    }

    fn worth(&self) -> Worth {
        worth(&self.chosen)
    }
}

/// Less is better, in this order: machines that may go, rented machines, voters in the fullest failure domain, voters
/// that share one.
type Worth = (usize, usize, usize, usize);

fn worth(chosen: &[&Candidate]) -> Worth {
    let of = |steadiness| {
        let members = chosen.iter();
        members
            .filter(|member| member.steadiness == steadiness)
            .count()
    };
    let crowd = crowd(chosen);
    (
        of(Steadiness::Fleeting),
        of(Steadiness::Cloud),
        crowd.values().copied().max().unwrap_or_default(),
        chosen.len() - crowd.len(),
    )
}

fn crowd<'a>(chosen: &[&'a Candidate]) -> BTreeMap<&'a str, usize> {
    let mut crowd = BTreeMap::new();
    for member in chosen {
        *crowd.entry(member.failure_domain.as_str()).or_default() += 1;
    }
    crowd
}
