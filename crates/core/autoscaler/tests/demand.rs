//! Unmet demand over a real state.

use autoscaler::{demand, summary};
use membership::View;
use state_machine::{ClusterState, Command, FoundCluster, LogEntry, Outcome, SubmitExperiment};
use types::{
    Author, ClusterId, Environment, ExperimentId, ExperimentSpec, LogIndex, NodeFacts, NodeId,
    NodeReport, Policy, QueueName, ResourceRequest, Timestamp,
};

const NOW: Timestamp = Timestamp(60_000);

fn node() -> NodeId {
    "nodea".parse().expect("a base58 name")
}

fn apply(state: &mut ClusterState, command: Command) -> Outcome {
    let index = LogIndex(state.applied().0 + 1);
    let entry = LogEntry {
        time: Timestamp(1_000),
        author: Author::node(node()),
        request: None,
        command,
    };
    state.apply(index, &entry).outcome
}

/// One node of 4 cores and 8 GiB.
fn cluster() -> (ClusterState, View) {
    let mut state = ClusterState::default();
    let facts = NodeFacts {
        name: "box1".to_owned(),
        version: String::new(),
        control_addresses: Vec::new(),
        bulk_addresses: Vec::new(),
        takes_work: true,
        may_vote: true,
        keeps_blobs: true,
        labels: Vec::new(),
    };
    apply(
        &mut state,
        Command::FoundCluster(FoundCluster {
            cluster: ClusterId([1; 32]),
            public_key: Vec::new(),
            founder: node(),
            facts,
            timing: "lan".to_owned(),
        }),
    );
    let report = NodeReport {
        node: node(),
        node_started_at: Timestamp(1),
        sequence: 1,
        taken_at: Timestamp(1),
        boot_id: 1,
        cpu_milli: 4_000,
        cpu_busy_milli: 0,
        memory_bytes: 8 << 30,
        memory_used_bytes: 0,
        disk_free_bytes: 100 << 30,
        gpus: Vec::new(),
        declared: Vec::new(),
        warnings: Vec::new(),
        refuses_work: false,
    };
    let mut view = View::default();
    view.observe(report, NOW);
    (state, view)
}

fn submit(state: &mut ClusterState, cpus: u64) -> ExperimentId {
    let spec = ExperimentSpec {
        name: "x".to_owned(),
        command: vec!["true".to_owned()],
        source: None,
        working_directory: String::new(),
        variables: Vec::new(),
        environment: Environment::Host,
        parameters: Vec::new(),
        resources: ResourceRequest {
            cpu_milli: cpus * 1_000,
            ..ResourceRequest::default()
        },
        learned: Vec::new(),
        prefer_nodes: Vec::new(),
        queue: QueueName::default(),
        policy: Policy::default(),
        outputs: types::Outputs::default(),
        origin: None,
    };
    match apply(
        state,
        Command::SubmitExperiment(Box::new(SubmitExperiment { spec })),
    ) {
        Outcome::Submitted(id) => id,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn only_what_would_still_wait_is_demand() {
    let (mut state, view) = cluster();
    submit(&mut state, 3);
    let later = submit(&mut state, 3);
    let never = submit(&mut state, 64);
    let unmet = demand(&state, &view, NOW);
    let found: Vec<_> = unmet
        .iter()
        .map(|unmet| (unmet.experiment, unmet.possible_here))
        .collect();
    assert_eq!(found, [(later, true), (never, false)]);
    assert_eq!(
        summary(&unmet, NOW),
        "2 wait for 67 cpus, 2 GiB memory in all, the oldest for 59 s; 1 of them fit no node of this cluster, even an empty one"
    );
}

#[test]
fn an_empty_queue_asks_for_nothing() {
    let (state, view) = cluster();
    assert_eq!(
        summary(&demand(&state, &view, NOW), NOW),
        "nothing waits for room"
    );
}
