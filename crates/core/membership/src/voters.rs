//! Who votes: 1, 3 or 5 by cluster size (invariant 9), steady, spread over failure domains, on-prem first.

use std::collections::{BTreeMap, BTreeSet};

use state_machine::ClusterState;
use types::{NodeFacts, NodeId, Timestamp};

use crate::view::{Health, View};

/// Standby voters: they hold the state without a vote. Two replace any one loss and one more while the first catches up.
pub const MAX_LEARNERS: usize = 2;

/// Labels of machines that come and go by themselves.
const FLEETING_LABELS: [&str; 5] = ["spot", "mobile", "sleeps", "cloud", "instance"];

/// A member that may be asked to vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub node: NodeId,
    /// Its facts allow it.
    pub may_vote: bool,
    /// Not a spot, mobile, sleeping or cloud machine.
    pub on_prem: bool,
    /// What fails together; see [`failure_domain`].
    pub failure_domain: String,
    /// When it was admitted: the older, the steadier.
    pub admitted_at: Timestamp,
    /// In touch with the leader for long enough that the caller trusts it.
    pub healthy: bool,
}

/// Who should vote and who should stand by. The caller gets there by one membership change at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterPlan {
    /// Voters.
    pub voters: BTreeSet<NodeId>,
    /// Standby voters, at most [`MAX_LEARNERS`].
    pub learners: BTreeSet<NodeId>,
    /// Why, for people.
    pub reason: String,
}

/// The label `failure-domain` of a node, or else the node itself: it fails alone.
#[must_use]
pub fn failure_domain(node: &NodeId, facts: &NodeFacts) -> String {
    let label = facts
        .labels
        .iter()
        .find(|(name, _)| name == "failure-domain");
    label.map_or_else(|| node.to_string(), |(_, value)| value.clone())
}

/// All members as candidates; healthy are those that the view calls live.
#[must_use]
pub fn candidates(state: &ClusterState, view: &View, now: Timestamp) -> Vec<Candidate> {
    let candidate = |record: &state_machine::NodeRecord| Candidate {
        node: record.node.clone(),
        may_vote: record.facts.may_vote && !record.draining,
        on_prem: !record
            .facts
            .labels
            .iter()
            .any(|(name, _)| FLEETING_LABELS.contains(&name.as_str())),
        failure_domain: failure_domain(&record.node, &record.facts),
        admitted_at: record.admitted_at,
        healthy: view.health(&record.node, now) == Health::Live,
    };
    state.nodes().map(candidate).collect()
}

/// Chooses voters and standby voters.
///
/// A current voter stays while it is an eligible member, unless it is unhealthy and a healthy one can take its place.
/// Only healthy members are added, and never so that the number of voters gets even. The leader stays.
#[must_use]
pub fn choose_voters(
    members: &[Candidate],
    current: &BTreeSet<NodeId>,
    leader: &NodeId,
) -> VoterPlan {
    let eligible: Vec<_> = members
        .iter()
        .filter(|member| member.may_vote || member.node == *leader)
        .collect();
    let keepable = eligible
        .iter()
        .filter(|member| current.contains(&member.node))
        .count();
    let size = size_for(eligible.len()).max(odd_at_most(keepable)).min(5);
    let healthy = |member: &&&Candidate| member.healthy || member.node == *leader;
    let (sound, failing): (Vec<_>, Vec<_>) = eligible
        .iter()
        .filter(|member| current.contains(&member.node))
        .partition(healthy);
    let spare: Vec<_> = eligible
        .iter()
        .filter(|member| !current.contains(&member.node))
        .filter(healthy)
        .collect();

    let base = sound.len() + failing.len();
    let reachable = base + spare.len();
    // With too few healthy members the failing voters stay, and nobody is added who would make the number even.
    let (size, with_spare) = if reachable < size {
        let size = base.max(odd_at_most(reachable));
        (size, size - failing.len())
    } else {
        (size, size)
    };
    let mut voters: Vec<&Candidate> = Vec::new();
    pick(&mut voters, sound, size, leader);
    let kept = voters.len();
    pick(&mut voters, spare, with_spare, leader);
    let added = voters.len() - kept;
    pick(&mut voters, failing, size, leader);

    let chosen: BTreeSet<_> = voters.iter().map(|member| member.node.clone()).collect();
    let rest = eligible
        .iter()
        .filter(|member| !chosen.contains(&member.node))
        .filter(healthy)
        .collect();
    let mut standby = voters.clone();
    pick(&mut standby, rest, voters.len() + MAX_LEARNERS, leader);
    let learners = standby
        .split_off(voters.len())
        .into_iter()
        .map(|member| member.node.clone())
        .collect();
    let reason = format!(
        "{} of {} eligible members vote ({kept} kept, {added} added, {} left)",
        chosen.len(),
        eligible.len(),
        current.difference(&chosen).count(),
    );
    VoterPlan {
        voters: chosen,
        learners,
        reason,
    }
}

/// Voters for so many eligible members: a second voter would only add a way to stop.
fn size_for(eligible: usize) -> usize {
    match eligible {
        0..=2 => 1,
        3..=6 => 3,
        _ => 5,
    }
}

fn odd_at_most(count: usize) -> usize {
    match count {
        0 => 0,
        even if even.is_multiple_of(2) => even - 1,
        odd => odd,
    }
}

/// Moves the best of `from` to `chosen` until it has `size`: the leader, then on-prem, then the failure domain with the
/// fewest chosen, then the oldest member.
fn pick<'a>(
    chosen: &mut Vec<&'a Candidate>,
    mut from: Vec<&&'a Candidate>,
    size: usize,
    leader: &NodeId,
) {
    let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
    for member in chosen.iter() {
        *domains.entry(&member.failure_domain).or_default() += 1;
    }
    while chosen.len() < size {
        let rank = |member: &&&'a Candidate| {
            let crowd = domains.get(member.failure_domain.as_str()).copied();
            (
                member.node != *leader,
                !member.on_prem,
                crowd.unwrap_or_default(),
                member.admitted_at,
                member.node.clone(),
            )
        };
        let best = from
            .iter()
            .enumerate()
            .min_by_key(|(_, member)| rank(member));
        let Some((at, _)) = best else { return };
        let member = *from.swap_remove(at);
        *domains.entry(&member.failure_domain).or_default() += 1;
        chosen.push(member);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn member(name: &str, domain: &str, admitted_at: u64) -> Candidate {
        Candidate {
            node: id(name),
            may_vote: true,
            on_prem: true,
            failure_domain: domain.to_owned(),
            admitted_at: Timestamp(admitted_at),
            healthy: true,
        }
    }

    fn cluster(count: usize) -> Vec<Candidate> {
        let letters = "abcdefghj".chars().take(count).enumerate();
        letters
            .map(|(i, c)| member(&c.to_string(), &c.to_string(), i as u64))
            .collect()
    }

    fn set(names: &str) -> BTreeSet<NodeId> {
        names.chars().map(|c| id(&c.to_string())).collect()
    }

    #[test]
    fn voters_are_one_three_or_five_by_size() {
        for (count, voters, learners) in [
            (1, 1, 0),
            (2, 1, 1),
            (3, 3, 0),
            (4, 3, 1),
            (6, 3, 2),
            (7, 5, 2),
            (9, 5, 2),
        ] {
            let plan = choose_voters(&cluster(count), &set("a"), &id("a"));
            assert_eq!(
                (plan.voters.len(), plan.learners.len()),
                (voters, learners),
                "{count}"
            );
        }
    }

    #[test]
    fn current_voters_stay_when_better_ones_come() {
        let mut members = cluster(6);
        members[5].admitted_at = Timestamp(0);
        let plan = choose_voters(&members, &set("bcd"), &id("c"));
        assert_eq!(plan.voters, set("bcd"));
    }

    #[test]
    fn an_unhealthy_voter_is_replaced_only_by_a_healthy_one() {
        let mut members = cluster(4);
        members[1].healthy = false;
        assert_eq!(
            choose_voters(&members, &set("abc"), &id("a")).voters,
            set("acd")
        );
        members[3].healthy = false;
        assert_eq!(
            choose_voters(&members, &set("abc"), &id("a")).voters,
            set("abc")
        );
    }

    #[test]
    fn an_even_number_of_voters_is_never_grown_to() {
        let mut members = cluster(3);
        members[2].healthy = false;
        assert_eq!(
            choose_voters(&members, &set("a"), &id("a")).voters,
            set("a")
        );
    }

    #[test]
    fn voters_are_spread_over_failure_domains_on_prem_first() {
        let mut members = vec![
            member("a", "rack1", 0),
            member("b", "rack1", 1),
            member("c", "rack2", 2),
            member("d", "rack3", 3),
            member("e", "zone", 0),
        ];
        members[4].on_prem = false;
        assert_eq!(
            choose_voters(&members, &set("a"), &id("a")).voters,
            set("acd")
        );
    }

    #[test]
    fn a_removed_member_loses_its_vote() {
        let plan = choose_voters(&cluster(2), &set("abc"), &id("a"));
        assert_eq!(plan.voters, set("a"));
    }

    #[test]
    fn laptops_neither_vote_nor_stand_by() {
        let mut members = cluster(3);
        members[2].may_vote = false;
        let plan = choose_voters(&members, &set("a"), &id("a"));
        assert_eq!((plan.voters, plan.learners), (set("a"), set("b")));
    }

    proptest! {
        #[test]
        fn following_the_plan_settles(flags in prop::collection::vec((any::<bool>(), any::<bool>(), 0_u8..3), 1..9), start in 0_usize..9) {
            let members: Vec<_> = "abcdefghj".chars().zip(&flags).map(|(c, (may_vote, healthy, domain))| Candidate {
                may_vote: *may_vote,
                healthy: *healthy,
                ..member(&c.to_string(), &domain.to_string(), 0)
            }).collect();
            let leader = members[start % members.len()].node.clone();
            let first = choose_voters(&members, &BTreeSet::from([leader.clone()]), &leader);
            prop_assert!(first.voters.contains(&leader));
            prop_assert_eq!(first.voters.len() % 2, 1);
            prop_assert!(first.voters.is_disjoint(&first.learners) && first.learners.len() <= MAX_LEARNERS);
            for node in first.voters.iter().filter(|node| **node != leader) {
                let member = members.iter().find(|member| member.node == *node).unwrap();
                prop_assert!(member.healthy && member.may_vote);
            }
            let second = choose_voters(&members, &first.voters, &leader);
            prop_assert_eq!(first.voters, second.voters);
        }
    }
}
