//! Reports that come too late: refused and recorded, kept, and accepted by a person.

use state_machine::{
    AcceptLate, Action, AttemptReport, Command, Event, ExperimentPhase, Outcome, RefusalCode,
    StopExperiment,
};
use types::{AttemptToken, CauseKind, ExperimentId, Role, Timestamp};

use crate::samples::{Cluster, author, ended, log_entry, lose, node, refusal, report};

fn accept(token: AttemptToken) -> Command {
    Command::AcceptLate(AcceptLate {
        experiment: token.experiment,
        attempt: token.attempt,
    })
}

fn started() -> AttemptReport {
    AttemptReport::Started { at: Timestamp(7) }
}

/// How many stale reports the ledger tells of.
fn stale_reports(cluster: &Cluster) -> usize {
    let entries = cluster.state.ledger();
    let stale = entries.filter(|entry| entry.action == Action::StaleReport);
    stale.count()
}

fn cause(cluster: &Cluster, id: ExperimentId) -> Option<CauseKind> {
    let experiment = cluster.state.experiment(id);
    match &experiment.expect("it is there").phase {
        ExperimentPhase::Ended { cause, .. } => Some(cause.kind.clone()),
        ExperimentPhase::Queued { .. } | ExperimentPhase::Active => None,
    }
}

/// An attempt that was given up, ran to its success, and has a successor.
fn late_success() -> (Cluster, AttemptToken, AttemptToken) {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    cluster.accept(lose(token));
    let successor = cluster.place_again(token.experiment, 2, 0);
    cluster.apply(report(token, node(1), ended(CauseKind::Finished)));
    (cluster, token, successor)
}

#[test]
fn stale_reports_are_refused_and_each_is_recorded_once() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    cluster.accept(lose(token));
    for recorded in [1, 2] {
        let outcome = cluster.apply(report(token, node(1), started()));
        assert_eq!(refusal(&outcome), Some(RefusalCode::Stale));
        assert_eq!(
            stale_reports(&cluster),
            recorded,
            "nobody had heard of this start"
        );
    }
    cluster.place_again(token.experiment, 2, 0);
    for _repeat in 0..3 {
        let outcome = cluster.apply(report(token, node(1), ended(CauseKind::Finished)));
        assert_eq!(refusal(&outcome), Some(RefusalCode::Stale));
        assert_eq!(stale_reports(&cluster), 3);
    }
}

#[test]
fn reports_of_somebody_elses_attempt_are_refused_and_recorded() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    let outcome = cluster.apply(report(token, node(0), ended(CauseKind::Finished)));
    assert_eq!(refusal(&outcome), Some(RefusalCode::NotAllowed));
    assert_eq!(stale_reports(&cluster), 1);
    cluster.accept(lose(token));
    let outcome = cluster.apply(report(token, node(0), ended(CauseKind::Finished)));
    assert_eq!(refusal(&outcome), Some(RefusalCode::Stale));
    assert_eq!(stale_reports(&cluster), 2);
    let forged = AttemptToken {
        attempt: 9,
        ..token
    };
    let outcome = cluster.apply(report(forged, node(1), ended(CauseKind::Finished)));
    assert_eq!(refusal(&outcome), Some(RefusalCode::Stale));
    assert_eq!(stale_reports(&cluster), 3);
    assert_eq!(cause(&cluster, token.experiment), None);
}

#[test]
fn the_newest_attempts_own_failure_counts_until_a_successor_is_placed() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    cluster.accept(lose(token));
    cluster.accept(report(token, node(1), ended(CauseKind::ExitCode(3))));
    assert_eq!(
        cause(&cluster, token.experiment),
        Some(CauseKind::ExitCode(3))
    );

    let token = cluster.run(1);
    cluster.accept(lose(token));
    // That its node ended it at the end of its lease is what was thought already.
    let outcome = cluster.apply(report(token, node(1), ended(CauseKind::LeaseExpired)));
    assert_eq!(refusal(&outcome), Some(RefusalCode::Stale));
    assert_eq!(cause(&cluster, token.experiment), None);
}

#[test]
fn a_late_success_is_accepted_by_a_person_when_nothing_runs() {
    let (mut cluster, token, successor) = late_success();
    let outcome = cluster.apply(accept(token));
    assert_eq!(
        refusal(&outcome),
        Some(RefusalCode::NotAllowed),
        "its successor runs"
    );
    cluster.accept(report(successor, node(0), ended(CauseKind::ExitCode(1))));
    assert_eq!(
        cause(&cluster, token.experiment),
        Some(CauseKind::ExitCode(1))
    );

    let stranger = cluster.by(author("eve", Role::Member), accept(token));
    assert_eq!(refusal(&stranger), Some(RefusalCode::NotAllowed));
    let applied = cluster.entry(log_entry(accept(token)));
    assert_eq!(applied.outcome, Outcome::Done);
    assert_eq!(applied.events, [Event::ExperimentEnded(token.experiment)]);
    assert_eq!(cause(&cluster, token.experiment), Some(CauseKind::Finished));
    let last = cluster.state.ledger().next_back().unwrap();
    assert_eq!(last.action, Action::LateResultAccepted);
    let outcome = cluster.apply(accept(token));
    assert_eq!(refusal(&outcome), Some(RefusalCode::AlreadyEnded));
    state_machine::check_invariants(&cluster.state).unwrap();
}

#[test]
fn a_late_success_of_a_waiting_or_stopped_experiment_is_accepted_too() {
    let (mut cluster, token, successor) = late_success();
    cluster.accept(lose(successor));
    cluster.accept(accept(token));
    assert_eq!(cause(&cluster, token.experiment), Some(CauseKind::Finished));

    let (mut cluster, token, successor) = late_success();
    cluster.accept(Command::StopExperiment(StopExperiment {
        experiment: token.experiment,
    }));
    cluster.accept(lose(successor));
    cluster.accept(accept(token));
    assert_eq!(cause(&cluster, token.experiment), Some(CauseKind::Finished));
}

#[test]
fn only_a_late_success_can_be_accepted() {
    let (mut cluster, token, successor) = late_success();
    cluster.accept(lose(successor));
    cluster.refuse(accept(successor), RefusalCode::Invalid);
    cluster.refuse(
        Command::AcceptLate(AcceptLate {
            experiment: token.experiment,
            attempt: 7,
        }),
        RefusalCode::Invalid,
    );
    cluster.refuse(
        Command::AcceptLate(AcceptLate {
            experiment: ExperimentId::from_bits(1),
            attempt: 1,
        }),
        RefusalCode::UnknownExperiment,
    );
}
