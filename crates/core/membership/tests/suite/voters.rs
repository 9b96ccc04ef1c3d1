//! Who votes.

use std::collections::BTreeSet;

use membership::{Candidate, Presence, Replicas, choose_voters, role_of, stop_risk};
use state_machine::Steadiness;
use types::{NodeId, Timestamp};

pub(crate) fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

pub(crate) fn member(name: &str, domain: &str, admitted_at: u64) -> Candidate {
    Candidate {
        node: id(name),
        barred: None,
        pinned: false,
        steadiness: Steadiness::OnPrem,
        failure_domain: domain.to_owned(),
        admitted_at: Timestamp(admitted_at),
        presence: Presence::Settled,
    }
}

/// Members `a`, `b`, … that fail alone, the first the oldest.
pub(crate) fn cluster(count: usize) -> Vec<Candidate> {
    let letters = "abcdefghj".chars().take(count).enumerate();
    letters
        .map(|(age, name)| member(&name.to_string(), &name.to_string(), age as u64))
        .collect()
}

pub(crate) fn set(names: &str) -> BTreeSet<NodeId> {
    names.chars().map(|name| id(&name.to_string())).collect()
}

/// Voters, learners, and the first of the voters leads.
pub(crate) fn replicas(voters: &str, learners: &str) -> Replicas {
    Replicas {
        voters: set(voters),
        learners: set(learners),
        leader: voters.chars().next().map(|name| id(&name.to_string())),
    }
}

fn voters(members: &[Candidate], now: &str) -> BTreeSet<NodeId> {
    choose_voters(members, &replicas(now, "")).voters
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
        let plan = choose_voters(&cluster(count), &replicas("a", ""));
        let found = (plan.voters.len(), plan.learners.len());
        assert_eq!(found, (voters, learners), "{count}");
    }
}

#[test]
fn current_voters_stay_when_others_come_that_are_as_good() {
    let mut members = cluster(6);
    members[5].admitted_at = Timestamp(0);
    assert_eq!(voters(&members, "cbd"), set("bcd"));
}

#[test]
fn a_silent_voter_stays_and_one_that_is_gone_is_replaced_by_one_that_is_there() {
    let mut members = cluster(4);
    members[1].presence = Presence::Silent;
    assert_eq!(voters(&members, "abc"), set("abc"));
    members[1].presence = Presence::Gone;
    assert_eq!(voters(&members, "abc"), set("acd"));
    for absent in [Presence::Silent, Presence::Gone] {
        members[3].presence = absent;
        assert_eq!(voters(&members, "abc"), set("abc"));
    }
}

#[test]
fn five_of_which_two_are_gone_for_good_become_three() {
    let mut members = cluster(5);
    members[3].presence = Presence::Gone;
    assert_eq!(voters(&members, "abcde"), set("abcde"));
    members[4].presence = Presence::Gone;
    assert_eq!(voters(&members, "abcde"), set("abc"));
    members[2].presence = Presence::Gone;
    assert_eq!(voters(&members, "abcde"), set("abcde"), "two cannot decide");
}

#[test]
fn an_even_number_of_voters_is_never_grown_to() {
    let mut members = cluster(3);
    members[2].presence = Presence::Silent;
    assert_eq!(voters(&members, "a"), set("a"));
    // Two are left of three: one decides alone as well as two, and one less can stop it.
    let mut members = cluster(3);
    members[2].barred = Some("drained".to_owned());
    assert_eq!(voters(&members, "abc"), set("a"));
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
    members[4].steadiness = Steadiness::Cloud;
    assert_eq!(voters(&members, "a"), set("acd"));
}

#[test]
fn a_better_spread_is_taken_when_it_has_settled_and_only_then() {
    let mut members = vec![
        member("a", "rack1", 0),
        member("b", "rack1", 1),
        member("c", "rack2", 2),
        member("d", "rack3", 3),
    ];
    members[3].presence = Presence::Here;
    assert_eq!(voters(&members, "abc"), set("abc"));
    members[3].presence = Presence::Settled;
    assert_eq!(voters(&members, "abc"), set("acd"));
    // As good as what is there: nothing moves.
    members.push(member("e", "rack3", 0));
    assert_eq!(voters(&members, "acd"), set("acd"));
    // The leader is never exchanged for a spread.
    let crowded = replicas("bac", "");
    assert_eq!(choose_voters(&members, &crowded).voters, set("bcd"));
}

#[test]
fn rented_machines_give_their_vote_to_settled_ones_of_the_house() {
    let mut members = cluster(4);
    members[1].steadiness = Steadiness::Cloud;
    assert_eq!(voters(&members, "abc"), set("acd"));
}

#[test]
fn pins_come_first_and_count_beyond_the_size() {
    let mut members = cluster(5);
    members[4].pinned = true;
    assert!(voters(&members, "abc").is_superset(&set("ae")));
    assert_eq!(voters(&members, "abc").len(), 3);
    for member in &mut members {
        member.pinned = true;
    }
    assert_eq!(voters(&members, "abc"), set("abcde"));
    // Where one votes, it is the one that a person wants, though another leads.
    let mut members = cluster(2);
    members[1].pinned = true;
    assert_eq!(voters(&members, "a"), set("b"));
}

#[test]
fn who_is_barred_neither_votes_nor_stands_by() {
    let mut members = cluster(3);
    members[2].barred = Some("a laptop".to_owned());
    let plan = choose_voters(&members, &replicas("a", ""));
    assert_eq!((plan.voters, plan.learners), (set("a"), set("b")));
    for member in &mut members {
        member.barred = Some("drained".to_owned());
    }
    assert_eq!(voters(&members, "a"), set("a"), "somebody has to lead");
}

#[test]
fn standing_replicas_are_not_exchanged_for_older_members() {
    let members = cluster(6);
    let plan = choose_voters(&members, &replicas("abc", "ef"));
    assert_eq!(plan.learners, set("ef"));
    let mut members = members;
    members[4].presence = Presence::Silent;
    assert_eq!(
        choose_voters(&members, &replicas("abc", "ef")).learners,
        set("ef")
    );
    members[4].presence = Presence::Gone;
    assert_eq!(
        choose_voters(&members, &replicas("abc", "ef")).learners,
        set("df")
    );
}

#[test]
fn each_role_says_why_it_is_so_and_what_comes_next() {
    let mut members = cluster(6);
    members[1].barred = Some("ann@a drains it".to_owned());
    members[5].pinned = true;
    let now = replicas("abc", "f");
    let plan = choose_voters(&members, &now);
    let role = |at: usize| {
        let role = role_of(&members[at], &now, &plan);
        format!("{}: {}", role.word, role.why)
    };
    assert_eq!(role(0), "leader: elected by 3 voters");
    assert_eq!(
        role(1),
        "voter: one of 3: here to stay; gives its vote back: ann@a drains it"
    );
    assert_eq!(
        role(5),
        "learner: stands by for a voter that goes; gets a vote when it has the whole log"
    );
    assert_eq!(role(4), "worker: 3 others vote, which is enough");
}

#[test]
fn the_machine_whose_absence_stops_the_cluster_is_named() {
    let risk =
        |members: &[Candidate], voters: &str| stop_risk(members, &set(voters), ToString::to_string);
    let mut members = cluster(5);
    assert!(risk(&members, "a").unwrap().starts_with("only a votes"));
    assert_eq!(risk(&members, "abc"), None);
    members[1].presence = Presence::Silent;
    let text = risk(&members, "abc").unwrap();
    assert!(text.contains("(a or c) stops the cluster"), "{text}");
    assert!(text.contains("b is missing"), "{text}");
    assert_eq!(risk(&members, "abcde"), None);
    members[1].presence = Presence::Settled;
    for member in &mut members[..2] {
        member.failure_domain = "rack1".to_owned();
    }
    let text = risk(&members, "abc").unwrap();
    assert!(text.contains("rack1 holds 2 of 3"), "{text}");
    assert_eq!(risk(&members, "abcde"), None);
}
