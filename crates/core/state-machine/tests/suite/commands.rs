//! What each command does and refuses.

use bytes::Bytes;
use state_machine::{
    AdmitNode, AttemptReport, Command, CreateJoinToken, CreateQueue, CreateUserToken, Event,
    ExperimentPhase, ExtendLease, LogEntry, MoveExperiment, Outcome, RefusalCode, RemoveNode,
    ResolveError, RevokeToken, SealSegment, ShapeQueue, StopExperiment, SubmitExperiment,
    UpdateNode,
};
use types::{Author, CauseKind, DurationMs, ExperimentId, RequestId, Role, Timestamp};

use crate::samples::{
    Cluster, author, capacity, ended, facts, found, lose, node, place, queue_name, refusal, report,
    resources, segment, spec, token_id,
};

const NOBODY: ExperimentId = ExperimentId::from_bits(1);

fn submit(spec: types::ExperimentSpec) -> Command {
    Command::SubmitExperiment(Box::new(SubmitExperiment { spec }))
}

fn admit(token: &str, number: usize) -> Command {
    Command::AdmitNode(AdmitNode {
        token: token_id(token),
        node: node(number),
        facts: facts("x"),
    })
}

fn join_token(id: &str, uses: u32, expires_at: u64) -> Command {
    Command::CreateJoinToken(CreateJoinToken {
        id: token_id(id),
        verifier: [0; 32],
        uses,
        expires_at: Timestamp(expires_at),
    })
}

fn phase(cluster: &Cluster, id: ExperimentId) -> ExperimentPhase {
    cluster
        .state
        .experiment(id)
        .expect("it is hot")
        .phase
        .clone()
}

fn stop(experiment: ExperimentId) -> Command {
    Command::StopExperiment(StopExperiment { experiment })
}

#[test]
fn a_cluster_is_founded_once() {
    Cluster::founded().refuse(found(), RefusalCode::AlreadyFounded);
}

#[test]
fn a_join_token_needs_uses_a_future_and_a_new_name() {
    let mut cluster = Cluster::founded();
    cluster.refuse(join_token("t-2", 0, 9_999), RefusalCode::Invalid);
    cluster.refuse(join_token("t-2", 1, 1), RefusalCode::Invalid);
    cluster.refuse(join_token("t-1", 1, 9_999), RefusalCode::NameTaken);
}

#[test]
fn nodes_are_admitted_as_often_as_the_token_says_and_repeats_are_free() {
    let mut cluster = Cluster::founded();
    cluster.accept(admit("t-1", 1));
    cluster.accept(admit("t-1", 2));
    cluster.refuse(admit("t-1", 3), RefusalCode::TokenUsedUp);
    cluster.accept(admit("t-1", 2));
    cluster.refuse(admit("t-9", 3), RefusalCode::UnknownToken);
    cluster.accept(join_token("t-3", 1, 1_100));
    cluster.entry(LogEntry {
        time: Timestamp(1_200),
        author: Author::node(node(0)),
        request: None,
        command: Command::RevokeToken(RevokeToken {
            id: token_id("t-1"),
        }),
    });
    cluster.refuse(admit("t-3", 3), RefusalCode::TokenExpired);
    cluster.refuse(admit("t-1", 3), RefusalCode::UnknownToken);
}

#[test]
fn tokens_of_people_have_new_names_and_end_once() {
    let mut cluster = Cluster::founded();
    let create = Command::CreateUserToken(CreateUserToken {
        id: token_id("u-1"),
        secret_hash: [0; 32],
        user: "ann".to_owned(),
        role: Role::Member,
    });
    let revoke = Command::RevokeToken(RevokeToken {
        id: token_id("u-1"),
    });
    cluster.accept(create.clone());
    cluster.refuse(create, RefusalCode::NameTaken);
    cluster.accept(revoke.clone());
    cluster.refuse(revoke, RefusalCode::UnknownToken);
}

#[test]
fn only_members_are_updated_and_only_idle_ones_removed() {
    let mut cluster = Cluster::founded();
    let update = |number, name| {
        Command::UpdateNode(UpdateNode {
            node: node(number),
            facts: facts(name),
        })
    };
    let remove = |number| {
        Command::RemoveNode(RemoveNode {
            node: node(number),
            reason: "sold".to_owned(),
        })
    };
    cluster.refuse(update(3, "x"), RefusalCode::UnknownNode);
    cluster.accept(update(1, "renamed"));
    assert_eq!(cluster.state.node(&node(1)).unwrap().facts.name, "renamed");
    let version = cluster.state.members_version();
    cluster.accept(update(1, "renamed"));
    assert_eq!(cluster.state.members_version(), version, "nothing changed");
    let token = cluster.run(1);
    cluster.refuse(remove(1), RefusalCode::NotAllowed);
    cluster.accept(report(token, node(1), ended(CauseKind::Finished)));
    cluster.accept(remove(1));
    cluster.refuse(remove(1), RefusalCode::UnknownNode);
}

#[test]
fn submissions_that_make_no_sense_are_refused() {
    let mut cluster = Cluster::founded();
    let mut bad = Vec::new();
    let mut with = |change: fn(&mut types::ExperimentSpec)| {
        let mut spec = spec("x");
        change(&mut spec);
        bad.push(spec);
    };
    with(|spec| spec.command.clear());
    with(|spec| spec.command = vec![String::new()]);
    with(|spec| spec.name = String::new());
    with(|spec| spec.name = "x".repeat(129));
    with(|spec| spec.name = "a\nb".to_owned());
    with(|spec| spec.resources.cpu_milli = u64::MAX);
    with(|spec| spec.resources.disk_bytes = u64::MAX);
    with(|spec| spec.resources.nodes = 65);
    with(|spec| spec.resources.nodes = 0);
    with(|spec| spec.resources.gpu_milli = 1_500);
    with(|spec| spec.parameters = vec![("p".to_owned(), "x".repeat(65 << 10))]);
    for spec in bad {
        cluster.refuse(submit(spec), RefusalCode::Invalid);
    }
    let mut elsewhere = spec("x");
    elsewhere.queue = queue_name("night");
    cluster.refuse(submit(elsewhere), RefusalCode::UnknownQueue);
}

#[test]
fn extreme_priorities_keep_their_order() {
    let mut cluster = Cluster::founded();
    for (queue, priority) in [("low", i32::MIN), ("high", i32::MAX)] {
        cluster.accept(Command::CreateQueue(CreateQueue {
            name: queue_name(queue),
            priority,
        }));
    }
    let mut submit = |queue: &str, priority| {
        let mut spec = spec("x");
        spec.queue = queue_name(queue);
        spec.policy.priority = priority;
        cluster.submit(spec)
    };
    let last = submit("low", i32::MIN);
    let third = submit("low", i32::MAX);
    let second = submit("high", i32::MIN);
    let first = submit("high", i32::MAX);
    let order: Vec<_> = cluster.state.waiting().map(|waiting| waiting.id).collect();
    assert_eq!(order, [first, second, third, last]);
}

#[test]
fn only_the_owner_or_an_admin_stops_and_moves() {
    let mut cluster = Cluster::founded();
    let member = |user| author(user, Role::Member);
    let Outcome::Submitted(id) = cluster.by(member("ann"), submit(spec("x"))) else {
        unreachable!()
    };
    let go = Command::MoveExperiment(MoveExperiment {
        experiment: id,
        queue: queue_name("default"),
    });
    for command in [stop(id), go.clone()] {
        let outcome = cluster.by(member("bob"), command);
        assert_eq!(refusal(&outcome), Some(RefusalCode::NotAllowed));
    }
    assert_eq!(cluster.by(member("ann"), go), Outcome::Done);
    assert_eq!(cluster.by(member("ann"), stop(id)), Outcome::Done);
}

#[test]
fn viewers_read_and_members_do_no_admin_work() {
    let mut cluster = Cluster::founded();
    let outcome = cluster.by(author("eve", Role::Viewer), submit(spec("x")));
    assert_eq!(refusal(&outcome), Some(RefusalCode::NotAllowed));
    let outcome = cluster.by(author("ann", Role::Member), join_token("t-7", 1, 9_999));
    assert_eq!(refusal(&outcome), Some(RefusalCode::NotAllowed));
}

#[test]
fn a_waiting_experiment_stops_at_once_and_a_running_one_through_its_node() {
    let mut cluster = Cluster::founded();
    cluster.refuse(stop(NOBODY), RefusalCode::UnknownExperiment);
    let waiting = cluster.submit(spec("x"));
    cluster.accept(stop(waiting));
    let ExperimentPhase::Ended { cause, .. } = phase(&cluster, waiting) else {
        unreachable!()
    };
    assert!(matches!(cause.kind, CauseKind::Stopped { .. }) && !cause.evidence.is_empty());
    cluster.refuse(stop(waiting), RefusalCode::AlreadyEnded);

    let token = cluster.run(1);
    cluster.accept(stop(token.experiment));
    assert_eq!(phase(&cluster, token.experiment), ExperimentPhase::Active);
    let wanted = cluster.state.wanted_set(&node(1));
    assert!(wanted.attempts[0].stop_requested_by.is_some());
}

#[test]
fn a_lost_attempt_that_was_to_be_stopped_is_stopped_and_not_tried_again() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    cluster.accept(stop(token.experiment));
    cluster.accept(lose(token));
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    let own = experiment.attempts[0].end.as_ref().unwrap();
    assert_eq!(own.cause.kind, CauseKind::NodeLost, "the attempt itself");
    let ExperimentPhase::Ended { cause, .. } = &experiment.phase else {
        panic!("{:?}", experiment.phase)
    };
    assert!(matches!(cause.kind, CauseKind::Stopped { .. }), "{cause}");
    assert!(cause.evidence[0].contains("node lost"), "{cause:?}");
}

#[test]
fn an_attempt_is_placed_once_where_it_fits() {
    let mut cluster = Cluster::founded();
    let fit = [(node(1), resources(1_000))];
    cluster.refuse(place(NOBODY, 1, &fit), RefusalCode::UnknownExperiment);
    let id = cluster.submit(spec("x"));
    cluster.refuse(place(id, 2, &fit), RefusalCode::NotWaiting);
    cluster.refuse(place(id, 1, &[]), RefusalCode::Invalid);
    for bad in [
        (node(3), resources(1_000)),
        (node(1), resources(4_001)),
        (
            node(1),
            types::Resources {
                memory_bytes: 9 << 30,
                ..resources(1)
            },
        ),
        (
            node(1),
            types::Resources {
                disk_bytes: u64::MAX,
                ..resources(1)
            },
        ),
    ] {
        cluster.refuse(place(id, 1, &[bad]), RefusalCode::DoesNotFit);
    }
    cluster.accept(place(id, 1, &fit));
    cluster.refuse(place(id, 1, &fit), RefusalCode::NotWaiting);
}

#[test]
fn gpu_shares_of_one_placement_are_checked_together() {
    let mut cluster = Cluster::founded();
    let id = cluster.submit(spec("x"));
    let gpu = capacity().gpus[0];
    let twice = types::Resources {
        gpus: vec![gpu, gpu],
        ..resources(1)
    };
    cluster.refuse(place(id, 1, &[(node(1), twice)]), RefusalCode::DoesNotFit);
}

#[test]
fn reports_count_only_from_the_node_and_token_that_run() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    let started = AttemptReport::Started { at: Timestamp(5) };
    cluster.refuse_and_record(
        report(token, node(0), started.clone()),
        RefusalCode::NotAllowed,
    );
    let mut forged = token;
    forged.placed_at.0 += 1;
    cluster.refuse_and_record(report(forged, node(1), started.clone()), RefusalCode::Stale);
    cluster.refuse_and_record(
        report(forged, node(1), ended(CauseKind::Finished)),
        RefusalCode::Stale,
    );
    let long = AttemptReport::Ended {
        end: crate::samples::end(CauseKind::Finished),
        segments: Vec::new(),
        inline_records: Bytes::from(vec![0; 4_097]),
    };
    cluster.refuse(report(token, node(1), long), RefusalCode::Invalid);
    cluster.accept(report(token, node(1), started.clone()));
    cluster.accept(report(token, node(1), started));
    cluster.accept(report(token, node(1), ended(CauseKind::Finished)));
    cluster.accept(report(token, node(1), ended(CauseKind::Finished)));
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert_eq!(experiment.attempts[0].segments, [segment(9)]);
}

#[test]
fn an_end_without_evidence_says_who_gave_none() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    let mut bare = crate::samples::end(CauseKind::ExitCode(1));
    bare.cause.evidence.clear();
    cluster.accept(report(
        token,
        node(1),
        AttemptReport::Ended {
            end: bare,
            segments: Vec::new(),
            inline_records: Bytes::new(),
        },
    ));
    let ExperimentPhase::Ended { cause, .. } = phase(&cluster, token.experiment) else {
        unreachable!()
    };
    assert!(cause.evidence[0].contains("gave no evidence"));
}

#[test]
fn lost_nodes_are_retried_as_often_as_the_policy_says() {
    let mut cluster = Cluster::founded();
    let id = cluster.submit(spec("x"));
    for attempt in 1..=4 {
        let token = cluster.place_again(id, attempt, 1);
        cluster.accept(lose(token));
        cluster.refuse(lose(token), RefusalCode::Stale);
    }
    let ExperimentPhase::Ended { cause, .. } = phase(&cluster, id) else {
        unreachable!("three retries were allowed")
    };
    assert_eq!(cause.kind, CauseKind::NodeLost);
}

#[test]
fn own_failures_are_final_unless_retries_were_asked_for() {
    let mut cluster = Cluster::founded();
    let mut twice = spec("x");
    twice.policy.retries_failed = 1;
    let id = cluster.submit(twice);
    for attempt in 1..=2 {
        let token = cluster.place_again(id, attempt, 1);
        cluster.accept(report(token, node(1), ended(CauseKind::ExitCode(1))));
        let waits = matches!(phase(&cluster, id), ExperimentPhase::Queued { .. });
        assert_eq!(waits, attempt == 1);
    }
}

#[test]
fn a_late_success_counts_until_a_successor_is_placed() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    cluster.accept(lose(token));
    cluster.accept(report(token, node(1), ended(CauseKind::Finished)));
    let ExperimentPhase::Ended { cause, .. } = phase(&cluster, token.experiment) else {
        unreachable!()
    };
    assert!(cause.is_success());
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert_eq!(
        experiment.attempts[0].segments,
        [segment(8), segment(9)],
        "the records of the accepted result are kept"
    );

    let token = cluster.run(1);
    cluster.accept(lose(token));
    cluster.place_again(token.experiment, 2, 0);
    let outcome = cluster.apply(report(token, node(1), ended(CauseKind::Finished)));
    assert_eq!(refusal(&outcome), Some(RefusalCode::Stale));
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert!(experiment.attempts[0].late.is_some());
    assert_eq!(experiment.phase, ExperimentPhase::Active);
}

#[test]
fn a_lease_only_gets_longer() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    let extend = |token, seconds| {
        Command::ExtendLease(ExtendLease {
            token,
            lease_ms: DurationMs::from_secs(seconds),
            reason: "long work".to_owned(),
        })
    };
    cluster.accept(extend(token, 300));
    cluster.refuse(extend(token, 5), RefusalCode::Invalid);
    assert_eq!(
        cluster.state.wanted_set(&node(1)).attempts[0].lease_ms,
        DurationMs::from_secs(300)
    );
    cluster.accept(lose(token));
    cluster.refuse(extend(token, 600), RefusalCode::Stale);
}

#[test]
fn a_segment_is_named_once_and_only_by_the_current_attempt() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    let seal = Command::SealSegment(SealSegment {
        token,
        segment: segment(1),
    });
    cluster.accept(seal.clone());
    cluster.accept(seal.clone());
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert_eq!(experiment.attempts[0].segments.len(), 1);
    cluster.accept(lose(token));
    cluster.refuse(seal, RefusalCode::Stale);
}

#[test]
fn a_queue_change_reorders_and_only_waiting_experiments_move() {
    let mut cluster = Cluster::founded();
    let first = cluster.submit(spec("first"));
    cluster.accept(Command::CreateQueue(CreateQueue {
        name: queue_name("urgent"),
        priority: 5,
    }));
    let second = cluster.submit(spec("second"));
    let go = |experiment, queue| {
        Command::MoveExperiment(MoveExperiment {
            experiment,
            queue: queue_name(queue),
        })
    };
    cluster.refuse(go(NOBODY, "urgent"), RefusalCode::UnknownExperiment);
    cluster.refuse(go(second, "nowhere"), RefusalCode::UnknownQueue);
    cluster.accept(go(second, "urgent"));
    let order = |cluster: &Cluster| -> Vec<_> {
        cluster.state.waiting().map(|waiting| waiting.id).collect()
    };
    assert_eq!(order(&cluster), [second, first]);
    let again = |priority| {
        Command::CreateQueue(CreateQueue {
            name: queue_name("urgent"),
            priority,
        })
    };
    cluster.accept(again(5));
    cluster.refuse(again(-5), RefusalCode::NameTaken);
    assert_eq!(order(&cluster), [second, first]);
    cluster.accept(Command::ShapeQueue(ShapeQueue {
        queue: queue_name("urgent"),
        priority: Some(-5),
        weight: None,
        limits: None,
        user_limits: None,
    }));
    assert_eq!(order(&cluster), [first, second]);
    let token = cluster.place_again(first, 1, 1);
    cluster.refuse(go(first, "urgent"), RefusalCode::NotWaiting);
    cluster.accept(lose(token));
}

#[test]
fn a_repeated_request_gets_its_first_outcome_and_does_nothing() {
    let mut cluster = Cluster::founded();
    let entry = LogEntry {
        time: Timestamp(2_000),
        author: author("ann", Role::Member),
        request: Some(RequestId::from_key("ann", "nightly")),
        command: submit(spec("x")),
    };
    let first = cluster.entry(entry.clone());
    let hash = cluster.state.ledger_head();
    let repeat = cluster.entry(entry);
    assert_eq!(first.outcome, repeat.outcome);
    assert!(matches!(first.events[..], [Event::ExperimentQueued(_)]) && repeat.events.is_empty());
    assert_eq!(cluster.state.ledger_head(), hash);
    assert_eq!(cluster.state.waiting_count(), 1);
}

#[test]
fn state_time_never_goes_back() {
    let mut cluster = Cluster::founded();
    let at = |time| LogEntry {
        time: Timestamp(time),
        author: Author::node(node(0)),
        request: None,
        command: submit(spec("x")),
    };
    cluster.entry(at(9_000));
    cluster.entry(at(8_000));
    assert_eq!(cluster.state.time(), Timestamp(9_000));
}

#[test]
fn experiments_are_found_by_id_prefix_and_newest_name() {
    let mut cluster = Cluster::founded();
    let old = cluster.submit(spec("digits"));
    let new = cluster.submit(spec("digits"));
    let resolve = |text: &str| cluster.state.resolve(text);
    assert_eq!(resolve("digits"), Ok(new));
    assert_eq!(resolve(&old.to_string()), Ok(old));
    assert_eq!(resolve(&old.to_string()[..7]), Ok(old));
    for nothing in ["", "nothing", "zzzzzzzzz", "ÄÖÜ"] {
        assert!(
            matches!(resolve(nothing), Err(ResolveError::Unknown { .. })),
            "{nothing}"
        );
    }
}

#[test]
fn an_ambiguous_prefix_names_its_candidates() {
    let mut cluster = Cluster::founded();
    let mut ids: Vec<_> = (0..33).map(|_| cluster.submit(spec("x"))).collect();
    ids.sort();
    let same = |pair: &[ExperimentId]| pair[0].to_string()[..1] == pair[1].to_string()[..1];
    let pair = ids.windows(2).find(|pair| same(pair)).unwrap();
    let prefix = pair[0].to_string()[..1].to_owned();
    let Err(ResolveError::Ambiguous { candidates, .. }) = cluster.state.resolve(&prefix) else {
        unreachable!("33 ids cannot all start differently")
    };
    assert!(candidates.contains(&pair[0]) && candidates.contains(&pair[1]));
}
