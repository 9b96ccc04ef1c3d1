//! New histories of a cluster: what they keep, what they forget, and what they wait for.

use std::collections::BTreeSet;

use state_machine::{
    Action, ClusterState, Command, ExperimentPhase, HISTORY_STRIDE, LogEntry, NewHistory, Outcome,
    RefusalCode, ReleasePlacements, Survivors, check_invariants,
};
use types::{
    Author, CauseKind, ClusterId, DurationMs, Incarnation, LogIndex, NodeId, Timestamp, codec,
};

use crate::samples::{Cluster, facts, node, place, refusal, resources, spec};

fn stranger() -> NodeId {
    "newnode".parse().unwrap()
}

fn restore() -> NewHistory {
    NewHistory {
        incarnation: Incarnation(2),
        founder: stranger(),
        facts: facts("fresh"),
        cluster: Some((ClusterId([9; 32]), vec![4, 5])),
        survivors: Survivors::FounderAlone,
        hold: DurationMs::from_secs(300),
        now: Timestamp(1),
        reason: "restored".to_owned(),
    }
}

fn recover() -> NewHistory {
    NewHistory {
        founder: node(1),
        cluster: None,
        survivors: Survivors::AllBut(BTreeSet::from([node(0)])),
        reason: "recovered".to_owned(),
        ..restore()
    }
}

/// Applies at the next index of the new history.
fn apply(state: &mut ClusterState, command: Command) -> Outcome {
    let index = LogIndex(state.applied().0 + 1);
    let entry = LogEntry {
        time: Timestamp(5_000),
        author: Author::node(stranger()),
        request: None,
        command,
    };
    let outcome = state.apply(index, &entry).outcome;
    check_invariants(state).unwrap();
    outcome
}

#[test]
fn a_restored_copy_knows_nobody_and_lets_go_of_what_ran() {
    let mut cluster = Cluster::founded();
    let waits = cluster.submit(spec("waits"));
    let ran = cluster.run(0).experiment;
    let mut state = cluster.state;
    let time = state.time();
    state.begin_history(&restore()).unwrap();
    check_invariants(&state).unwrap();
    assert_eq!(state.incarnation(), Incarnation(2));
    assert_eq!(state.cluster(), Some(ClusterId([9; 32])));
    assert_eq!(state.applied(), LogIndex(HISTORY_STRIDE));
    assert_eq!(state.members_version(), HISTORY_STRIDE);
    assert_eq!(state.time(), time, "state time never goes back");
    assert_eq!(state.join_tokens().count(), 0);
    let nodes: Vec<_> = state.nodes().map(|record| record.node.clone()).collect();
    assert_eq!(nodes, [stranger()]);
    let lost = state.experiment(ran).unwrap();
    let end = lost.attempts[0].end.as_ref().unwrap();
    assert_eq!(end.cause.kind, CauseKind::HistoryReplaced);
    assert!(end.cause.evidence[0].contains("restored"));
    for id in [waits, ran] {
        let experiment = state.experiment(id).unwrap();
        assert!(matches!(experiment.phase, ExperimentPhase::Queued { .. }));
        assert!(state.held(experiment).is_some());
    }
    assert!(
        state
            .ledger()
            .any(|entry| entry.action == Action::HistoryBegun)
    );
}

#[test]
fn a_recovered_history_keeps_its_workers_and_what_they_run() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    let mut state = cluster.state;
    let before = state.cluster();
    state.begin_history(&recover()).unwrap();
    check_invariants(&state).unwrap();
    assert_eq!(state.cluster(), before);
    assert!(state.node(&node(0)).is_none());
    assert!(state.node(&node(1)).is_some());
    let set = state.wanted_set(&node(1));
    assert_eq!(
        (set.incarnation, set.index),
        (Incarnation(2), LogIndex(HISTORY_STRIDE))
    );
    assert_eq!(
        set.attempts[0].token, token,
        "it may go on under its old token"
    );
}

#[test]
fn nothing_of_the_old_history_is_placed_before_its_leases_are_over() {
    let mut cluster = Cluster::founded();
    let old = cluster.submit(spec("old"));
    let mut state = cluster.state;
    state.begin_history(&recover()).unwrap();
    let placing = |id| place(id, 1, &[(node(1), resources(1_000))]);
    assert_eq!(
        refusal(&apply(&mut state, placing(old))),
        Some(RefusalCode::DoesNotFit)
    );
    let submit = Command::SubmitExperiment(Box::new(state_machine::SubmitExperiment {
        spec: spec("new"),
    }));
    let Outcome::Submitted(new) = apply(&mut state, submit) else {
        unreachable!("a submission is accepted");
    };
    assert!(matches!(
        apply(&mut state, placing(new)),
        Outcome::Placed(_)
    ));

    // The hold is part of the snapshot.
    let mut state: ClusterState = codec::decode(&codec::encode(&state), usize::MAX).unwrap();
    let release = |incarnation| {
        Command::ReleasePlacements(ReleasePlacements {
            incarnation: Incarnation(incarnation),
        })
    };
    assert_eq!(
        refusal(&apply(&mut state, release(1))),
        Some(RefusalCode::Stale)
    );
    assert!(state.placement_hold().is_some());
    assert_eq!(apply(&mut state, release(2)), Outcome::Done);
    assert_eq!(state.placement_hold(), None);
    let Outcome::Placed(token) = apply(&mut state, placing(old)) else {
        unreachable!("nothing holds it any more");
    };
    assert_eq!(token.incarnation, Incarnation(2));
    assert_eq!(apply(&mut state, release(2)), Outcome::Done);
}

#[test]
fn a_history_needs_a_higher_number_and_untouched_indexes() {
    let mut state = Cluster::founded().state;
    let same = NewHistory {
        incarnation: Incarnation(1),
        ..recover()
    };
    assert!(state.begin_history(&same).is_err());
    state.begin_history(&recover()).unwrap();
    assert!(state.begin_history(&recover()).is_err());
    let third = NewHistory {
        incarnation: Incarnation(7),
        ..recover()
    };
    state.begin_history(&third).unwrap();
    assert_eq!(state.applied(), LogIndex(6 * HISTORY_STRIDE));
}
