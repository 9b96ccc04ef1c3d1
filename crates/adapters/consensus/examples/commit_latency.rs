//! Latency and rate of proposals over three replicas in one process, with real fdatasyncs.
//!
//! `cargo run --release -p consensus --example commit_latency [directory]`

#![expect(
    clippy::print_stdout,
    reason = "a measuring program reports on its standard output"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus::{BoxFuture, Config, Handle, Transport, TransportError, open};
use futures::FutureExt as _;
use state_machine::{Command, CreateQueue, LogEntry};
use types::{Author, NodeId, Timestamp};

type Outcome = Result<(), Box<dyn std::error::Error>>;
type Board = Arc<Mutex<BTreeMap<NodeId, Handle>>>;

/// Calls the other replica's handle directly.
struct Line {
    from: NodeId,
    board: Board,
}

impl Transport for Line {
    fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let from = self.from.clone();
        let handle = self
            .board
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&to)
            .cloned();
        async move {
            let handle = handle.ok_or_else(|| TransportError::Unreachable {
                why: "not started".into(),
            })?;
            let answer = tokio::time::timeout(deadline, handle.handle_call(&from, request)).await;
            answer.map_err(|_elapsed| TransportError::TimedOut)
        }
        .boxed()
    }

    fn bulk(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.call(to, request, deadline)
    }
}

async fn start(
    root: &std::path::Path,
    name: &str,
    board: &Board,
) -> Result<Handle, Box<dyn std::error::Error>> {
    let node: NodeId = name.parse()?;
    let line = Line {
        from: node.clone(),
        board: Arc::clone(board),
    };
    let handle = open(Config::new(root.join(name), node.clone()), Arc::new(line)).await?;
    board
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(node, handle.clone());
    Ok(handle)
}

fn entry(client: usize, node: &NodeId) -> Result<LogEntry, Box<dyn std::error::Error>> {
    Ok(LogEntry {
        time: Timestamp(1),
        author: Author::node(node.clone()),
        request: None,
        command: Command::CreateQueue(CreateQueue {
            name: format!("client-{client}").parse()?,
            priority: 1,
        }),
    })
}

async fn measure(leader: &Handle, node: &NodeId, clients: usize, writes: usize) -> Outcome {
    let before = leader.metrics();
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let (leader, entry) = (leader.clone(), entry(client, node)?);
        tasks.spawn(async move {
            let mut times = Vec::new();
            for _ in 0..writes / clients {
                let start = Instant::now();
                leader.propose(entry.clone()).await?;
                times.push(start.elapsed());
            }
            Ok::<_, consensus::ProposeError>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let elapsed = start.elapsed();
    times.sort();
    let after = leader.metrics();
    let commits = after.group_commits - before.group_commits;
    println!(
        "{clients:>3} clients: {} writes in {elapsed:.2?} = {:.0}/s, p50 {:.2?}, p99 {:.2?}, {commits} group commits on the leader",
        times.len(),
        times.len() as f64 / elapsed.as_secs_f64(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
    );
    Ok(())
}

async fn measure_reads(handle: &Handle, name: &str) -> Outcome {
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let start = Instant::now();
        handle.read_index(Duration::from_secs(5)).await?;
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "read index on {name}: p50 {:.2?}, p99 {:.2?}",
        times[500], times[990]
    );
    Ok(())
}

/// Resident memory of this process in MiB, from the kernel.
fn resident_mib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .ok_or("no VmRSS")?;
    Ok(line
        .split_whitespace()
        .nth(1)
        .ok_or("no VmRSS")?
        .parse::<u64>()?
        / 1_024)
}

#[tokio::main]
async fn main() -> Outcome {
    let root = std::env::args_os().nth(1).map_or_else(
        || std::env::temp_dir().join(format!("commit-latency-{}", std::process::id())),
        PathBuf::from,
    );
    let board = Board::default();
    let leader = start(&root, "a", &board).await?;
    leader.initialize().await?;
    leader.leader().wait_for(|now| now.is_self).await?;
    let node: NodeId = "a".parse()?;
    let mut voters = std::collections::BTreeSet::from([node.clone()]);
    let mut follower = leader.clone();
    for name in ["b", "c"] {
        follower = start(&root, name, &board).await?;
        leader.add_learner(name.parse()?).await?;
        voters.insert(name.parse()?);
    }
    leader.set_voters(voters, false).await?;
    measure(&leader, &node, 1, 200).await?;
    for (clients, writes) in [(1, 2_000), (8, 8_000), (64, 40_000), (256, 60_000)] {
        measure(&leader, &node, clients, writes).await?;
    }
    measure_reads(&leader, "the leader").await?;
    measure_reads(&follower, "a follower").await?;
    println!(
        "resident memory of all three: {} MiB; log on disk {} MiB",
        resident_mib()?,
        leader.metrics().log_bytes_on_disk >> 20
    );
    let handles: Vec<_> = board
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .values()
        .cloned()
        .collect();
    for handle in handles {
        handle.shutdown().await;
    }
    std::fs::remove_dir_all(&root)?;
    Ok(())
}
