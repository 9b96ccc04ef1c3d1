//! Cuts of the network under load: who decides on which side, and that nothing is decided twice.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::clients::{Answer, Call, far};
use crate::harness::{Node, PATIENCE, wait_until};
use crate::lab::{NetLab, leader_seen_by, say, seen_by, split_leader, stay, test_name};
use crate::load::{Plan, under_load, under_load_of};

/// How long a cut lasts once its effect was seen: long enough for clients to find out.
const CUT: Duration = Duration::from_secs(3);
/// How long a cut without an effect lasts; endless elections would show some 20 terms in it.
const LONG_CUT: Duration = Duration::from_secs(10);
/// Elections that a loaded machine may cause by itself in such a time.
const MOST_TERMS: u64 = 8;

fn all(nodes: &[Node]) -> Vec<&Node> {
    nodes.iter().collect()
}

fn highest_term(nodes: &[Node]) -> u64 {
    let terms = nodes.iter().map(|node| seen_by(node).term);
    terms.max().expect("there are nodes")
}

/// Says how many terms passed, and fails if they were too many.
fn assert_terms(nodes: &[Node], before: u64) {
    let terms = highest_term(nodes) - before;
    say(&format!("{}: {terms} elections", test_name()));
    assert!(terms <= MOST_TERMS, "{terms} terms have passed");
}

/// A submission at a node is acknowledged, sooner or later.
fn assert_decides(node: &Node) {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("decided-{number}-at-{}", node.name);
    wait_until(PATIENCE, &format!("{} decides", node.name), || {
        let answer = Call::submit(&name, far(&name)).send(&node.socket);
        matches!(answer, Answer::Good(..)).then_some(())
    });
}

#[test]
fn a_leader_cut_off_from_the_majority_is_replaced_and_nothing_is_lost() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    under_load(&lab, &nodes, 1, || {
        for _ in 0..3 {
            let (leader, others) = split_leader(&nodes);
            lab.lan.cut(&[leader], &others);
            wait_until(PATIENCE, "the others elect", || {
                leader_seen_by(others[0], &others)
            });
            stay(CUT);
            lab.lan.heal();
            let healed = Instant::now();
            assert_decides(leader);
            say(&format!(
                "the old leader decides again {:?} after the cut",
                healed.elapsed()
            ));
        }
    });
}

#[test]
fn two_of_five_voters_decide_nothing_and_three_go_on() {
    let Some(lab) = NetLab::new() else { return };
    // Five of seven vote. Seven nodes and their clients keep two cores busy: not with the shortest heartbeats.
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let nodes = lab.cluster_of(&names, &["--new", "--timing", "wan"]);
    under_load_of(&lab, &nodes, Plan::small(2), || {
        let (leader, others) = split_leader(&nodes);
        let voters: Vec<_> = seen_by(leader)
            .voters
            .into_iter()
            .map(|one| one.name)
            .collect();
        let (other_voters, workers): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|node| voters.contains(&node.name));
        assert_eq!((other_voters.len(), workers.len()), (4, 2), "{voters:?}");
        let (near, far) = other_voters.split_at(1);
        let minority = [&[leader, workers[0]][..], near].concat();
        let majority = [&[workers[1]][..], far].concat();
        lab.lan.cut(&minority, &majority);
        wait_until(PATIENCE, "the majority elects", || {
            leader_seen_by(majority[0], far)
        });
        assert_decides(majority[0]);
        for node in [leader, near[0]] {
            let said = node.muster(&["run", "--no-source", "--name", "never", "--", "true"]);
            let said = said.failure(1);
            assert!(said.contains("hint:"), "{said}");
            assert!(
                said.contains("2 of 5 voters") && said.contains("3 are needed"),
                "{said}"
            );
        }
        lab.lan.heal();
        assert_decides(leader);
    });
}

#[test]
fn a_one_way_cut_ends_in_a_leader_and_not_in_endless_elections() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let before = highest_term(&nodes);
    under_load(&lab, &nodes, 3, || {
        // A leader whom nobody hears, then one who hears nobody, then a follower of each kind.
        for deaf in [false, true] {
            for leads in [true, false] {
                let (leader, others) = split_leader(&nodes);
                let victim = if leads { leader } else { others[0] };
                let rest: Vec<_> = nodes
                    .iter()
                    .filter(|node| node.name != victim.name)
                    .collect();
                match deaf {
                    true => lab.lan.cut_one_way(&rest, &[victim]),
                    false => lab.lan.cut_one_way(&[victim], &rest),
                }
                for node in &rest {
                    assert_decides(node);
                }
                stay(CUT);
                lab.lan.heal();
                assert_decides(victim);
            }
        }
    });
    assert_terms(&nodes, before);
}

#[test]
fn a_cut_between_two_that_both_see_a_third_leaves_one_leader_and_few_elections() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let before = highest_term(&nodes);
    under_load(&lab, &nodes, 4, || {
        // Two followers do not see each other: nothing happens.
        let (leader, others) = split_leader(&nodes);
        lab.lan.cut(&[others[0]], &[others[1]]);
        stay(LONG_CUT);
        for node in all(&nodes) {
            assert_decides(node);
        }
        lab.lan.heal();
        // A follower does not see the leader, and the third sees both.
        lab.lan.cut(&[leader], &[others[0]]);
        stay(LONG_CUT);
        for node in [leader, others[1]] {
            assert_decides(node);
        }
        let said = others[0].muster(&["ls"]);
        let why = said.err.lines().next().unwrap_or("nothing");
        say(&format!(
            "{}: who is cut off from the leader only is told: {why}",
            test_name()
        ));
        assert!(said.code == 0 || said.err.contains("hint:"), "{said:?}");
        lab.lan.heal();
        assert_decides(others[0]);
    });
    assert_terms(&nodes, before);
}

#[test]
fn a_flapping_cable_costs_no_acknowledged_work() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    under_load(&lab, &nodes, 5, || {
        for round in 0..24 {
            let victim = &nodes[round % 3];
            lab.lan.unplug(victim);
            stay(Duration::from_millis(150 + 70 * (round as u64 % 7)));
            lab.lan.plug(victim);
            stay(Duration::from_millis(100 + 90 * (round as u64 % 5)));
        }
        for node in all(&nodes) {
            assert_decides(node);
        }
    });
}
