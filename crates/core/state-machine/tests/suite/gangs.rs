//! Attempts of several ranks: placed whole, over when all of them are, and with the cause that explains the others.

use state_machine::{
    AdmitNode, AttemptEnd, AttemptReport, Command, DrainNode, EvictNode, EvictedAttempts,
    ExperimentPhase, HOUR, PreemptFor, RefusalCode, StopExperiment,
};
use types::{
    AttemptToken, Cause, CauseKind, ExperimentId, Finding, LogIndex, NodeId, RankPlacement,
    Timestamp,
};

use crate::samples::{
    Cluster, end, ended, facts, lose_rank, node, place, report_rank, resources, segment, spec,
    token_id,
};

fn three() -> Cluster {
    let mut cluster = Cluster::founded();
    cluster.accept(Command::AdmitNode(AdmitNode {
        token: token_id("t-1"),
        node: node(2),
        facts: facts("nodec"),
    }));
    cluster
}

/// Three members and an experiment on all of them, placed.
fn gang() -> (Cluster, AttemptToken) {
    let mut cluster = three();
    let id = submit(&mut cluster, 3);
    let token = place_on(&mut cluster, id, 1, &[0, 1, 2]);
    (cluster, token)
}

fn submit(cluster: &mut Cluster, nodes: u32) -> ExperimentId {
    let mut spec = spec("gang");
    spec.resources.nodes = nodes;
    spec.policy.retries_node_lost = 1;
    spec.policy.retries_failed = 0;
    cluster.submit(spec)
}

fn ranks(numbers: &[usize]) -> Vec<(NodeId, types::Resources)> {
    let on = |number: &usize| (node(*number), resources(500));
    numbers.iter().map(on).collect()
}

fn place_on(cluster: &mut Cluster, id: ExperimentId, attempt: u32, on: &[usize]) -> AttemptToken {
    cluster.accept(place(id, attempt, &ranks(on)));
    let experiment = cluster.state.experiment(id).unwrap();
    experiment.attempts.last().unwrap().token
}

/// The end of a rank, by its node's report.
fn end_of(kind: CauseKind, at: u64) -> AttemptReport {
    AttemptReport::Ended {
        end: AttemptEnd {
            at: Timestamp(at),
            ..end(kind)
        },
        segments: vec![segment(9)],
        inline_records: bytes::Bytes::new(),
    }
}

fn report(cluster: &mut Cluster, token: AttemptToken, rank: u32, kind: CauseKind) {
    let now = cluster.state.time().0;
    let from = node(rank as usize);
    cluster.accept(report_rank((token, rank), from, end_of(kind, now)));
}

fn causes(cluster: &Cluster, token: AttemptToken) -> Vec<CauseKind> {
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    let attempt = experiment.attempts.last().unwrap();
    let ends = attempt.ranks.iter().filter_map(|rank| rank.end.as_ref());
    ends.map(|end| end.cause.kind.clone()).collect()
}

/// How the whole attempt ended; none: it did not.
fn whole(cluster: &Cluster, token: AttemptToken) -> Option<AttemptEnd> {
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    let number = token.attempt as usize - 1;
    experiment.attempts[number].end.clone()
}

/// Why a node is to stop its rank; none: it is to run it.
fn stop_at(cluster: &Cluster, number: usize) -> Option<String> {
    let wanted = cluster.state.wanted_set(&node(number));
    let [attempt] = wanted.attempts.as_slice() else {
        panic!("{wanted:?}")
    };
    attempt.stop_requested_by.clone()
}

#[test]
fn a_part_of_a_gang_is_never_placed() {
    let mut cluster = three();
    let id = submit(&mut cluster, 3);
    for on in [&[0][..], &[0, 1], &[0, 1, 1], &[0, 1, 2, 3], &[]] {
        cluster.refuse(place(id, 1, &ranks(on)), RefusalCode::Invalid);
    }
    let mut two = ranks(&[0, 1]);
    two.push((node(2), resources(100_000)));
    cluster.refuse(place(id, 1, &two), RefusalCode::DoesNotFit);
    let holds_nothing = |number| cluster.state.booking(&node(number)).attempts.is_empty();
    assert!((0..3).all(holds_nothing), "a refusal books nothing");
    place_on(&mut cluster, id, 1, &[2, 0, 1]);
}

#[test]
fn each_node_is_told_its_rank_and_keeps_the_copy_of_another() {
    let (cluster, token) = gang();
    for number in 0..3 {
        let set = cluster.state.wanted_set(&node(number));
        let wanted = &set.attempts[0];
        assert_eq!((wanted.token, wanted.rank as usize), (token, number));
        assert_eq!(wanted.gang, [node(0), node(1), node(2)]);
        assert_eq!(wanted.mirror, Some(node((number + 1) % 3)));
    }
    let mut cluster = cluster;
    let alone = cluster.run(0);
    let set = cluster.state.wanted_set(&node(0));
    let wanted = set.attempts.iter().find(|one| one.token == alone).unwrap();
    assert!(wanted.gang.is_empty(), "an only rank has no others");
}

#[test]
fn a_gang_is_finished_when_all_its_ranks_are_and_each_node_is_free_at_once() {
    let (mut cluster, token) = gang();
    for rank in [1, 0] {
        report(&mut cluster, token, rank, CauseKind::Finished);
        assert!(
            cluster
                .state
                .booking(&node(rank as usize))
                .attempts
                .is_empty()
        );
        assert_eq!(whole(&cluster, token), None);
        assert_eq!(stop_at(&cluster, 2), None, "a success stops nobody");
    }
    report(&mut cluster, token, 2, CauseKind::Finished);
    let all = whole(&cluster, token).unwrap();
    assert!(all.cause.is_success());
    assert_eq!(all.cpu_ms.0, 18, "of all ranks");
    assert_eq!(
        (all.peak_memory_bytes, all.peak_vram_bytes),
        (5, 4),
        "of one"
    );
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert!(matches!(experiment.phase, ExperimentPhase::Ended { .. }));
    let segments: Vec<_> = experiment.attempts[0]
        .segments
        .iter()
        .map(|one| one.rank)
        .collect();
    assert_eq!(segments, [1, 0, 2], "the same bytes of three ranks");
}

#[test]
fn the_first_rank_that_fails_stops_the_others_and_is_the_cause() {
    let (mut cluster, token) = gang();
    report(&mut cluster, token, 1, CauseKind::ExitCode(3));
    for number in [0, 2] {
        let why = stop_at(&cluster, number).unwrap();
        assert_eq!(why, "muster, since rank 1 ended (exit code 3)");
    }
    assert!(cluster.state.active().count() == 1, "until all are over");
    cluster.refuse(
        place(token.experiment, 2, &ranks(&[0, 1, 2])),
        RefusalCode::NotWaiting,
    );
    let stopped = || CauseKind::Stopped {
        by: "muster".to_owned(),
    };
    report(&mut cluster, token, 0, stopped());
    report(&mut cluster, token, 2, stopped());
    let other = CauseKind::RankEnded { rank: 1 };
    assert_eq!(
        causes(&cluster, token),
        [other.clone(), CauseKind::ExitCode(3), other]
    );
    let cause = whole(&cluster, token).unwrap().cause;
    assert_eq!(cause.kind, CauseKind::ExitCode(3));
    let head = format!("rank 1 on {}: exit code 3", node(1).short());
    assert_eq!(cause.evidence[0], head);
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert!(
        matches!(&experiment.phase, ExperimentPhase::Ended { cause, .. } if cause.kind == CauseKind::ExitCode(3))
    );
}

#[test]
fn of_several_failures_the_first_by_their_clocks_is_the_cause() {
    let (mut cluster, token) = gang();
    cluster.at(200, lose_rank((token, 7)));
    for (rank, code, at) in [(2, 1, 190), (0, 5, 180), (1, 1, 195)] {
        let report = end_of(CauseKind::ExitCode(code), at);
        cluster.accept(report_rank((token, rank), node(rank as usize), report));
    }
    let cause = whole(&cluster, token).unwrap().cause;
    assert_eq!(cause.kind, CauseKind::ExitCode(5));
    assert!(
        cause
            .evidence
            .iter()
            .any(|line| line.starts_with("rank 2 on")),
        "{cause:?}"
    );
}

#[test]
fn who_waited_for_others_in_vain_is_not_the_cause_beside_one_that_failed() {
    let (mut cluster, token) = gang();
    cluster.at(200, lose_rank((token, 7)));
    // Its watchdog ends a rank at once, while the one that it waited for is still busy with its last words.
    for (rank, kind, at) in [
        (2, CauseKind::NcclTimeout, 180),
        (0, CauseKind::ExitCode(5), 190),
        (1, CauseKind::NcclTimeout, 195),
    ] {
        let from = node(rank as usize);
        cluster.accept(report_rank((token, rank), from, end_of(kind, at)));
    }
    let cause = whole(&cluster, token).unwrap().cause;
    assert_eq!(cause.kind, CauseKind::ExitCode(5));

    let (mut cluster, token) = gang();
    for rank in 0..3 {
        report(&mut cluster, token, rank, CauseKind::NcclTimeout);
    }
    let cause = whole(&cluster, token).unwrap().cause;
    assert_eq!(cause.kind, CauseKind::NcclTimeout, "nobody says more");
}

#[test]
fn the_rule_of_a_rank_ends_the_gang_for_good_whoever_fails_of_it_first() {
    let (mut cluster, token) = gang();
    // A rank whose rule is met has time to end in, and the others lose touch with it before.
    report(&mut cluster, token, 2, CauseKind::ExitCode(1));
    let rule = || CauseKind::RuleMet {
        rule: "loss > 2 (loss = 3 at step 5)".to_owned(),
    };
    report(&mut cluster, token, 0, rule());
    let why = stop_at(&cluster, 1).unwrap();
    assert!(why.contains("rank 0 ended (stopped by its rule"), "{why}");
    let by = "muster".to_owned();
    report(&mut cluster, token, 1, CauseKind::Stopped { by });
    assert_eq!(whole(&cluster, token).unwrap().cause.kind, rule());
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert!(
        matches!(&experiment.phase, ExperimentPhase::Ended { cause, .. } if cause.is_stop()),
        "{:?}",
        experiment.phase
    );
}

#[test]
fn a_gang_ends_with_the_advice_for_its_cause_and_what_was_seen_of_each_rank() {
    let leak = |evidence: &str| Finding {
        kind: CauseKind::LeakSuspected,
        evidence: evidence.to_owned(),
        advice: "look for it".to_owned(),
    };
    let ended = |cluster: &mut Cluster, token, rank: u32, cause: Cause| {
        let mut report = end_of(cause.kind.clone(), cluster.state.time().0);
        if let AttemptReport::Ended { end, .. } = &mut report {
            end.cause = cause;
        }
        cluster.accept(report_rank((token, rank), node(rank as usize), report));
    };
    let seen = |kind, evidence| Cause {
        findings: vec![leak(evidence)],
        ..Cause::new(kind, vec!["line".to_owned()])
    };
    let (mut cluster, token) = gang();
    let failed = Cause {
        advice: vec!["ask for more".to_owned()],
        shell_code: Some(7),
        ..seen(CauseKind::CudaOutOfMemory, "own")
    };
    ended(&mut cluster, token, 1, failed);
    let stopped = CauseKind::Stopped {
        by: "muster".to_owned(),
    };
    ended(&mut cluster, token, 0, seen(stopped.clone(), "other"));
    ended(&mut cluster, token, 2, Cause::new(stopped, Vec::new()));
    let cause = whole(&cluster, token).unwrap().cause;
    assert_eq!(cause.kind, CauseKind::CudaOutOfMemory);
    assert_eq!(cause.advice, ["ask for more"]);
    assert_eq!(cause.exit_code(), 7);
    let words = |cause: &Cause| -> Vec<String> {
        let findings = cause.findings.iter();
        findings.map(|finding| finding.evidence.clone()).collect()
    };
    assert_eq!(words(&cause), ["rank 1: own", "rank 0: other"]);

    let (mut cluster, token) = gang();
    for rank in 0..3 {
        ended(&mut cluster, token, rank, seen(CauseKind::Finished, "grew"));
    }
    let cause = whole(&cluster, token).unwrap().cause;
    assert!(cause.is_success());
    assert_eq!(
        words(&cause),
        ["rank 0: grew", "rank 1: grew", "rank 2: grew"]
    );
}

#[test]
fn a_lost_machine_explains_the_failures_of_the_others() {
    let (mut cluster, token) = gang();
    // They lose touch at once, and fail; the lease of the lost one ends later.
    report(&mut cluster, token, 0, CauseKind::ExitCode(1));
    report(&mut cluster, token, 1, CauseKind::Signal(6));
    assert_eq!(whole(&cluster, token), None, "rank 2 may be running");
    cluster.accept(lose_rank((token, 2)));
    assert_eq!(
        whole(&cluster, token).unwrap().cause.kind,
        CauseKind::NodeLost
    );
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert!(
        matches!(experiment.phase, ExperimentPhase::Queued { .. }),
        "no failure of its own"
    );
    assert_eq!((experiment.own_failures(), experiment.nodes_lost()), (0, 1));
    let failed: Vec<_> = experiment.attempts[0].failed_nodes().collect();
    assert_eq!(failed, [&node(2)], "the others may be taken again");
    let again = place_on(&mut cluster, token.experiment, 2, &[0, 1, 2]);
    assert_eq!(again.attempt, 2);
}

#[test]
fn a_rank_that_was_given_up_counts_no_more_but_its_records_are_kept() {
    let (mut cluster, token) = gang();
    cluster.accept(lose_rank((token, 2)));
    cluster.refuse(lose_rank((token, 2)), RefusalCode::Stale);
    let late = report_rank((token, 2), node(2), end_of(CauseKind::Finished, 1));
    cluster.refuse_and_record(late.clone(), RefusalCode::Stale);
    for rank in 0..2 {
        report(&mut cluster, token, rank, CauseKind::ExitCode(1));
    }
    cluster.refuse_and_record(late, RefusalCode::Stale);
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert!(matches!(experiment.phase, ExperimentPhase::Queued { .. }));
    assert_eq!(experiment.attempts[0].late, None);
    let of_lost = experiment.attempts[0]
        .segments
        .iter()
        .filter(|one| one.rank == 2);
    assert_eq!(
        of_lost.count(),
        2,
        "what the mirror sealed, and what came late"
    );
    // A repeat of a report that counted is no news.
    let now = cluster.state.time().0;
    let repeat = end_of(CauseKind::ExitCode(1), now);
    cluster.accept(report_rank((token, 0), node(0), repeat));
}

#[test]
fn a_stop_a_drain_and_a_preemption_end_all_ranks() {
    let (mut cluster, token) = gang();
    let stop = StopExperiment {
        experiment: token.experiment,
    };
    cluster.accept(Command::StopExperiment(stop));
    assert!((0..3).all(|number| stop_at(&cluster, number).is_some()));
    // One that loses touch with a stopped one fails: it is a stop all the same.
    report(&mut cluster, token, 0, CauseKind::ExitCode(1));
    let stopped = || CauseKind::Stopped {
        by: "ann".to_owned(),
    };
    report(&mut cluster, token, 1, stopped());
    report(&mut cluster, token, 2, stopped());
    assert_eq!(whole(&cluster, token).unwrap().cause.kind, stopped());

    let (mut cluster, token) = gang();
    let drain = DrainNode {
        node: node(1),
        evacuate: true,
        reason: String::new(),
    };
    cluster.accept(Command::DrainNode(drain));
    assert!((0..3).all(|number| stop_at(&cluster, number).is_some()));
    report(&mut cluster, token, 0, CauseKind::ExitCode(1));
    report(&mut cluster, token, 2, stopped());
    report(&mut cluster, token, 1, stopped());
    assert!(whole(&cluster, token).unwrap().cause.is_move());
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert!(matches!(experiment.phase, ExperimentPhase::Queued { .. }));

    let (mut cluster, token) = gang();
    let urgent = submit(&mut cluster, 2);
    let place = |number| RankPlacement {
        node: node(number),
        resources: resources(500),
    };
    let preempt = |places| {
        Command::PreemptFor(Box::new(PreemptFor {
            beneficiary: urgent,
            computed_at: LogIndex(1),
            places,
            victims: vec![token],
            reason: "a higher class".to_owned(),
        }))
    };
    cluster.refuse(preempt(vec![place(0)]), RefusalCode::Invalid);
    cluster.accept(preempt(vec![place(0), place(1)]));
    assert!((0..3).all(|number| stop_at(&cluster, number).is_some()));
    report(&mut cluster, token, 0, stopped());
    let kept = |cluster: &Cluster, number| {
        let node = node(number);
        let kept: Vec<_> = cluster.state.kept_on(&node).collect();
        kept.iter()
            .map(|(_, resources)| resources.cpu_milli)
            .sum::<u64>()
    };
    assert_eq!(
        (kept(&cluster, 0), kept(&cluster, 1)),
        (500, 0),
        "what is free of it"
    );
    report(&mut cluster, token, 1, stopped());
    report(&mut cluster, token, 2, CauseKind::ExitCode(1));
    let preempted = CauseKind::Preempted {
        by: urgent.to_string(),
    };
    assert_eq!(whole(&cluster, token).unwrap().cause.kind, preempted);
    assert_eq!((kept(&cluster, 1), kept(&cluster, 2)), (500, 0));
    place_on(&mut cluster, urgent, 1, &[0, 1]);
    assert_eq!(kept(&cluster, 0) + kept(&cluster, 1), 0);
}

#[test]
fn a_machine_that_is_said_to_be_dead_ends_its_rank_alone() {
    let (mut cluster, token) = gang();
    cluster.accept(Command::EvictNode(Box::new(EvictNode {
        node: node(1),
        reason: String::new(),
        attempts: EvictedAttempts::Now(vec![(token, vec![segment(4)])]),
    })));
    assert_eq!(whole(&cluster, token), None, "ranks 0 and 2 run");
    assert_eq!(
        stop_at(&cluster, 0).unwrap(),
        "muster, since rank 1 ended (node lost)"
    );
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert_eq!(experiment.attempts[0].segments[0].rank, 1);
}

#[test]
fn a_rank_is_charged_for_as_long_as_it_was_there() {
    let (mut cluster, token) = gang();
    let placed = cluster.state.time().0;
    let at = |cluster: &mut Cluster, rank: u32, at: u64| {
        let report = end_of(CauseKind::Finished, at);
        cluster.at(at, report_rank((token, rank), node(rank as usize), report));
    };
    at(&mut cluster, 0, placed + HOUR.0);
    at(&mut cluster, 1, placed + HOUR.0);
    at(&mut cluster, 2, placed + 2 * HOUR.0);
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    let hours = cluster
        .state
        .usage(&state_machine::Consumer::of(experiment));
    let cpu: u64 = hours.values().map(|used| used.cpu_milli_s).sum();
    let all = 500 * 3_600 * 4;
    assert!((all - 10..=all).contains(&cpu), "{cpu}"); // Each piece of an hour is rounded down.
    let lesson = cluster
        .state
        .lesson(&experiment.spec.fingerprint())
        .unwrap();
    assert_eq!(lesson.duration_ms.0, 2 * HOUR.0, "of the longest");
}

#[test]
fn records_of_a_gang_do_not_travel_in_reports() {
    let (mut cluster, token) = gang();
    let few = report_rank((token, 0), node(0), ended(CauseKind::Finished));
    cluster.refuse(few, RefusalCode::Invalid);
}
