//! From the voters that are to those that should be.

use std::collections::BTreeSet;

use membership::{
    Candidate, Change, MAX_LEARNERS, Presence, Progress, Replicas, choose_voters, next_change,
};
use proptest::prelude::*;
use state_machine::Steadiness;
use types::NodeId;

use crate::voters::{cluster, id, member, replicas, set};

/// Every replica is up to date at once.
fn caught_up(now: &Replicas) -> Progress {
    Progress {
        is_joint: false,
        caught_up: now.voters.union(&now.learners).cloned().collect(),
    }
}

/// Makes a change as Raft would.
fn make(change: Change, now: &mut Replicas) {
    match change {
        Change::AddLearner(node) => {
            now.learners.insert(node);
        }
        Change::SetVoters(voters) => {
            let lost: Vec<_> = now.voters.difference(&voters).cloned().collect();
            now.learners.extend(lost);
            now.learners.retain(|node| !voters.contains(node));
            now.voters = voters;
        }
        Change::HandOver(heir) => now.leader = Some(heir),
        Change::Release(node) => {
            now.learners.remove(&node);
        }
    }
}

/// Follows the plans one change at a time until nothing is left to do; all configurations on the way.
fn follow(members: &[Candidate], now: &mut Replicas) -> Vec<BTreeSet<NodeId>> {
    let mut seen = vec![now.voters.clone()];
    for _ in 0..100 {
        let plan = choose_voters(members, now);
        let Some(change) = next_change(members, &plan, now, &caught_up(now)) else {
            let silent = |node: &NodeId| {
                let member = members.iter().find(|member| member.node == *node);
                member.is_some_and(|member| member.presence == Presence::Silent)
            };
            // An heir that is silent is waited for, until it is back or gone.
            if !plan.voters.iter().any(silent) {
                assert_eq!(plan.voters, now.voters);
                assert_eq!(plan.learners, now.learners);
            }
            return seen;
        };
        make(change, now);
        let leader = now.leader.as_ref().unwrap();
        assert!(now.voters.contains(leader), "the leader votes: {now:?}");
        seen.push(now.voters.clone());
    }
    panic!("it does not settle: {now:?}");
}

/// A barred leader makes its heir of the one voter that stays, which is silent just now: until it is back, those that have
/// lost their votes do not all stand by.
#[test]
fn no_more_than_two_stand_by_while_a_silent_heir_is_waited_for() {
    let mut members = cluster(6);
    for (member, presence) in members.iter_mut().zip([
        Presence::Silent,
        Presence::Gone,
        Presence::Gone,
        Presence::Here,
        Presence::Settled,
        Presence::Gone,
    ]) {
        member.presence = presence;
    }
    for barred in [1, 2, 4, 5] {
        members[barred].barred = Some("barred".to_owned());
    }
    let mut now = replicas("abcde", "");
    now.leader = Some(members[4].node.clone());
    follow(&members, &mut now);
    assert!(now.learners.len() <= MAX_LEARNERS, "{now:?}");
}

#[test]
fn a_cluster_grows_from_one_to_three_to_five_without_an_even_step() {
    let mut now = replicas("a", "");
    for count in 1..=9 {
        for voters in follow(&cluster(count), &mut now) {
            assert_eq!(voters.len() % 2, 1, "{voters:?}");
        }
    }
    assert_eq!(now.voters.len(), 5);
}

#[test]
fn nobody_gets_a_vote_before_it_has_the_log() {
    let members = cluster(3);
    let now = replicas("a", "bc");
    let plan = choose_voters(&members, &now);
    let mut progress = caught_up(&now);
    progress.caught_up.remove(&id("c"));
    assert_eq!(next_change(&members, &plan, &now, &progress), None);
    let next = next_change(&members, &plan, &now, &caught_up(&now));
    assert_eq!(next, Some(Change::SetVoters(set("abc"))));
}

#[test]
fn a_leader_that_is_drained_hands_over_before_it_loses_its_vote() {
    let mut members = cluster(4);
    members[0].barred = Some("drained".to_owned());
    let mut now = replicas("abc", "d");
    let plan = choose_voters(&members, &now);
    let next = next_change(&members, &plan, &now, &caught_up(&now));
    assert_eq!(next, Some(Change::HandOver(id("b"))));
    follow(&members, &mut now);
    assert_eq!((now.voters, now.learners), (set("bcd"), set("")));
}

#[test]
fn the_only_voter_makes_its_heir_before_it_goes() {
    let mut members = cluster(2);
    members[0].barred = Some("drained".to_owned());
    let mut now = replicas("a", "b");
    let seen = follow(&members, &mut now);
    let steps = ["a", "ab", "ab", "b", "b"];
    assert_eq!(seen, steps.map(set), "heir, hand-over, vote back, released");
    assert_eq!(now.leader, Some(id("b")));
}

#[test]
fn a_change_that_a_dead_leader_left_half_made_is_made_whole() {
    let members = cluster(3);
    let now = replicas("abc", "");
    let plan = choose_voters(&members, &now);
    let mut progress = caught_up(&now);
    assert_eq!(next_change(&members, &plan, &now, &progress), None);
    progress.is_joint = true;
    let next = next_change(&members, &plan, &now, &progress);
    assert_eq!(next, Some(Change::SetVoters(set("abc"))));
}

#[test]
fn a_removed_voter_is_replaced_and_its_replica_released() {
    let mut now = replicas("abz", "c");
    follow(&cluster(3), &mut now);
    assert_eq!((now.voters, now.learners), (set("abc"), set("")));
}

prop_compose! {
    fn some_member()(
        barred in prop::bool::weighted(0.2),
        pinned in prop::bool::weighted(0.15),
        steadiness in 0_u8..2,
        domain in 0_u8..4,
        presence in 0_u8..8,
    ) -> (bool, bool, Steadiness, u8, Presence) {
        let steadiness = if steadiness == 0 { Steadiness::OnPrem } else { Steadiness::Cloud };
        let presence = match presence {
            0 => Presence::Gone,
            1 => Presence::Silent,
            2 => Presence::Here,
            _ => Presence::Settled,
        };
        (barred, pinned, steadiness, domain, presence)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// From any cluster and any voters: the plans settle, the leader always votes, an even number of voters is passed
    /// only by a leader that makes its heir or out of one that was even before, and the end is no worse than the rule.
    #[test]
    fn following_the_plans_settles(
        traits in prop::collection::vec(some_member(), 1..10),
        voting in prop::collection::vec(any::<bool>(), 10),
        lead in 0_usize..10,
    ) {
        let mut members: Vec<_> = "abcdefghjk".chars().zip(&traits).enumerate().map(|(age, (name, traits))| {
            let (barred, pinned, steadiness, domain, presence) = traits;
            Candidate {
                barred: barred.then(|| "barred".to_owned()),
                pinned: *pinned && !barred,
                steadiness: *steadiness,
                presence: *presence,
                ..member(&name.to_string(), &domain.to_string(), age as u64)
            }
        }).collect();
        let lead = lead % members.len();
        members[lead].presence = Presence::Settled;
        let mut voters: BTreeSet<_> = members.iter().zip(&voting)
            .filter(|(_, votes)| **votes).map(|(member, _)| member.node.clone()).take(5).collect();
        voters.insert(members[lead].node.clone());
        let was_even = voters.len().is_multiple_of(2);
        let mut now = Replicas { voters, learners: BTreeSet::new(), leader: Some(members[lead].node.clone()) };
        let seen = follow(&members, &mut now);

        prop_assert!(now.learners.len() <= MAX_LEARNERS);
        let eligible = members.iter().filter(|member| member.barred.is_none()).count();
        let there = members.iter().filter(|member| {
            member.barred.is_none() && (member.presence <= Presence::Here)
        }).count();
        // Who is gone and was no voter is never made one.
        for node in &now.voters {
            let member = members.iter().find(|member| member.node == *node).unwrap();
            prop_assert!(member.presence <= Presence::Here || seen[0].contains(node));
            let settled = members.iter().all(|member| member.presence != Presence::Silent);
            prop_assert!(member.barred.is_none() || there == 0 || !settled);
        }
        if there == eligible && eligible > 0 {
            prop_assert_eq!(now.voters.len() % 2, 1, "all are there: {:?}", now);
        }
        let evens = seen.windows(2).filter(|pair| {
            let grew_even = pair[1].len().is_multiple_of(2) && pair[0] != pair[1];
            grew_even && !pair[0].len().is_multiple_of(2)
        }).count();
        prop_assert!(evens <= 1 || was_even, "{seen:?}");
    }
}
