//! The leader's lease table.

use agent::leases::{LONG_LEASE, LeaseTable, MIN_LEASE, SHORT_LEASE, lease_length};
use state_machine::{
    ClusterState, Command, ExtendLease, FoundCluster, LogEntry, LoseAttempt, Outcome, PlaceAttempt,
    RankCapacity, SubmitExperiment,
};
use types::{
    AttemptToken, Author, Cause, CauseKind, ClusterId, DurationMs, Environment, ExperimentSpec,
    LogIndex, NodeFacts, NodeId, Policy, QueueName, RankPlacement, ResourceRequest, Resources,
    Timestamp,
};

fn node() -> NodeId {
    "nodea".parse().expect("a base58 name")
}

fn apply(state: &mut ClusterState, command: Command) -> Outcome {
    let index = LogIndex(state.applied().0 + 1);
    let entry = LogEntry {
        time: Timestamp(1),
        author: Author::node(node()),
        request: None,
        command,
    };
    state.apply(index, &entry).outcome
}

/// A state with one placed attempt whose lease is 5 s.
fn placed() -> (ClusterState, AttemptToken) {
    let mut state = ClusterState::default();
    let facts = NodeFacts {
        name: "a".to_owned(),
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
    let spec = ExperimentSpec {
        name: "x".to_owned(),
        command: vec!["true".to_owned()],
        source: None,
        working_directory: String::new(),
        variables: Vec::new(),
        environment: Environment::Host,
        parameters: Vec::new(),
        resources: ResourceRequest::default(),
        learned: Vec::new(),
        prefer_nodes: Vec::new(),
        queue: QueueName::default(),
        policy: Policy::default(),
        outputs: types::Outputs::default(),
        origin: None,
    };
    let submit = Command::SubmitExperiment(Box::new(SubmitExperiment { spec }));
    let Outcome::Submitted(experiment) = apply(&mut state, submit) else {
        unreachable!()
    };
    let resources = Resources {
        cpu_milli: 1_000,
        ..Resources::default()
    };
    let rank = RankPlacement {
        node: node(),
        resources: resources.clone(),
    };
    let capacity = RankCapacity {
        node_started_at: Timestamp(1),
        total: resources,
    };
    let place = Command::PlaceAttempt(PlaceAttempt {
        experiment,
        attempt: 1,
        computed_at: LogIndex(1),
        ranks: vec![(rank, capacity)],
        mirror: None,
        lease_ms: SHORT_LEASE,
        reason: String::new(),
    });
    let Outcome::Placed(token) = apply(&mut state, place) else {
        unreachable!()
    };
    (state, token)
}

#[test]
fn a_new_leader_holds_every_lease_for_its_full_length() {
    let (state, token) = placed();
    let mut table = LeaseTable::new();
    table.hold_all(&state, 1_000);
    let end = 1_000 + 5_000 + 50 + 100;
    assert_eq!(table.next_expiry(), Some(end));
    assert!(table.expired(end - 1).is_empty());
    assert_eq!(table.expired(end), [(token, 0)]);
    assert_eq!(
        table.expired(end + 1),
        [(token, 0)],
        "named until it is gone"
    );
}

#[test]
fn a_grant_counts_from_the_answer_and_never_shortens() {
    let (state, token) = placed();
    let mut table = LeaseTable::new();
    table.hold_all(&state, 0);
    assert!(table.grant((token, 0), LONG_LEASE, 1_000));
    assert_eq!(
        table.held_until(&(token, 0)),
        Some(1_000 + 300_000 + 3_000 + 100)
    );
    assert!(table.grant((token, 0), SHORT_LEASE, 2_000));
    assert_eq!(table.held_until(&(token, 0)), Some(304_100));
}

#[test]
fn an_expired_lease_is_never_granted_again() {
    let (mut state, token) = placed();
    let mut table = LeaseTable::new();
    table.hold_all(&state, 0);
    assert!(!table.grant((token, 0), SHORT_LEASE, 5_150));
    let cause = Cause::new(CauseKind::NodeLost, vec!["test".to_owned()]);
    apply(
        &mut state,
        Command::LoseAttempt(LoseAttempt {
            token,
            rank: 0,
            cause,
            segments: Vec::new(),
        }),
    );
    table.refresh(&state, 5_200);
    assert!(table.expired(u64::MAX).is_empty());
    assert!(!table.grant((token, 0), SHORT_LEASE, 5_200));
}

#[test]
fn an_unknown_attempt_gets_no_grant_and_a_proven_end_frees_at_once() {
    let (state, token) = placed();
    let mut table = LeaseTable::new();
    assert!(!table.grant((token, 0), SHORT_LEASE, 0));
    table.refresh(&state, 0);
    table.expire((token, 0));
    assert_eq!(table.expired(0), [(token, 0)]);
    assert!(!table.grant((token, 0), SHORT_LEASE, 0));
}

#[test]
fn lengths_follow_the_policy_and_the_age_of_the_work() {
    let mut policy = Policy::default();
    let minute = |number: u64| Timestamp(number * 60_000);
    let length = |policy: &Policy, now| lease_length(policy, Some(minute(0)), now);
    assert_eq!(lease_length(&policy, None, minute(99)), SHORT_LEASE);
    assert_eq!(length(&policy, minute(9)), SHORT_LEASE);
    assert_eq!(length(&policy, minute(10)), LONG_LEASE);
    policy.lease_ms = DurationMs::from_secs(60);
    assert_eq!(length(&policy, minute(10)), DurationMs::from_secs(60));
    policy.lease_ms = DurationMs(1);
    assert_eq!(length(&policy, minute(10)), MIN_LEASE);
}

#[test]
fn a_lease_that_has_grown_is_held_for_its_new_length() {
    // A new leader learns only now of the longer lease that the one before it committed, and granted.
    let (mut state, token) = placed();
    let mut table = LeaseTable::new();
    table.hold_all(&state, 1_000);
    apply(
        &mut state,
        Command::ExtendLease(ExtendLease {
            token,
            lease_ms: LONG_LEASE,
            reason: "10 min of work".to_owned(),
        }),
    );
    table.refresh(&state, 2_000);
    assert!(table.held_until(&(token, 0)).unwrap() >= 2_000 + LONG_LEASE.0);
    assert_eq!(table.expired(20_000), []);
    // Told again, it is no news.
    let held = table.held_until(&(token, 0));
    table.refresh(&state, 9_000);
    assert_eq!(table.held_until(&(token, 0)), held);
}
