//! Snapshots that no log makes: refused when they are read, or a state on which every command is total.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde::ser::SerializeTuple as _;
use serde::{Serialize, Serializer};
use state_machine::{
    AttemptReport, ClusterState, Command, LogEntry, PlaceAttempt, RankCapacity, RefusalCode,
    StopExperiment, check_invariants,
};
use types::{
    AttemptToken, CauseKind, DurationMs, ExperimentId, LogIndex, NodeId, RankPlacement, Resources,
    Timestamp, codec,
};

use crate::samples::{Cluster, ended, every_command, log_entry, lose, node, report, spec};

/// Bytes that the codec writes as they are: a payload with a checksum that fits.
struct Payload(Vec<u8>);

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

fn payload<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(value)[codec::HEADER_BYTES..].to_vec()
}

/// The state read from its bytes in which the last `from` is replaced.
fn forged<T: Serialize>(state: &ClusterState, from: &T, to: &T) -> Result<ClusterState, String> {
    let (mut bytes, from, to) = (payload(state), payload(from), payload(to));
    let places = bytes.windows(from.len()).rposition(|part| part == from);
    let at = places.expect("the state holds it");
    bytes.splice(at..at + from.len(), to);
    codec::decode(&codec::encode(&Payload(bytes)), usize::MAX).map_err(|error| {
        let codec::Error::Payload(why) = error else {
            panic!("{error}")
        };
        why.to_string()
    })
}

fn everything(cpu_milli: u64) -> Resources {
    Resources {
        cpu_milli,
        memory_bytes: u64::MAX,
        disk_bytes: 0,
        gpus: Vec::new(),
    }
}

fn place_on(experiment: ExperimentId, node: NodeId, resources: Resources) -> Command {
    let placement = RankPlacement { node, resources };
    let capacity = RankCapacity {
        node_started_at: Timestamp(1),
        total: everything(u64::MAX),
    };
    Command::PlaceAttempt(PlaceAttempt {
        experiment,
        attempt: 1,
        computed_at: LogIndex(1),
        ranks: vec![(placement, capacity)],
        mirror: None,
        lease_ms: DurationMs::from_secs(5),
        reason: "best fit".to_owned(),
    })
}

fn cpus(cpu_milli: u64) -> Resources {
    Resources {
        memory_bytes: 0,
        ..everything(cpu_milli)
    }
}

/// Two nodes with one attempt each, of so many thousandths of a core.
fn two_running(first: u64, second: u64) -> (Cluster, [AttemptToken; 2]) {
    let mut cluster = Cluster::founded();
    let tokens = [(0, first), (1, second)].map(|(on, cpu_milli)| {
        let id = cluster.submit(spec("huge"));
        cluster.accept(place_on(id, node(on), cpus(cpu_milli)));
        let experiment = cluster.state.experiment(id).expect("it was submitted");
        experiment.current_attempt().expect("it is placed").token
    });
    (cluster, tokens)
}

/// The same with both on the first node, as a changed snapshot would have it.
fn both_on_one(
    first: u64,
    second: u64,
) -> (Result<ClusterState, String>, [AttemptToken; 2], LogIndex) {
    let (cluster, tokens) = two_running(first, second);
    let rank = |on, cpu_milli| RankPlacement {
        node: node(on),
        resources: cpus(cpu_milli),
    };
    let state = forged(&cluster.state, &rank(1, second), &rank(0, second));
    (state, tokens, LogIndex(cluster.log.len() as u64))
}

#[test]
fn a_placement_whose_sum_has_more_than_64_bits_does_not_fit() {
    let mut cluster = Cluster::founded();
    let first = cluster.submit(spec("huge"));
    cluster.accept(place_on(first, node(0), everything(u64::MAX - 1)));
    let second = cluster.submit(spec("huge"));
    for resources in [cpus(2), everything(0)] {
        let place = place_on(second, node(0), resources);
        cluster.refuse(place, RefusalCode::DoesNotFit);
    }
    cluster.accept(place_on(second, node(0), cpus(1)));
    let tokens: Vec<_> = cluster
        .state
        .booking(&node(0))
        .attempts
        .into_iter()
        .collect();
    assert_eq!(tokens.len(), 2);
    for token in tokens {
        cluster.accept(report(token, node(0), ended(CauseKind::Finished)));
    }
    assert_eq!(cluster.state.booking(&node(0)).attempts.len(), 0);
}

#[test]
fn a_snapshot_with_larger_bookings_is_refused_and_the_largest_are_released_again() {
    let (refused, ..) = both_on_one(u64::MAX - 1, u64::MAX - 1);
    let why = refused.expect_err("no node can give that");
    assert!(
        why.contains("more booked") && why.contains(node(0).as_str()),
        "{why}"
    );

    let (state, tokens, mut index) = both_on_one(u64::MAX - 7, 7);
    let mut state = state.expect("the sums fit");
    assert_eq!(state.booking(&node(0)).cpu_milli, u64::MAX);
    for (token, left) in tokens.into_iter().zip([7, 0]) {
        index.0 += 1;
        let end = ended(CauseKind::Finished);
        state.apply(index, &entry(report(token, node(0), end)));
        assert_eq!(state.booking(&node(0)).cpu_milli, left);
        check_invariants(&state).unwrap();
    }
}

#[test]
fn a_snapshot_that_does_not_agree_with_itself_is_refused() {
    let (cluster, [first, second]) = two_running(1, 1);
    let state = &cluster.state;
    let token = |experiment| AttemptToken {
        experiment,
        ..second
    };
    let foreign = forged(state, &second, &token(first.experiment)).unwrap_err();
    assert!(foreign.contains("open attempt of another"), "{foreign}");
    let other = ExperimentId::from_bits(77);
    let spec = &state.experiment(first.experiment).unwrap().spec;
    let misfiled = forged(state, &(first.experiment, spec), &(other, spec)).unwrap_err();
    assert!(misfiled.contains(&other.to_string()), "{misfiled}");
    let (head, length) = state.ledger_head();
    let counted = forged(state, &(head, length), &(head, u64::MAX)).unwrap_err();
    assert!(counted.contains("the ledger has"), "{counted}");
}

/// Of no request: an answer of before must not come back.
fn entry(command: Command) -> LogEntry {
    LogEntry {
        request: None,
        ..log_entry(command)
    }
}

/// What may be asked of any state: each experiment is stopped, placed, and its attempt lost, started or ended.
fn commands_for(state: &ClusterState) -> Vec<Command> {
    let mut commands: Vec<_> = every_command().into_iter().map(|(_, one)| one).collect();
    for experiment in state.experiments() {
        let id = experiment.id;
        commands.push(place_on(id, node(0), everything(u64::MAX)));
        if let Some(attempt) = experiment.current_attempt() {
            let token = attempt.token;
            for rank in &attempt.ranks {
                let at = rank.placement.node.clone();
                let started = AttemptReport::Started { at: Timestamp(1) };
                commands.push(report(token, at.clone(), started));
                commands.push(report(token, at, ended(CauseKind::ExitCode(1))));
            }
            commands.push(lose(token));
        }
        commands.push(Command::StopExperiment(StopExperiment { experiment: id }));
    }
    commands
}

/// Something of everything: waiting, running, ended, late.
fn used() -> ClusterState {
    let mut cluster = Cluster::founded();
    for (_, command) in every_command() {
        cluster.apply(command);
    }
    cluster.submit(spec("waits"));
    for _ in 0..3 {
        cluster.run(0);
    }
    let lost = cluster.run(0);
    cluster.accept(lose(lost));
    let done = cluster.run(0);
    cluster.accept(report(done, node(0), ended(CauseKind::Finished)));
    cluster.state
}

static USED: LazyLock<Vec<u8>> = LazyLock::new(|| payload(&used()));

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    /// As the fuzz target `state` does it, from a state that is already full.
    #[test]
    fn commands_on_a_snapshot_with_changed_numbers_are_total(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<bool>()), 1..4),
    ) {
        let mut bytes = USED.clone();
        for (at, all) in changes {
            // Eight bytes are a number; the last of one makes it huge.
            let at = at.index(bytes.len() - 8);
            let (from, to) = if all { (at, at + 8) } else { (at, at + 1) };
            bytes[from..to].fill(u8::MAX);
        }
        let read = codec::decode::<ClusterState>(&codec::encode(&Payload(bytes)), usize::MAX);
        if let Ok(mut state) = read {
            let sound = check_invariants(&state).is_ok();
            for command in commands_for(&state) {
                let index = LogIndex(state.applied().0.saturating_add(1));
                state.apply(index, &entry(command));
            }
            if sound {
                check_invariants(&state).unwrap();
            }
        }
    }
}
