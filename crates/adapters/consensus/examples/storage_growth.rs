//! How log, disk, memory and snapshots grow over a million ended experiments in one replica with real fdatasyncs.
//!
//! Each experiment is submitted, placed and started, and ends with a cause and a sealed segment; every tenth fails and
//! runs a second time.
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
use state_machine::{
    AttemptEnd, AttemptReport, Command, CreateQueue, FoundCluster, LogEntry, Outcome, PlaceAttempt,
    RankCapacity, ReportAttempt, SubmitExperiment,
};
use types::{
    AttemptToken, Author, BlobHash, Cause, CauseKind, ClusterId, DurationMs, Environment,
    ExperimentId, ExperimentSpec, LogIndex, NodeFacts, NodeId, Policy, QueueName, RankPlacement,
    ResourceRequest, Resources, SegmentRef, SegmentSummary, SourceTreeRef, Timestamp,
};

type Done<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Proposals under way at a time.
const WIDTH: usize = 256;
/// Lines of the report.
const STEPS: usize = 10;
/// Longest time for which applying may hold up what comes next.
const TARGET_MS: u32 = 10;
/// One experiment in so many fails the first time.
const FAILS_ONE_IN: usize = 10;

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

fn spec(number: usize) -> ExperimentSpec {
    ExperimentSpec {
        name: format!("sweep-{number}"),
        command: ["python3", "train.py", "--lr", "0.05"]
            .map(str::to_owned)
            .to_vec(),
        source: Some(SourceTreeRef {
            tree: BlobHash::of(&(number / 1_000).to_le_bytes()),
            files: 40,
            bytes: 200_000,
            revision: "0123456789abcdef0123456789abcdef01234567+".to_owned(),
            remote: "https://example.org/team/training.git".to_owned(),
        }),
        working_directory: "src".to_owned(),
        variables: vec![("OMP_NUM_THREADS".to_owned(), "4".to_owned())],
        environment: Environment::Host,
        parameters: vec![("lr".to_owned(), "0.05".to_owned())],
        resources: ResourceRequest::default(),
        learned: Vec::new(),
        prefer_nodes: Vec::new(),
        queue: QueueName::default(),
        policy: Policy {
            retries_failed: 1,
            ..Policy::default()
        },
        outputs: types::Outputs::default(),
        origin: None,
    }
}

/// One core and 1 GiB of the one node, which has far more.
fn place(node: &NodeId, experiment: ExperimentId, attempt: u32) -> Command {
    let resources = |share: u64| Resources {
        cpu_milli: 1_000 * share,
        memory_bytes: share << 30,
        disk_bytes: 0,
        gpus: Vec::new(),
    };
    let rank = RankPlacement {
        node: node.clone(),
        resources: resources(1),
    };
    let capacity = RankCapacity {
        node_started_at: Timestamp(1),
        total: resources(1_024),
    };
    Command::PlaceAttempt(PlaceAttempt {
        experiment,
        attempt,
        computed_at: LogIndex(1),
        ranks: vec![(rank, capacity)],
        mirror: None,
        lease_ms: DurationMs::from_secs(5),
        reason: "best fit: 1 of 1 nodes has 1 cpus and 1 GiB left".to_owned(),
    })
}

fn end(node: &NodeId, number: usize, kind: CauseKind) -> AttemptReport {
    let evidence = vec!["wait status of process 4711, seen by its holder".to_owned()];
    AttemptReport::Ended {
        end: AttemptEnd {
            cause: Cause::new(kind, evidence),
            at: Timestamp(1_700_000_000_000),
            peak_memory_bytes: 700 << 20,
            peak_vram_bytes: 0,
            cpu_ms: DurationMs::from_secs(600),
            tree_kill_method: String::new(),
            outputs: None,
        },
        segments: vec![SegmentRef {
            rank: 0,
            hash: BlobHash::of(&number.to_le_bytes()),
            summary: SegmentSummary {
                first_sequence: 0,
                end_sequence: 4_000,
                bytes: 300_000,
                first_at: Timestamp(1_700_000_000_000),
                last_at: Timestamp(1_700_000_600_000),
            },
            copies: vec![node.clone()],
        }],
        inline_records: Bytes::new(),
    }
}

async fn report(
    handle: &Handle,
    node: &NodeId,
    token: AttemptToken,
    report: AttemptReport,
) -> Done {
    let report = ReportAttempt {
        token,
        node: node.clone(),
        rank: 0,
        report,
    };
    let command = Command::ReportAttempt(Box::new(report));
    match handle.propose(entry(node, command)).await?.outcome {
        Outcome::Done => Ok(()),
        other => Err(format!("a report was refused: {other:?}").into()),
    }
}

/// One experiment from its submit to its end.
async fn submit_and_end(handle: &Handle, node: &NodeId, number: usize) -> Done {
    let submit = SubmitExperiment { spec: spec(number) };
    let submit = Command::SubmitExperiment(Box::new(submit));
    let Outcome::Submitted(experiment) = handle.propose(entry(node, submit)).await?.outcome else {
        return Err("a submit was refused".into());
    };
    let kinds = if number.is_multiple_of(FAILS_ONE_IN) {
        &[CauseKind::ExitCode(1), CauseKind::Finished][..]
    } else {
        &[CauseKind::Finished]
    };
    for (attempt, kind) in (1..).zip(kinds) {
        let place = place(node, experiment, attempt);
        let Outcome::Placed(token) = handle.propose(entry(node, place)).await?.outcome else {
            return Err("a placement was refused".into());
        };
        let at = Timestamp(1_700_000_000_000);
        report(handle, node, token, AttemptReport::Started { at }).await?;
        report(handle, node, token, end(node, number, kind.clone())).await?;
    }
    Ok(())
}

/// What a leader proposes first.
async fn found(handle: &Handle, node: &NodeId) -> Done {
    handle.initialize().await?;
    handle.leader().wait_for(|now| now.is_self).await?;
    let found = FoundCluster {
        cluster: ClusterId([1; 32]),
        public_key: vec![1],
        founder: node.clone(),
        facts: NodeFacts {
            name: "a".to_owned(),
            version: "0.1.0".to_owned(),
            control_addresses: Vec::new(),
            bulk_addresses: Vec::new(),
            takes_work: true,
            may_vote: true,
            keeps_blobs: true,
            labels: Vec::new(),
        },
        timing: "lan".to_owned(),
    };
    let queue = CreateQueue {
        name: QueueName::default(),
        priority: 0,
    };
    for command in [Command::FoundCluster(found), Command::CreateQueue(queue)] {
        handle.propose(entry(node, command)).await?;
    }
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

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1_000.0)
}

/// Sizes at one time, in bytes.
struct Sizes {
    entries: u64,
    log: u64,
    snapshot: u64,
    archives: u64,
    all: u64,
}

impl Sizes {
    fn now(handle: &Handle, root: &Path) -> Self {
        let metrics = handle.metrics();
        Self {
            entries: metrics.last_log_index.0,
            log: disk_bytes(&root.join("log")),
            snapshot: metrics.snapshot_bytes,
            archives: disk_bytes(&root.join("archives")),
            all: disk_bytes(root),
        }
    }

    /// Growth since `before`, for a million entries.
    fn print_growth(&self, before: &Self) {
        let entries = i128::from((self.entries - before.entries).max(1));
        let grown = |now: u64, before: u64| {
            let bytes = (i128::from(now) - i128::from(before)) * 1_000_000 / entries;
            let sign = if bytes < 0 { '-' } else { '+' };
            let size = u64::try_from(bytes.unsigned_abs()).unwrap_or(u64::MAX);
            format!("{sign}{} MiB", mib(size))
        };
        println!(
            "per million entries: log {}, snapshot {}, archives {}, disk in all {}",
            grown(self.log, before.log),
            grown(self.snapshot, before.snapshot),
            grown(self.archives, before.archives),
            grown(self.all, before.all),
        );
    }
}

/// Runs all experiments and prints a line for each tenth of them.
async fn measure(handle: &Handle, node: &NodeId, experiments: usize, root: &Path) -> Done {
    println!(
        "ended      | log entries | entries/s | log MiB | snapshot MiB | snapshot ms | archives MiB | resident MiB | \
         longest apply, target {TARGET_MS} ms: CPU, wall | CPU over target"
    );
    let mut done = 0;
    let mut first: Option<Sizes> = None;
    for step in 1..=STEPS {
        let until = experiments * step / STEPS;
        let begun = Instant::now();
        let entries_before = handle.metrics().last_log_index.0;
        let mut running = futures::stream::iter(done..until)
            .map(|number| submit_and_end(handle, node, number))
            .buffer_unordered(WIDTH);
        while let Some(ended) = running.next().await {
            ended?;
        }
        done = until;
        let sizes = Sizes::now(handle, root);
        let rate =
            u128::from(sizes.entries - entries_before) * 1_000 / begun.elapsed().as_millis().max(1);
        let stalls = handle.take_apply_stalls();
        println!(
            "{done:>10} | {:>11} | {rate:>9} | {:>7} | {:>12} | {:>11} | {:>12} | {:>12} | {:>27}, {:>4} | {} of {}",
            sizes.entries,
            mib(sizes.log),
            mib(sizes.snapshot),
            handle.metrics().snapshot_micros / 1_000,
            mib(sizes.archives),
            resident_mib(),
            ms(stalls.processor),
            ms(stalls.wall),
            stalls.over_target,
            stalls.count,
        );
        // What is hot fills up first: growth counts from there.
        match &first {
            None => first = Some(sizes),
            Some(before) if step == STEPS => sizes.print_growth(before),
            Some(_) => {}
        }
    }
    Ok(())
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
    found(&handle, &node).await?;
    measure(&handle, &node, experiments, &root).await?;
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
