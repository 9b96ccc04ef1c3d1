//! A snapshot's state from a disk or a replica: refused, or a state that can be asked, written again and checked, and on
//! which every command is total.
#![no_main]

use libfuzzer_sys::fuzz_target;
use state_machine::{
    AttemptEnd, AttemptReport, ClusterState, Command, LogEntry, LoseAttempt, PlaceAttempt, RankCapacity, ReportAttempt,
    StopExperiment, SubmitExperiment, check_invariants,
};
use types::{
    Author, Cause, CauseKind, DurationMs, ExperimentId, LogIndex, NodeId, RankPlacement, Resources, Timestamp, codec,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut state) = codec::decode::<ClusterState>(bytes, 1 << 20) {
        // A state that no log makes is found out, or is whole.
        let sound = check_invariants(&state).is_ok();
        if sound {
            let again = codec::encode(&state);
            assert_eq!(codec::encode(&codec::decode::<ClusterState>(&again, usize::MAX).expect("written by us")), again);
        }
        for command in commands(&state) {
            let index = LogIndex(state.applied().0.saturating_add(1));
            state.apply(index, &entry(command));
        }
        if sound {
            check_invariants(&state).expect("commands keep the invariants");
        }
    }
});

fn entry(command: Command) -> LogEntry {
    let node: NodeId = "nodea".parse().expect("base58");
    LogEntry { time: Timestamp(123), author: Author::node(node), request: None, command }
}

/// Each experiment is placed, its attempt ended and lost, and itself stopped; all that it asked for is asked for again.
fn commands(state: &ClusterState) -> Vec<Command> {
    let mut commands = Vec::new();
    for experiment in state.experiments() {
        let id = experiment.id;
        let attempts = u32::try_from(experiment.attempts.len()).unwrap_or(u32::MAX);
        commands.extend(state.nodes().map(|node| place(id, attempts.saturating_add(1), node.node.clone())));
        if let Some(attempt) = experiment.current_attempt() {
            let cause = Cause::new(CauseKind::ExitCode(1), vec!["the fuzzer says so".to_owned()]);
            for (rank, record) in (0..).zip(&attempt.ranks) {
                commands.push(Command::ReportAttempt(Box::new(ReportAttempt {
                    token: attempt.token,
                    node: record.placement.node.clone(),
                    rank,
                    report: AttemptReport::Ended { end: end(cause.clone()), segments: Vec::new(), inline_records: Default::default() },
                })));
                commands.push(Command::LoseAttempt(LoseAttempt { token: attempt.token, rank, cause: cause.clone(), segments: Vec::new() }));
            }
        }
        let spec = experiment.spec.as_ref().clone();
        commands.push(Command::StopExperiment(StopExperiment { experiment: id }));
        commands.push(Command::SubmitExperiment(Box::new(SubmitExperiment { spec })));
    }
    commands
}

fn place(experiment: ExperimentId, attempt: u32, node: NodeId) -> Command {
    let all = Resources { cpu_milli: u64::MAX, memory_bytes: u64::MAX, disk_bytes: u64::MAX, gpus: Vec::new() };
    let rank = RankPlacement { node, resources: all.clone() };
    Command::PlaceAttempt(PlaceAttempt {
        experiment,
        attempt,
        computed_at: LogIndex(1),
        ranks: vec![(rank, RankCapacity { node_started_at: Timestamp(1), total: all })],
        mirror: None,
        lease_ms: DurationMs::from_secs(5),
        reason: "the fuzzer says so".to_owned(),
    })
}

fn end(cause: Cause) -> AttemptEnd {
    AttemptEnd { cause, at: Timestamp(1), peak_memory_bytes: 0, peak_vram_bytes: 0, cpu_ms: DurationMs(0), tree_kill_method: String::new(), outputs: None }
}

