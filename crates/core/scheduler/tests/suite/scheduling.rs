//! The scheduler over real states and views.

use proptest::prelude::*;
use scheduler::{Memory, SchedulerConfig, Verdict, explain, place_new};
use state_machine::check_invariants;
use types::{DurationMs, NodeFacts, Policy, ResourceRequest};

use crate::leader::{GIB, Leader, ask, ask_gpu, facts, id, report};

#[test]
fn the_tightest_node_is_chosen_and_the_reason_says_what_is_left() {
    let mut leader = Leader::of(vec![report("big", 16, 64, &[]), report("smaLL", 4, 8, &[])]);
    let experiment = leader.submit(ask(3, 6));
    let round = leader.round();
    assert_eq!(
        round[0].reason,
        "best fit of 2 nodes: smaLL keeps 1 cpu and 2.0 GiB free; next best is big"
    );
    leader.place();
    assert_eq!(leader.home(experiment).as_deref(), Some("smaLL"));
}

#[test]
fn cpu_work_keeps_off_gpu_nodes_while_another_fits() {
    let mut leader = Leader::of(vec![
        report("gpu", 2, 4, &[(80, 0)]),
        report("p1ain", 64, 256, &[]),
    ]);
    let experiment = leader.submit(ask(2, 4));
    leader.place();
    assert_eq!(leader.home(experiment).as_deref(), Some("p1ain"));
}

#[test]
fn many_are_placed_in_one_round_without_booking_anything_twice() {
    let mut leader = Leader::of(vec![report("a", 4, 8, &[]), report("b", 4, 8, &[])]);
    for _ in 0..10 {
        leader.submit(ask(1, 1));
    }
    assert_eq!(leader.place().len(), 8);
    assert!(leader.round().is_empty());
}

#[test]
fn a_node_that_lost_an_attempt_is_last_but_not_excluded() {
    let mut leader = Leader::of(vec![report("a", 4, 8, &[]), report("b", 8, 16, &[])]);
    let experiment = leader.submit(ask(1, 1));
    let token = leader.place()[0];
    assert_eq!(leader.home(experiment).as_deref(), Some("a"));
    leader.lose(token);
    let token = leader.place()[0];
    assert_eq!(leader.home(experiment).as_deref(), Some("b"));
    leader.lose(token);
    leader.place();
    assert_eq!(leader.home(experiment).as_deref(), Some("a"));
}

#[test]
fn the_mirror_is_another_live_node_in_another_failure_domain() {
    let rack = |name: &str, rack: &str| NodeFacts {
        labels: vec![("failure-domain".to_owned(), rack.to_owned())],
        ..facts(name)
    };
    let reports = vec![
        report("a", 1, 1, &[]),
        report("b", 4, 8, &[]),
        report("c", 4, 8, &[]),
    ];
    let mut leader = Leader::with_facts(
        reports,
        vec![rack("a", "r1"), rack("b", "r1"), rack("c", "r2")],
    );
    leader.submit(ask(1, 1));
    assert_eq!(leader.round()[0].mirror, Some(id("c")));
    let mut alone = Leader::of(vec![report("a", 4, 8, &[])]);
    alone.submit(ask(1, 1));
    assert_eq!(alone.round()[0].mirror, None);
}

#[test]
fn silent_refusing_and_workless_nodes_get_nothing() {
    let mut refusing = report("b", 4, 8, &[]);
    refusing.refuses_work = true;
    refusing.warnings = vec!["disk nearly full".to_owned()];
    let laptop = NodeFacts {
        takes_work: false,
        ..facts("c")
    };
    let reports = vec![report("a", 4, 8, &[]), refusing, report("c", 4, 8, &[])];
    let mut leader = Leader::with_facts(reports, vec![facts("a"), facts("b"), laptop]);
    leader.now = leader.now + DurationMs::from_secs(15);
    let mut back = report("b", 4, 8, &[]);
    back.sequence = 2;
    back.refuses_work = true;
    back.warnings = vec!["disk nearly full".to_owned()];
    leader.view.observe(back, leader.now);
    let experiment = leader.submit(ask(1, 1));
    assert!(leader.round().is_empty());
    let lines: Vec<_> = leader
        .explain(experiment)
        .nodes
        .into_iter()
        .map(|node| match node.verdict {
            Verdict::Fits => "fits".to_owned(),
            Verdict::Short(lines) => format!("{}: {}", node.name, lines.join("; ")),
            Verdict::Impossible(lines) => format!("{} never: {}", node.name, lines.join("; ")),
        })
        .collect();
    assert_eq!(
        lines,
        [
            "a: is suspect: no report came for 15 s",
            "b: refuses work: disk nearly full",
            "c never: takes no work (started with --no-work)",
        ]
    );
}

#[test]
fn why_says_what_is_short_and_who_has_it() {
    let mut leader = Leader::of(vec![report("a", 4, 8, &[]), report("b", 2, 8, &[])]);
    let first = leader.submit(ask(2, 1));
    let second = leader.submit(ask(2, 1));
    leader.place();
    let waiting = leader.submit(ask(4, 2));
    let explanation = leader.explain(waiting);
    assert_eq!(explanation.position, 1);
    assert!(explanation.possible_ever);
    let holder = [first, second]
        .into_iter()
        .find(|id| leader.home(*id).as_deref() == Some("a"))
        .unwrap();
    assert_eq!(
        explanation.nodes[0].verdict,
        Verdict::Short(vec![format!(
            "needs 4 cpus, has 2 of 4 free (booked by {holder})"
        )])
    );
    assert_eq!(
        explanation.nodes[1].verdict,
        Verdict::Impossible(vec!["needs 4 cpus, has 2 in all".to_owned()])
    );
    assert_eq!(
        explanation.summary,
        "waits for room for 4 cpus, 2 GiB memory; nobody is before it"
    );
    assert!(
        leader
            .explain(first)
            .summary
            .starts_with("it does not wait: placed on")
    );
}

#[test]
fn what_no_node_could_ever_run_is_said_plainly() {
    let mut leader = Leader::of(vec![report("a", 4, 8, &[])]);
    let experiment = leader.submit(ask(64, 1));
    let explanation = leader.explain(experiment);
    assert!(!explanation.possible_ever);
    assert!(
        explanation.summary.starts_with(
            "no node of this cluster could ever run it: it asks for 64 cpus, 1 GiB memory"
        ),
        "{}",
        explanation.summary
    );
}

#[test]
fn a_node_that_never_reported_leaves_the_question_open() {
    let mut leader = Leader::of(vec![report("a", 4, 8, &[])]);
    leader.view.forget(&id("a"));
    let experiment = leader.submit(ask(1, 1));
    let explanation = leader.explain(experiment);
    assert!(!explanation.possible_ever);
    assert!(explanation.summary.ends_with("some have not reported yet"));
}

#[test]
fn shares_pack_one_gpu_and_whole_gpus_stay_whole() {
    let mut leader = Leader::of(vec![report("a", 16, 64, &[(80, 0), (80, 0)])]);
    for _ in 0..2 {
        leader.submit(ask_gpu(500, 0));
    }
    leader.submit(ask_gpu(1_000, 0));
    leader.submit(ask_gpu(100, 0));
    assert_eq!(leader.place().len(), 3, "both gpus are full then");
    let booking = leader.state.booking(&id("a"));
    assert_eq!(booking.gpus.get(&0), Some(&(1_000, 80 * GIB)));
    assert_eq!(booking.gpus.get(&1), Some(&(1_000, 80 * GIB)));
}

#[test]
fn vram_that_others_use_counts() {
    // Nobody tells whose it is: what attempts have booked may be theirs.
    let mut untold = report("a", 16, 64, &[(80, 50)]);
    untold.gpus[0].vram_foreign_bytes = 0;
    let mut leader = Leader::of(vec![untold]);
    let whole = leader.submit(ask_gpu(1_000, 0));
    let much = leader.submit(ask_gpu(500, 40));
    let little = leader.submit(ask_gpu(500, 30));
    leader.place();
    assert_eq!(leader.home(whole), None);
    assert_eq!(leader.home(much), None);
    assert_eq!(leader.home(little).as_deref(), Some("a"));
    let Verdict::Short(lines) = leader.explain(whole).nodes.swap_remove(0).verdict else {
        unreachable!()
    };
    assert!(
        lines[0].contains("processes outside muster use 20.0 GiB of vram"),
        "{lines:?}"
    );
}

#[test]
fn what_others_use_counts_in_full_beside_an_attempt_that_only_starts() {
    let mut machine = report("a", 8, 64, &[(80, 0)]);
    let mut leader = Leader::of(vec![machine.clone()]);
    let starting = leader.submit(ask_gpu(500, 40));
    assert_eq!(leader.place().len(), 1);
    assert_eq!(leader.home(starting).as_deref(), Some("a"));
    // Somebody's notebook holds 10 GiB, the attempt nothing yet: 70 GiB are unused, 30 GiB free.
    machine.sequence += 1;
    machine.gpus[0].vram_used_bytes = 10 * GIB;
    machine.gpus[0].vram_foreign_bytes = 10 * GIB;
    leader.view.observe(machine, leader.now);
    leader.submit(ask_gpu(400, 31));
    assert_eq!(leader.place().len(), 0);
    leader.submit(ask_gpu(400, 30));
    assert_eq!(leader.place().len(), 1);
}

#[test]
fn a_gpu_that_is_not_offered_is_given_to_nobody() {
    let mut leader = Leader::of(vec![report("a", 8, 64, &[(0, 0), (80, 0)])]);
    let whole = leader.submit(ask_gpu(1_000, 0));
    let two = leader.submit(ask_gpu(2_000, 0));
    let share = leader.submit(ask_gpu(500, 0));
    assert_eq!(leader.place().len(), 1);
    assert_eq!(leader.home(whole).as_deref(), Some("a"));
    let booking = leader.state.booking(&id("a"));
    assert_eq!(booking.gpus.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!((leader.home(two), leader.home(share)), (None, None));
    let Verdict::Impossible(lines) = leader.explain(two).nodes.swap_remove(0).verdict else {
        unreachable!()
    };
    assert!(lines[0].contains("2 gpus"), "{lines:?}");
}

#[test]
fn a_driver_s_own_vram_does_not_block_a_whole_gpu() {
    let mut leader = Leader::of(vec![report("a", 16, 64, &[(80, 1)])]);
    leader.submit(ask_gpu(1_000, 0));
    assert_eq!(leader.place().len(), 1);
}

#[test]
fn models_and_labels_are_honoured() {
    let labelled = NodeFacts {
        labels: vec![("zone".to_owned(), "a".to_owned())],
        ..facts("b")
    };
    let reports = vec![report("a", 4, 8, &[(80, 0)]), report("b", 4, 8, &[(80, 0)])];
    let mut leader = Leader::with_facts(reports, vec![facts("a"), labelled]);
    let picky = ResourceRequest {
        constraints: vec![("zone".to_owned(), "a".to_owned())],
        gpu_models: vec!["H100".to_owned()],
        ..ask_gpu(1_000, 0)
    };
    let impossible = ResourceRequest {
        gpu_models: vec!["B200".to_owned()],
        ..ask_gpu(1_000, 0)
    };
    let picky = leader.submit(picky);
    let impossible = leader.submit(impossible);
    leader.place();
    assert_eq!(leader.home(picky).as_deref(), Some("b"));
    let explanation = leader.explain(impossible);
    assert!(!explanation.possible_ever);
    assert_eq!(
        explanation.nodes[0].verdict,
        Verdict::Impossible(vec!["needs 1 gpu, has none of model B200".to_owned()])
    );
}

#[test]
fn the_submitter_s_lease_is_taken_but_never_too_short() {
    let mut leader = Leader::of(vec![report("a", 4, 8, &[])]);
    for lease_ms in [0, 1, 60_000] {
        let policy = Policy {
            lease_ms: DurationMs(lease_ms),
            ..Policy::default()
        };
        leader.submit_with(ask(1, 1), policy);
    }
    let leases: Vec<_> = leader
        .round()
        .iter()
        .map(|place| place.lease_ms.0)
        .collect();
    assert_eq!(leases, [5_000, 2_000, 60_000]);
}

#[test]
fn an_old_large_experiment_is_not_starved_by_small_new_ones() {
    let mut leader = Leader::of(vec![report("a", 4, 8, &[])]);
    leader.submit(ask(1, 1));
    leader.place();
    leader.submit(ask(4, 8));
    leader.submit(ask(1, 1));
    assert_eq!(leader.place().len(), 1, "at first small ones may pass");
    leader.now = leader.now + DurationMs::from_secs(600);
    let mut again = report("a", 4, 8, &[]);
    again.sequence = 2;
    leader.view.observe(again, leader.now);
    leader.submit(ask(1, 1));
    assert!(
        leader.round().is_empty(),
        "the node is kept for the old one"
    );
}

#[test]
fn a_full_cluster_with_a_thousand_waiting_is_decided_at_once() {
    let names: Vec<String> = (0..100)
        .map(|number| format!("n{}", number + 111))
        .collect();
    let reports = names
        .iter()
        .map(|name| report(&name.replace('0', "z"), 4, 8, &[]))
        .collect();
    let mut leader = Leader::of(reports);
    for number in 0..400_u64 {
        leader.submit(ask(1, 1 + number % 2));
    }
    while !leader.place().is_empty() {}
    for number in 0..1_000_u64 {
        leader.submit(ask(1 + number % 3, 1 + number % 7));
    }
    // A bound on work, not on time: a thousand rounds would take minutes if each looked at every pair.
    for _ in 0..20 {
        assert!(leader.round().is_empty());
    }
}

fn request() -> impl Strategy<Value = ResourceRequest> {
    let gpu = prop_oneof![3 => Just(0_u64), 1 => Just(250_u64), 1 => Just(500), 1 => Just(1_000), 1 => Just(2_000)];
    (0_u64..6_000, 0_u64..10, gpu, 0_u64..30).prop_map(|(cpu_milli, memory, gpu_milli, vram)| {
        ResourceRequest {
            cpu_milli,
            memory_bytes: memory * GIB,
            gpu_milli,
            vram_bytes: vram * GIB,
            ..ResourceRequest::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_round_is_accepted_whole_repeats_and_never_overbooks(
        nodes in prop::collection::vec((1_u64..9, 1_u64..17, prop::collection::vec((8_u64..81, 0_u64..20), 0..4)), 1..5),
        requests in prop::collection::vec((request(), any::<bool>()), 1..30),
    ) {
        let reports: Vec<_> = "abcd".chars().zip(&nodes)
            .map(|(name, (cpus, memory, gpus))| report(&name.to_string(), *cpus, *memory, gpus))
            .collect();
        let mut leader = Leader::of(reports.clone());
        let mut memory = Memory::default();
        for (number, (request, place)) in requests.into_iter().enumerate() {
            leader.submit(request);
            if place {
                prop_assert_eq!(leader.round(), leader.round());
                prop_assert_eq!(leader.round_with(&mut memory), leader.round(), "memory changes nothing");
                leader.place();
                if number % 3 == 0 {
                    let first = leader.state.active().next().map(|(_, attempt)| attempt.token);
                    first.into_iter().for_each(|token| leader.finish(token));
                    leader.place();
                }
                prop_assert!(leader.round().is_empty(), "a round leaves nothing that fits");
            }
        }
        leader.place();
        prop_assert!(check_invariants(&leader.state).is_ok());
        for report in &reports {
            let booking = leader.state.booking(&report.node);
            prop_assert!(booking.cpu_milli <= report.cpu_milli && booking.memory_bytes <= report.memory_bytes);
            for (index, (milli, vram)) in &booking.gpus {
                let gpu = &report.gpus[*index as usize];
                prop_assert!(*milli <= 1_000 && *vram <= gpu.vram_total_bytes);
            }
        }
        // `why` agrees with the decision: what still waits fits nowhere.
        for waiting in leader.state.waiting() {
            let explanation = explain(&leader.state, &leader.view, leader.now, waiting, &SchedulerConfig::default());
            prop_assert!(explanation.nodes.iter().all(|node| node.verdict != Verdict::Fits), "{explanation:?}");
        }
    }

    #[test]
    fn a_new_arrival_goes_where_a_full_round_would_put_it(
        waiting in prop::collection::vec(request(), 0..12),
        new in prop::collection::vec(request(), 1..4),
    ) {
        let mut leader = Leader::of(vec![report("a", 4, 16, &[]), report("b", 8, 32, &[(80, 0), (80, 10)])]);
        for resources in waiting {
            leader.submit(resources);
        }
        while !leader.place().is_empty() {}
        let new: Vec<_> = new.into_iter().map(|resources| leader.submit(resources)).collect();
        let config = SchedulerConfig::default();
        let partial = place_new(&leader.state, &leader.view, leader.now, &config, &new);
        prop_assert_eq!(partial, leader.round());
    }
}
