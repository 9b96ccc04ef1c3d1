//! How log, disk, memory and snapshots grow over a million ended experiments in one replica with real fdatasyncs.
//!
//! `cargo run --release -p consensus --example storage_growth [experiments] [directory]`

#![expect(
    clippy::print_stdout,
    reason = "a measuring program reports on its standard output"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus::{BoxFuture, Config, Handle, Transport, TransportError, open};
use futures::{FutureExt as _, StreamExt as _};
use state_machine::{Command, CreateQueue, LogEntry, Outcome, StopExperiment, SubmitExperiment};
use types::{
    Author, Environment, ExperimentSpec, NodeId, Policy, QueueName, ResourceRequest, Timestamp,
};

type Done<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Proposals under way at a time.
const WIDTH: usize = 256;
/// Lines of the report.
const STEPS: usize = 10;

/// Nobody else is there.
struct Alone;

impl Transport for Alone {
    fn call(
        &self,
        _: NodeId,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let why = "alone".to_owned();
        async { Err(TransportError::Unreachable { why }) }.boxed()
    }

    fn bulk(
        &self,
        to: NodeId,
        bytes: Bytes,
        time: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.call(to, bytes, time)
    }
}

fn entry(node: &NodeId, command: Command) -> LogEntry {
    LogEntry {
        time: Timestamp(1_700_000_000_000),
        author: Author::node(node.clone()),
        request: None,
        command,
    }
}

/// One experiment from its submit to its end.
async fn submit_and_end(handle: &Handle, node: &NodeId, number: usize) -> Done {
    let spec = ExperimentSpec {
        name: format!("sweep-{number}"),
        command: ["python3", "train.py", "--lr", "0.05"]
            .map(str::to_owned)
            .to_vec(),
        source: None,
        working_directory: "src".to_owned(),
        variables: Vec::new(),
        environment: Environment::Host,
        parameters: vec![("lr".to_owned(), "0.05".to_owned())],
        resources: ResourceRequest::default(),
        learned: Vec::new(),
        prefer_nodes: Vec::new(),
        queue: QueueName::default(),
        policy: Policy::default(),
    };
    let submit = Command::SubmitExperiment(Box::new(SubmitExperiment { spec }));
    let Outcome::Submitted(experiment) = handle.propose(entry(node, submit)).await?.outcome else {
        return Err("a submit was refused".into());
    };
    let stop = Command::StopExperiment(StopExperiment { experiment });
    handle.propose(entry(node, stop)).await?;
    Ok(())
}

fn disk_bytes(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            disk_bytes(&path)
        } else {
            entry.metadata().map_or(0, |data| data.len())
        }
    });
    sizes.sum()
}

/// Resident memory of this process, with what the measuring itself takes.
fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    pages.unwrap_or(0_u64) * 4 / 1024
}

fn mib(bytes: u64) -> String {
    format!("{}.{}", bytes >> 20, (bytes >> 10) % 1024 * 10 / 1024)
}

#[tokio::main]
async fn main() -> Done {
    let mut arguments = std::env::args().skip(1);
    let experiments: usize = arguments
        .next()
        .map_or(Ok(1_000_000), |text| text.parse())?;
    let own = tempfile::tempdir()?;
    let root = arguments
        .next()
        .map_or_else(|| own.path().to_owned(), Into::into);
    let node: NodeId = "a".parse()?;
    let handle = open(Config::new(root.clone(), node.clone()), Arc::new(Alone)).await?;
    handle.initialize().await?;
    handle.leader().wait_for(|now| now.is_self).await?;
    let queue = CreateQueue {
        name: QueueName::default(),
        priority: 0,
    };
    handle
        .propose(entry(&node, Command::CreateQueue(queue)))
        .await?;
    println!(
        "ended      | log entries | entries/s | log MiB | snapshot MiB | snapshot ms | archives MiB | resident MiB | longest apply, CPU ms"
    );
    let mut done = 0;
    for step in 1..=STEPS {
        let until = experiments * step / STEPS;
        let begun = Instant::now();
        let entries_before = handle.metrics().last_log_index.0;
        let mut running = futures::stream::iter(done..until)
            .map(|number| submit_and_end(&handle, &node, number))
            .buffer_unordered(WIDTH);
        while let Some(ended) = running.next().await {
            ended?;
        }
        done = until;
        let metrics = handle.metrics();
        let rate = u128::from(metrics.last_log_index.0 - entries_before) * 1_000
            / begun.elapsed().as_millis().max(1);
        let longest = handle.take_longest_apply();
        println!(
            "{done:>10} | {:>11} | {rate:>9} | {:>7} | {:>12} | {:>11} | {:>12} | {:>12} | {:.1}",
            metrics.last_log_index.0,
            mib(disk_bytes(&root.join("log"))),
            mib(metrics.snapshot_bytes),
            metrics.snapshot_micros / 1_000,
            mib(disk_bytes(&root.join("archives"))),
            resident_mib(),
            longest.as_secs_f64() * 1_000.0,
        );
    }
    let hash = handle.state().state_hash();
    handle.shutdown().await;
    let begun = Instant::now();
    let handle = open(Config::new(root, node), Arc::new(Alone)).await?;
    handle.read_index(Duration::from_mins(1)).await?;
    println!(
        "reopened and readable in {} ms; the state is {}",
        begun.elapsed().as_millis(),
        if handle.state().state_hash() == hash {
            "the same, to the byte"
        } else {
            "that of one more leader entry"
        }
    );
    handle.shutdown().await;
    Ok(())
}
