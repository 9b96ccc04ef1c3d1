//! Groups of experiments: all or none, one end for all, and no trace once they are sealed.

use state_machine::{
    Action, Command, ExperimentPhase, LogEntry, MAX_GROUP_MEMBERS, Outcome, RefusalCode,
    StopExperiment, StopGroup, SubmitExperiment, SubmitGroup,
};
use types::{Author, CauseKind, GroupId, LogIndex, RequestId, Role, Timestamp, codec};

use crate::samples::{Cluster, author, ended, node, refusal, report, spec, submit_group};

fn submitted(outcome: &Outcome) -> GroupId {
    match outcome {
        Outcome::GroupSubmitted(group) => *group,
        other => panic!("{other:?}"),
    }
}

fn group_of(cluster: &mut Cluster, members: usize) -> GroupId {
    let ann = author("ann", Role::Member);
    submitted(&cluster.by(ann, submit_group(members)))
}

/// The command with a change.
fn changed(change: impl FnOnce(&mut SubmitGroup)) -> Command {
    match submit_group(2) {
        Command::SubmitGroup(mut group) => {
            change(&mut group);
            Command::SubmitGroup(group)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_experiment_of_a_group_has_its_own_parameters_and_names_the_group() {
    let mut cluster = Cluster::founded();
    let id = group_of(&mut cluster, 3);
    let group = cluster.state.group(id).unwrap().clone();
    assert_eq!((group.name.as_str(), group.members.len()), ("digits", 3));
    for (number, member) in (1_u32..).zip(&group.members) {
        let experiment = cluster.state.experiment(*member).unwrap();
        let place = experiment.group.unwrap();
        assert_eq!((place.group, place.number), (id, number));
        assert_eq!(experiment.spec.name, format!("digits.{number}"));
        let pair = |name: &str, value: String| (name.to_owned(), value);
        let expected = [
            pair("lr", "0.05".to_owned()),
            pair("bs", (32 * number).to_string()),
        ];
        assert_eq!(experiment.spec.parameters, expected);
    }
    let waiting: Vec<_> = cluster.state.waiting().map(|one| one.id).collect();
    assert_eq!(waiting.len(), 3);
    let restored: state_machine::ClusterState =
        codec::decode(&codec::encode(&cluster.state), usize::MAX).unwrap();
    assert_eq!(restored.group(id), cluster.state.group(id));
}

#[test]
fn a_repeated_request_makes_one_group() {
    let mut cluster = Cluster::founded();
    let entry = LogEntry {
        time: Timestamp(2_000),
        author: author("ann", Role::Member),
        request: Some(RequestId::from_key("ann", "sweep-1")),
        command: submit_group(4),
    };
    let first = cluster.entry(entry.clone());
    assert_eq!(cluster.entry(entry).outcome, first.outcome);
    assert_eq!(cluster.state.groups().count(), 1);
    assert_eq!(cluster.state.waiting_count(), 4);
}

#[test]
fn a_group_of_which_one_experiment_cannot_be_is_refused_whole() {
    let mut cluster = Cluster::founded();
    let before = cluster.state.experiments().count();
    for (command, says) in [
        (
            changed(|group| group.values.clear()),
            "1 to 1000 experiments, not 0",
        ),
        (
            changed(|group| group.values = vec![vec!["1".to_owned()]; MAX_GROUP_MEMBERS + 1]),
            "not 1001",
        ),
        (
            changed(|group| group.values[1].clear()),
            "one value for each parameter",
        ),
        (changed(|group| group.values[1][0] = "\0".to_owned()), "NUL"),
        (
            changed(|group| group.varied[0] = "lr".to_owned()),
            "lr is given twice",
        ),
        (
            changed(|group| group.values[1][0] = "x".repeat(70_000)),
            "more than 65536",
        ),
        (
            changed(|group| {
                group.spec.variables[0].1 = "y".repeat(60_000);
                group.values = vec![vec!["1".to_owned()]; 100];
            }),
            "more than 4194304",
        ),
        (
            changed(|group| {
                group.spec.command = vec!["{bs}".repeat(1_000)];
                group.values[1][0] = "z".repeat(1_000);
            }),
            "with the parameters in their places",
        ),
        (
            changed(|group| group.sweep = "s".repeat(5_000)),
            "at most 4096",
        ),
    ] {
        let outcome = cluster.by(author("ann", Role::Member), command);
        assert_eq!(refusal(&outcome), Some(RefusalCode::Invalid), "{outcome:?}");
        assert!(format!("{outcome:?}").contains(says), "{outcome:?}");
    }
    let queue = changed(|group| group.spec.queue = "nowhere".parse().unwrap());
    cluster.refuse(queue, RefusalCode::UnknownQueue);
    let urgent = changed(|group| group.spec.policy.priority = 100);
    let outcome = cluster.by(author("ann", Role::Member), urgent);
    assert_eq!(refusal(&outcome), Some(RefusalCode::NotAllowed));
    assert_eq!(cluster.state.experiments().count(), before);
    assert_eq!(cluster.state.groups().count(), 0);
}

#[test]
fn one_stop_ends_what_is_left_of_a_group() {
    let mut cluster = Cluster::founded();
    let id = group_of(&mut cluster, 3);
    let members = cluster.state.group(id).unwrap().members.clone();
    let running = cluster.place_again(members[0], 1, 0);
    cluster.accept(Command::StopExperiment(StopExperiment {
        experiment: members[1],
    }));
    let stop = || Command::StopGroup(StopGroup { group: id });
    let outcome = cluster.by(author("bob", Role::Member), stop());
    assert_eq!(refusal(&outcome), Some(RefusalCode::NotAllowed));
    assert_eq!(
        cluster.by(author("ann", Role::Member), stop()),
        Outcome::Done
    );
    let asked = cluster.state.experiment(members[0]).unwrap();
    assert!(asked.stop_requested.is_some(), "through its node");
    assert!(!cluster.state.experiment(members[2]).unwrap().is_live());
    let entry = cluster
        .state
        .ledger()
        .rev()
        .find(|entry| entry.action == Action::GroupStopRequested);
    assert!(
        entry.unwrap().detail.contains("2 of 3 experiments"),
        "{entry:?}"
    );
    let by = "ann@nodea".to_owned();
    cluster.accept(report(running, node(0), ended(CauseKind::Stopped { by })));
    cluster.refuse(stop(), RefusalCode::AlreadyEnded);
    let unknown = StopGroup {
        group: GroupId::from_bits(1),
    };
    cluster.refuse(Command::StopGroup(unknown), RefusalCode::UnknownGroup);
}

#[test]
fn one_that_its_own_rule_stops_is_not_tried_again() {
    let mut cluster = Cluster::founded();
    let mut stubborn = spec("x");
    stubborn.policy.retries_failed = 5;
    let command = Command::SubmitExperiment(Box::new(SubmitExperiment { spec: stubborn }));
    let Outcome::Submitted(id) = cluster.accept(command) else {
        panic!("it is submitted");
    };
    let token = cluster.place_again(id, 1, 0);
    let rule = "loss > 2".to_owned();
    cluster.accept(report(token, node(0), ended(CauseKind::RuleMet { rule })));
    let phase = &cluster.state.experiment(id).unwrap().phase;
    assert!(matches!(phase, ExperimentPhase::Ended { .. }), "{phase:?}");
}

#[test]
fn a_group_is_forgotten_with_the_last_of_its_experiments() {
    let mut state = Cluster::founded().state;
    let mut index = state.applied().0;
    let mut apply = |state: &mut state_machine::ClusterState, command: Command| {
        index += 1;
        let entry = LogEntry {
            time: Timestamp(index),
            author: Author::node(node(0)),
            request: None,
            command,
        };
        state.apply(LogIndex(index), &entry).outcome
    };
    let mut groups = Vec::new();
    // Enough that the first are sealed: 8,192 ended ones stay.
    for _ in 0..10 {
        let group = submitted(&apply(&mut state, submit_group(MAX_GROUP_MEMBERS)));
        assert_eq!(
            apply(&mut state, Command::StopGroup(StopGroup { group })),
            Outcome::Done
        );
        groups.push(group);
    }
    let last = submitted(&apply(&mut state, submit_group(1)));
    assert!(state.group(groups[0]).is_none(), "all of it is sealed");
    assert!(state.group(groups[5]).is_some());
    assert!(state.group(last).is_some());
    state_machine::check_invariants(&state).unwrap();
}
