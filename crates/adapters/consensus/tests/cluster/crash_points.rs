//! Three replicas in one process that is killed at each named step of storage, as if all machines lost power there.
//! Reopened, they hold everything acknowledged, and the same.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use consensus::{Handle, failpoint};
use futures::StreamExt as _;
use rand::Rng as _;

use state_machine::{ARCHIVE_ENTRIES, Command, Outcome, StopExperiment, SubmitExperiment};
use types::{Environment, ExperimentId, ExperimentSpec, Policy, QueueName, ResourceRequest};

use crate::harness::{Cluster, PATIENCE, any_leads, command, has_queue, node, nodes, propose};

const DIRECTORY: &str = "CONSENSUS_CRASH_POINTS_DIRECTORY";
const POINT: &str = "CONSENSUS_CRASH_POINT";
const NTH: &str = "CONSENSUS_CRASH_NTH";
/// Writes between two disturbances.
const BURST: usize = 150;
/// Writes while a leader is cut off: so few that the log which it missed is not purged yet.
const FEW: usize = 8;
/// Bursts until a step counts as never reached: some steps need a whole archive of 4,096 ledger entries.
const BURSTS: usize = 60;

fn cluster(root: &Path) -> Cluster {
    let mut cluster = Cluster::at(root);
    cluster.snapshot_every_entries = 100;
    cluster.keep_log_entries = 20;
    cluster.compare_every_entries = 50;
    cluster
}

/// How many replicas come to a step: one reaches the archives of ended experiments soonest.
fn replicas(point: &str) -> usize {
    if point.starts_with("archive") { 1 } else { 3 }
}

/// Starts the replicas of `root`, or makes them.
async fn start_all(cluster: &Cluster, count: usize) -> Vec<Handle> {
    let mut handles = Vec::new();
    for number in 0..count {
        handles.push(cluster.start(number).await);
    }
    if !handles[0].is_initialized().await.unwrap() {
        handles[0].initialize().await.unwrap();
    }
    handles
}

/// Makes voters of all; a crash may have come before or in the middle of it.
async fn complete(handles: &[Handle]) -> usize {
    let all: Vec<&Handle> = handles.iter().collect();
    let leader = any_leads(&all).await;
    for number in 0..handles.len() {
        let known = handles[leader].voters().contains(&node(number))
            || handles[leader].learners().contains(&node(number));
        if !known {
            handles[leader].add_learner(node(number)).await.unwrap();
        }
    }
    let voters = nodes(0..handles.len());
    handles[leader].set_voters(voters, true).await.unwrap();
    leader
}

/// Submits and stops until an archive of ended experiments is sealed.
async fn end_experiments(handle: &Handle) {
    propose(handle, QueueName::default().as_str())
        .await
        .unwrap();
    let ended = (0..2 * ARCHIVE_ENTRIES + 500).map(|_| async {
        let spec = ExperimentSpec {
            name: "short".to_owned(),
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
        let submitted = handle.propose(command(submit)).await.unwrap().outcome;
        let Outcome::Submitted(experiment) = submitted else {
            panic!("{submitted:?}")
        };
        let stop = Command::StopExperiment(StopExperiment { experiment });
        let stopped = handle.propose(command(stop)).await.unwrap().outcome;
        assert_eq!(stopped, Outcome::Done);
        println!("ack-ended {experiment}");
    });
    futures::stream::iter(ended)
        .buffer_unordered(256)
        .for_each(|()| async {})
        .await;
}

/// Writes a burst and prints what is acknowledged.
async fn burst(handle: &Handle, run: u32, number: usize, count: usize) {
    let proposals = (0..count).map(|i| {
        let name = format!("q-{run}-{number}-{i}");
        async move { propose(handle, &name).await.map(|_| name) }
    });
    let mut acknowledged = std::pin::pin!(futures::stream::iter(proposals).buffer_unordered(32));
    while let Some(done) = acknowledged.next().await {
        // A leader that was just cut off acknowledges nothing.
        let Ok(name) = done else { continue };
        let mut out = std::io::stdout().lock();
        writeln!(out, "ack {name}").unwrap();
        out.flush().unwrap();
    }
}

/// The child's part; does nothing in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_writes_until_it_comes_to_its_point() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let point = std::env::var(POINT).unwrap();
    failpoint::arm(&point, std::env::var(NTH).unwrap().parse().unwrap());
    let cluster = cluster(Path::new(&directory));
    let mut handles = start_all(&cluster, replicas(&point)).await;
    let leader = complete(&handles).await;
    if point.starts_with("archive") {
        end_experiments(&handles[leader]).await;
        println!("never reached");
        return;
    }
    let run: u32 = rand::rng().random();
    for number in 0..BURSTS {
        let all: Vec<&Handle> = handles.iter().collect();
        let leader = any_leads(&all).await;
        burst(&handles[leader], run, number, BURST).await;
        let away = (leader + 1) % 3;
        match number % 20 {
            // One is away until the log that it needs is purged: it gets a snapshot.
            3 => {
                cluster.stop(away).await;
                for more in 0..3 {
                    burst(&handles[leader], run, 1_000 + number * 10 + more, BURST).await;
                }
                handles[away] = cluster.start(away).await;
            }
            // A leader that is cut off has entries that nobody else has: it must take them back.
            7 => {
                cluster.board.cut(&node(leader));
                let lost = tokio::time::timeout(
                    Duration::from_secs(3),
                    burst(&handles[leader], run, 2_000 + number, FEW),
                );
                let others: Vec<&Handle> = (0..3)
                    .filter(|other| *other != leader)
                    .map(|other| &handles[other])
                    .collect();
                let (_, new) = tokio::join!(lost, any_leads(&others));
                burst(others[new], run, 3_000 + number, FEW).await;
                cluster.board.mend(&node(leader));
                let caught_up = others[new].applied().borrow().to_owned();
                let waiting = handles[leader].wait_applied(caught_up, PATIENCE);
                waiting.await.unwrap();
            }
            _ => {}
        }
    }
    println!("never reached");
}

#[derive(Default)]
struct Crash {
    acknowledged: BTreeSet<String>,
    /// Experiments whose end was acknowledged.
    ended: BTreeSet<ExperimentId>,
    killed: bool,
}

fn crash_at(directory: &Path, point: &str, nth: u64) -> Crash {
    let mut child = Process::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "crash_points::child_writes_until_it_comes_to_its_point",
            "--nocapture",
        ])
        .env(DIRECTORY, directory)
        .env(POINT, point)
        .env(NTH, nth.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut acknowledged, mut ended) = (BTreeSet::new(), BTreeSet::new());
    for line in lines {
        let line = line.unwrap();
        if let Some((_, name)) = line.split_once("ack ") {
            acknowledged.insert(name.to_owned());
        } else if let Some((_, id)) = line.split_once("ack-ended ") {
            ended.insert(id.parse().unwrap());
        }
    }
    let status = child.wait().unwrap();
    use std::os::unix::process::ExitStatusExt as _;
    Crash {
        acknowledged,
        ended,
        killed: status.signal() == Some(9),
    }
}

async fn check_reopened(directory: &Path, point: &str, before: &Crash) {
    let acknowledged = &before.acknowledged;
    let cluster = cluster(directory);
    let handles = start_all(&cluster, replicas(point)).await;
    complete(&handles).await;
    let all: Vec<&Handle> = handles.iter().collect();
    let leader = any_leads(&all).await;
    let last = propose(
        &handles[leader],
        &format!("after-{}", point.replace(['.', '_'], "-")),
    )
    .await
    .unwrap();
    let mut hashes = BTreeSet::new();
    for handle in &handles {
        handle.wait_applied(last.index, PATIENCE).await.unwrap();
        handle.read_index(PATIENCE).await.unwrap();
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|name| !has_queue(handle, name))
            .collect();
        assert!(lost.is_empty(), "{point}: acknowledged and lost: {lost:?}");
        assert_eq!(*handle.failed().borrow(), None, "{point}");
        for experiment in &before.ended {
            let hot = handle.state().experiment(*experiment).is_some();
            let archived = hot || {
                let found = handle.archived_experiment(*experiment).await;
                found.unwrap().is_some()
            };
            assert!(archived, "{point}: {experiment} ended and is lost");
        }
        hashes.insert(handle.state().state_hash());
    }
    assert_eq!(hashes.len(), 1, "{point}: the replicas differ");
    drop(handles);
    for number in 0..replicas(point) {
        cluster.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_step_of_storage_replicas_come_back_whole_and_equal() {
    let directory = tempfile::tempdir().unwrap();
    let mut before = Crash::default();
    let lone = tempfile::tempdir().unwrap();
    for point in failpoint::NAMES {
        // The frequent ones at a moment of chance, which is printed; the rare ones at the first.
        let is_rare = ["archive", "truncate", "snapshot.before_adopt", "generation"]
            .iter()
            .any(|rare| point.starts_with(rare));
        let nth = if is_rare {
            1
        } else {
            rand::rng().random_range(1..40)
        };
        let is_lone = replicas(point) == 1;
        let used = if is_lone { &lone } else { &directory };
        let (path, begun) = (used.path().to_owned(), std::time::Instant::now());
        let crash = tokio::task::spawn_blocking(move || crash_at(&path, point, nth));
        let crash = crash.await.unwrap();
        println!(
            "{point}, time {nth}: {} acknowledged before, {:.1} s",
            crash.acknowledged.len() + crash.ended.len(),
            begun.elapsed().as_secs_f32()
        );
        assert!(crash.killed, "{point}, time {nth}, was never reached");
        if is_lone {
            check_reopened(used.path(), point, &crash).await;
        } else {
            before.acknowledged.extend(crash.acknowledged);
            check_reopened(used.path(), point, &before).await;
        }
    }
}
