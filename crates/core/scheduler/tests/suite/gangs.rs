//! Requests of several nodes: all of them at once, or none.

use std::collections::BTreeSet;

use proptest::prelude::*;
use scheduler::{Verdict, could_ever_run, offers};
use state_machine::check_invariants;
use types::{DurationMs, ExperimentId, NodeReport, Policy, ResourceRequest};

use crate::leader::{GIB, Leader, ask, facts, report};

fn on(nodes: u32, request: ResourceRequest) -> ResourceRequest {
    ResourceRequest { nodes, ..request }
}

/// Nodes of 4 cores and 8 GiB.
fn cluster(names: &str) -> Leader {
    Leader::of(reports(names))
}

fn reports(names: &str) -> Vec<NodeReport> {
    let names = names.chars();
    names
        .map(|name| report(&name.to_string(), 4, 8, &[]))
        .collect()
}

/// Where an experiment runs, by rank.
fn homes(leader: &Leader, experiment: ExperimentId) -> Vec<String> {
    let experiment = leader.state.experiment(experiment).unwrap();
    let attempt = experiment.current_attempt();
    let ranks = attempt.into_iter().flat_map(|attempt| &attempt.ranks);
    ranks.map(|rank| rank.placement.node.to_string()).collect()
}

fn limited(minutes: u64) -> Policy {
    Policy {
        time_limit_ms: DurationMs::from_secs(60 * minutes),
        ..Policy::default()
    }
}

#[test]
fn a_gang_gets_a_node_for_each_rank_or_nothing() {
    let mut leader = cluster("abc");
    let first = leader.submit(on(2, ask(3, 4)));
    let second = leader.submit(on(2, ask(3, 4)));
    let placed = leader.place();
    assert_eq!(placed.len(), 1);
    let homes_of_first: BTreeSet<_> = homes(&leader, first).into_iter().collect();
    assert_eq!(homes_of_first.len(), 2);
    assert!(homes(&leader, second).is_empty());
    let why = leader.explain(second);
    assert!(
        why.summary.contains("1 of the 2 have room now"),
        "{}",
        why.summary
    );
    assert!(why.possible_ever);
    leader.finish(placed[0]);
    assert_eq!(leader.place().len(), 1);
    assert_eq!(homes(&leader, second).len(), 2);
}

#[test]
fn why_says_how_many_nodes_are_large_enough() {
    let mut leader = Leader::of(vec![report("a", 4, 8, &[]), report("b", 2, 8, &[])]);
    let large = leader.submit(on(2, ask(3, 1)));
    assert!(leader.round().is_empty());
    let why = leader.explain(large);
    assert!(!why.possible_ever);
    assert!(
        why.summary
            .contains("1 of its 2 nodes could run a part of it"),
        "{}",
        why.summary
    );
    assert_eq!(why.nodes[0].verdict, Verdict::Fits);
    let Verdict::Impossible(reasons) = &why.nodes[1].verdict else {
        panic!("{why:?}")
    };
    assert_eq!(reasons, &["needs 3 cpus, has 2 in all"]);
    let small = leader.submit(on(2, ask(1, 1)));
    leader.place();
    let placed = leader.explain(small);
    assert!(
        placed.summary.contains("placed on a, b") || placed.summary.contains("placed on b, a"),
        "{}",
        placed.summary
    );
}

#[test]
fn nodes_of_one_failure_domain_are_taken_together() {
    let of_rack = |(name, rack): (char, &str)| {
        let mut facts = facts(&name.to_string());
        facts.labels = vec![("failure-domain".to_owned(), rack.to_owned())];
        facts
    };
    let racks = "abcdef"
        .chars()
        .zip(["one", "two", "one", "two", "three", "two"]);
    let mut leader = Leader::with_facts(reports("abcdef"), racks.map(of_rack).collect());
    let three = leader.submit(on(3, ask(3, 4)));
    leader.place();
    let in_two: BTreeSet<_> = homes(&leader, three).into_iter().collect();
    assert_eq!(in_two, ["b", "d", "f"].map(str::to_owned).into());
    let reason = &leader.state.active().next().unwrap().1.reason;
    assert!(reason.ends_with("; all in two"), "{reason}");
    // None holds three more: as few as can be.
    let next = leader.submit(on(3, ask(3, 4)));
    leader.place();
    let rest: BTreeSet<_> = homes(&leader, next).into_iter().collect();
    assert_eq!(rest, ["a", "c", "e"].map(str::to_owned).into());
}

#[test]
fn a_gang_that_waits_in_front_is_not_delayed_by_what_fits_behind_it() {
    let mut leader = cluster("abc");
    let blocker = leader.submit_with(ask(4, 8), limited(10));
    leader.place();
    let gang = leader.submit_with(on(3, ask(4, 8)), limited(30));
    // It waits for the one node of three that is full: what ends before may use the others, what does not may not.
    let long = leader.submit_with(ask(1, 1), limited(60));
    let short = leader.submit_with(ask(1, 1), limited(5));
    leader.place();
    assert!(homes(&leader, gang).is_empty());
    assert!(homes(&leader, long).is_empty(), "it would delay the gang");
    assert_eq!(homes(&leader, short).len(), 1);
    let why = leader.explain(long);
    let kept = format!("{:?}", why.nodes);
    assert!(kept.contains(&format!("is kept for {gang}")), "{kept}");
    let estimate = leader.explain(gang).estimate;
    assert!(
        estimate.starts_with("in ") && estimate.contains("a, b, c") || estimate.contains("c"),
        "{estimate}"
    );
    for (_, attempt) in leader.state.clone().active() {
        leader.finish(attempt.token);
    }
    leader.place();
    assert_eq!(homes(&leader, gang).len(), 3);
    assert!(
        leader
            .state
            .experiment(blocker)
            .unwrap()
            .current_attempt()
            .is_none()
    );
}

#[test]
fn room_is_made_for_a_whole_gang_or_for_none_of_it() {
    let mut leader = cluster("abc");
    let urgent = Policy {
        priority: 100,
        ..Policy::default()
    };
    let low: Vec<_> = (0..2).map(|_| leader.submit(ask(4, 8))).collect();
    let same = leader.submit_with(ask(4, 8), urgent.clone());
    leader.place();
    assert_eq!(homes(&leader, same).len(), 1);
    let too_many = leader.submit_with(on(3, ask(4, 8)), urgent.clone());
    assert!(leader.preempt().is_empty(), "nobody goes for a part of it");
    let stop = state_machine::Command::StopExperiment(state_machine::StopExperiment {
        experiment: too_many,
    });
    leader.apply(stop);
    let gang = leader.submit_with(on(2, ask(4, 8)), urgent);
    let victims = leader.preempt();
    let of: BTreeSet<_> = victims.iter().map(|token| token.experiment).collect();
    assert_eq!(of, low.iter().copied().collect());
    assert!(leader.preempt().is_empty(), "once");
    leader.submit(ask(1, 1));
    let by = types::CauseKind::Stopped {
        by: "the scheduler".to_owned(),
    };
    leader.end(victims[0], by.clone());
    assert!(
        leader.place().is_empty(),
        "what is free of its place waits for the rest"
    );
    leader.end(victims[1], by);
    leader.place();
    assert_eq!(homes(&leader, gang).len(), 2);
}

#[test]
fn a_gang_makes_room_as_a_whole() {
    let mut leader = cluster("ab");
    let gang = leader.submit(on(2, ask(3, 4)));
    let placed = leader.place();
    let urgent = Policy {
        priority: 100,
        ..Policy::default()
    };
    let one = leader.submit_with(ask(4, 4), urgent);
    assert_eq!(leader.preempt(), placed);
    leader.end(placed[0], types::CauseKind::Stopped { by: "x".to_owned() });
    let cause = &leader.state.experiment(gang).unwrap().attempts[0]
        .end
        .as_ref()
        .unwrap()
        .cause;
    assert!(cause.is_move(), "{cause}");
    leader.place();
    assert_eq!(homes(&leader, one).len(), 1);
    assert!(homes(&leader, gang).is_empty(), "one node is not enough");
}

fn request() -> impl Strategy<Value = ResourceRequest> {
    let gpu = prop_oneof![3 => Just(0_u64), 1 => Just(500_u64), 1 => Just(1_000), 1 => Just(2_000)];
    let nodes = prop_oneof![2 => Just(1_u32), 2 => Just(2), 1 => Just(3), 1 => Just(4)];
    (
        0_u64..6_000,
        0_u64..10,
        gpu,
        nodes,
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(cpu_milli, memory, gpu_milli, nodes, exclusive)| ResourceRequest {
                cpu_milli,
                memory_bytes: memory * GIB,
                gpu_milli,
                nodes,
                exclusive,
                ..ResourceRequest::default()
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Placed whole on nodes of their own, never over what these have; and as nobody holds a part of what he waits for,
    /// all that the cluster can run comes to its end, in whatever order things end.
    #[test]
    fn gangs_are_placed_whole_and_never_block_each_other(
        nodes in prop::collection::vec((1_u64..9, 1_u64..17, prop::collection::vec(8_u64..81, 0..4)), 1..6),
        requests in prop::collection::vec((request(), prop::option::of(1_u64..60)), 1..16),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        let reports: Vec<_> = "abcde".chars().zip(&nodes)
            .map(|(name, (cpus, memory, gpus))| {
                let gpus: Vec<_> = gpus.iter().map(|vram| (*vram, 0)).collect();
                report(&name.to_string(), *cpus, *memory, &gpus)
            })
            .collect();
        let mut leader = Leader::of(reports.clone());
        for (request, minutes) in requests {
            let policy = minutes.map_or_else(Policy::default, limited);
            leader.submit_with(request, policy);
        }
        for pick in picks {
            // Every proposal of a round is accepted as a whole.
            while !leader.place().is_empty() {}
            for (experiment, attempt) in leader.state.active() {
                let on: BTreeSet<_> = attempt.ranks.iter().map(|rank| &rank.placement.node).collect();
                prop_assert_eq!(on.len(), experiment.spec.resources.nodes as usize);
            }
            for report in &reports {
                let booking = leader.state.booking(&report.node);
                prop_assert!(booking.cpu_milli <= report.cpu_milli && booking.memory_bytes <= report.memory_bytes);
                prop_assert!(booking.gpus.values().all(|(milli, _)| *milli <= 1_000));
            }
            prop_assert_eq!(check_invariants(&leader.state), Ok(()));
            let running: Vec<_> = leader.state.active().map(|(_, attempt)| attempt.token).collect();
            if running.is_empty() {
                break;
            }
            leader.finish(*pick.get(&running));
        }
        prop_assert_eq!(leader.state.active().count(), 0, "everything that ran has ended");
        let offers = offers(&leader.state, &leader.view, leader.now);
        for waiting in leader.state.waiting() {
            let request = &waiting.spec.resources;
            prop_assert!(!could_ever_run(&offers, request), "{request} waits for nothing");
            let why = leader.explain(waiting.id);
            prop_assert!(!why.possible_ever, "{why:?}");
        }
    }
}
