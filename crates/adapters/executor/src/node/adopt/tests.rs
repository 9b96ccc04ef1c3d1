use super::*;
use crate::cgroup::CgroupPlan;
use crate::node::{Config, Event, start};
use crate::stored::Order;
use tokio_util::sync::CancellationToken;
use types::{ExperimentId, Incarnation, LogIndex, codec};

fn order(token: AttemptToken, boot_id: u64) -> Order {
    Order::V1(OrderV1 {
        token,
        rank: 3,
        boot_id,
        command: vec!["true".to_owned()],
        working_directory: String::new(),
        variables: Vec::new(),
        deadline_boottime_ms: u64::MAX,
        stop_margin_ms: 0,
        time_limit_ms: 0,
        stop_grace_ms: 0,
        stop_rule: None,
        outputs: types::Outputs::default(),
        memory_bytes: 0,
        cpu_milli: 0,
        cgroups: CgroupPlan::default().named("muster-test-of-another-boot"),
        segment_max_bytes: 1,
        segment_max_age_ms: 1,
    })
}

/// The end that a node finds for an attempt directory with this order and without a holder; twice.
async fn found_end(order: Option<Order>) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let token = token();
    let attempt = AttemptDirectory::new(directory.path(), &token);
    std::fs::create_dir_all(&attempt.root).unwrap();
    if let Some(order) = order {
        std::fs::write(attempt.order(), codec::encode(&order)).unwrap();
    }
    let mut ends = Vec::new();
    for _again in 0..2 {
        let config = Config::new(directory.path().to_owned(), "/nonexistent".into());
        let (_handle, mut events, runner) = start(config).await.unwrap();
        let task = tokio::spawn(runner.run(CancellationToken::new()));
        match events.recv().await.unwrap() {
            Event::Ended {
                token: which,
                ended,
            } => {
                assert_eq!(which, token);
                ends.push(ended);
            }
            other => panic!("{other:?}"),
        }
        task.abort();
    }
    assert_eq!(ends[0], ends[1]);
    ends.remove(0)
}

fn token() -> AttemptToken {
    AttemptToken {
        incarnation: Incarnation(1),
        experiment: ExperimentId::from_bits(6),
        attempt: 1,
        placed_at: LogIndex(7),
    }
}

#[tokio::test]
async fn an_attempt_of_another_boot_ended_by_the_restart_of_the_machine() {
    let ended = found_end(Some(order(token(), 1))).await;
    assert_eq!(ended.cause.kind, CauseKind::NodeRestarted);
    assert!(
        ended.cause.evidence[0].contains("0000000000000001"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn an_attempt_of_this_boot_without_a_holder_is_the_holders_failure() {
    let ended = found_end(Some(order(token(), crate::boot_id()))).await;
    assert_eq!(ended.cause.kind, CauseKind::HolderFailed);
}

#[tokio::test]
async fn an_attempt_without_an_order_still_ends() {
    let ended = found_end(None).await;
    assert_eq!(ended.cause.kind, CauseKind::NodeRestarted);
    assert!(!ended.cause.evidence.is_empty());
}

/// A node over one attempt directory that has this order and no holder.
async fn node_over(
    directory: &std::path::Path,
    order: &Order,
) -> (AttemptDirectory, crate::node::Handle, mpsc::Receiver<Event>) {
    let attempt = AttemptDirectory::new(directory, &token());
    std::fs::create_dir_all(&attempt.root).unwrap();
    std::fs::write(attempt.order(), codec::encode(order)).unwrap();
    let config = Config::new(directory.to_owned(), "/nonexistent".into());
    let (handle, events, runner) = start(config).await.unwrap();
    tokio::spawn(runner.run(CancellationToken::new()));
    (attempt, handle, events)
}

async fn ended_within(events: &mut mpsc::Receiver<Event>, time: Duration) -> Option<Ended> {
    match tokio::time::timeout(time, events.recv()).await.ok()? {
        Some(Event::Ended { ended, .. }) => Some(ended),
        other => panic!("{other:?}"),
    }
}

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_attempt_whose_lock_a_late_holder_has_is_not_over() {
    let directory = tempfile::tempdir().unwrap();
    let attempt = AttemptDirectory::new(directory.path(), &token());
    std::fs::create_dir_all(&attempt.root).unwrap();
    let order = order(token(), crate::clock::boot_id());
    std::fs::write(attempt.order(), codec::encode(&order)).unwrap();
    let holder = attempt.try_lock().unwrap().unwrap();
    let shared = Config::new(directory.path().to_owned(), "/nonexistent".into());
    let (_handle, mut events, runner) = start(shared).await.unwrap();
    tokio::spawn(runner.run(CancellationToken::new()));
    assert_eq!(ended_within(&mut events, SHORT).await, None);
    assert!(!attempt.exit().exists());
    drop(holder); // It dies.
    let ended = ended_within(&mut events, LONG).await.unwrap();
    assert_eq!(ended.cause.kind, CauseKind::HolderFailed);
}

#[tokio::test]
async fn an_attempt_whose_processes_cannot_be_killed_is_not_over() {
    let directory = tempfile::tempdir().unwrap();
    // A cgroup that does not take the order to kill.
    let stubborn = directory.path().join("stubborn");
    let name = "muster-test-of-a-stubborn-cgroup";
    std::fs::create_dir_all(stubborn.join(name).join("cgroup.kill")).unwrap();
    let Order::V1(mut inner) = order(token(), crate::clock::boot_id()) else {
        unreachable!()
    };
    inner.cgroups.unified = Some(stubborn.to_str().unwrap().to_owned());
    inner.cgroups.name = name.to_owned();
    let attempts = directory.path().join("attempts");
    let (attempt, _handle, mut events) = node_over(&attempts, &Order::V1(inner)).await;
    assert_eq!(ended_within(&mut events, SHORT).await, None);
    assert!(
        !attempt.exit().exists(),
        "another attempt would run beside it"
    );
    std::fs::remove_dir(stubborn.join(name).join("cgroup.kill")).unwrap();
    let ended = ended_within(&mut events, LONG).await.unwrap();
    assert_eq!(ended.cause.kind, CauseKind::HolderFailed);
}
