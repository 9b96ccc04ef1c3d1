//! Kueue's generator of workloads (kubernetes-sigs/kueue, test/performance/scheduler/configs) against three nodes: durable,
//! with processes that sleep. The nodes declare what all queues have together; a unit is a core that nobody uses.
//!
//! Kueue's cohorts are groups of queues that lend to each other only; three machines are no five groups, so here all
//! queues lend to each other, each up to what it could have in its cohort. Priorities are the published ones, which are
//! three classes here.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::arguments::Arguments;
use crate::figures::number;
use crate::muster::{Client, Cluster, fresh_key};
use crate::process::Server;
use crate::table::{Row, Table, load_average, say};

/// Units of each queue, and those that it may borrow.
const NOMINAL_UNITS: u64 = 20;
const BORROWED_UNITS: u64 = 100;
const NODES: u64 = 3;
/// Connections that submit.
const CLIENTS: usize = 32;
/// Time between two looks at whether all is done.
const LOOK: Duration = Duration::from_millis(100);

/// A published size of the generator.
struct Size {
    name: &'static str,
    queues: u64,
    streams: [Stream; 3],
    published_s: f64,
}

/// Workloads of one kind that come into each queue.
#[derive(Clone, Copy)]
struct Stream {
    count: u64,
    every_ms: u64,
    units: u64,
    runs_ms: u64,
    priority: i32,
}

impl Stream {
    const fn new(count: u64, every_ms: u64, units: u64, runs_ms: u64, priority: i32) -> Self {
        Self {
            count,
            every_ms,
            units,
            runs_ms,
            priority,
        }
    }
}

const SMALL: Size = Size {
    name: "small",
    queues: 5 * 6,
    streams: [
        Stream::new(350, 100, 1, 200, 50),
        Stream::new(100, 500, 5, 500, 100),
        Stream::new(50, 1_200, 20, 1_000, 200),
    ],
    published_s: 351.1,
};
const LARGE: Size = Size {
    name: "large",
    queues: 10 * 100,
    streams: [
        Stream::new(35, 60, 1, 150, 50),
        Stream::new(11, 300, 5, 350, 100),
        Stream::new(4, 700, 20, 700, 200),
    ],
    published_s: 1_179.0,
};

/// A workload on its way.
struct Workload {
    /// After the begin.
    at: Duration,
    body: Bytes,
}

impl Size {
    /// So many of a stream come into each queue when only a part of all does.
    fn count(stream: Stream, part: u64) -> u64 {
        stream.count.div_ceil(part)
    }

    /// No scheduler is done before: all that is asked for over all that there is, or the last to come and its run.
    fn bound_s(&self, part: u64) -> f64 {
        let streams = self.streams.iter();
        let units = streams.map(|one| Self::count(*one, part) * one.units * one.runs_ms);
        let work_ms = units.sum::<u64>() / NOMINAL_UNITS;
        let streams = self.streams.iter();
        let last = streams.map(|one| (Self::count(*one, part) - 1) * one.every_ms + one.runs_ms);
        Duration::from_millis(work_ms.max(last.max().unwrap_or(0))).as_secs_f64()
    }

    /// All workloads, the first to come in front.
    fn workloads(&self, part: u64) -> Vec<Workload> {
        let mut all = Vec::new();
        for stream in self.streams {
            for (number, queue) in (0..Self::count(stream, part))
                .flat_map(|number| (0..self.queues).map(move |queue| (number, queue)))
            {
                let seconds = Duration::from_millis(stream.runs_ms).as_secs_f64();
                let request = json!({
                    "name": "workload",
                    "command": ["sleep", seconds.to_string()],
                    "queue": format!("queue{queue}"),
                    "priority": stream.priority,
                    "stop_grace_ms": 1_000,
                    "resources": { "cpu_milli": stream.units * 1_000, "memory_bytes": 1 << 20 },
                });
                all.push(Workload {
                    at: Duration::from_millis(number * stream.every_ms),
                    body: request.to_string().into(),
                });
            }
        }
        all.sort_by_key(|workload| workload.at);
        all
    }
}

pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) -> anyhow::Result<()> {
    let size = if arguments.kueue_large { LARGE } else { SMALL };
    let part = arguments.kueue_part;
    let cpus = (size.queues * NOMINAL_UNITS).div_ceil(NODES);
    // In quotes, since a variable that looks like a number is one.
    let quoted = format!("\"{cpus}\"");
    let settings = [
        ("MUSTER_RESOURCES__CPUS", quoted.as_str()),
        ("MUSTER_RESOURCES__MEMORY", "1TiB"),
    ];
    let mut cluster = Cluster::start_with(3, &settings).await?;
    make_queues(&mut cluster.client(cluster.leader().await?).await?, &size).await?;
    let workloads = size.workloads(part);
    let count = workloads.len();
    say(&format!(
        "kueue: size {} {} workloads in {} queues on three nodes of {cpus} declared cores, durable, processes that sleep; 1/{part} of the published number",
        size.name, count, size.queues
    ));
    let wall = run(&cluster, workloads).await?;
    let cpu: f64 = cluster.servers().map(Server::cpu_seconds).sum();
    let seconds = wall.as_secs_f64();
    let bound = size.bound_s(part);
    let published = size.published_s / number(usize::try_from(part)?);
    say(&format!(
        "  wall {seconds:.1} s, bound {bound:.1} s ({:.2} x), {:.1} workloads/s; published {published:.1} s for so many at its rate ({:.1}/s); nodes used {cpu:.0} s of processors; load {}",
        seconds / bound,
        number(count) / seconds,
        number(count) / published,
        load_average(),
    ));
    table.add(Row {
        figure: format!("kueue {} 1/{part}: wall (s; bound {bound:.1})", size.name),
        ours: seconds,
        peer: Some(("kueue, published", published)),
        target: "<= 1 x",
    });
    if arguments.keep {
        say(&format!("  kept: {}", cluster.keep().display()));
    }
    Ok(())
}

async fn make_queues(client: &mut Client, size: &Size) -> anyhow::Result<()> {
    let limits = json!({ "limits": {
        "experiments": 0, "cpu_milli": (NOMINAL_UNITS + BORROWED_UNITS) * 1_000, "memory_bytes": 0, "gpu_milli": 0,
    } });
    for queue in 0..size.queues {
        let name = format!("queue{queue}");
        let queue = json!({ "name": name });
        client.post_json("/api/v1/queues", &queue).await?;
        let path = format!("/api/v1/queues/{name}/shape");
        client.post_json(&path, &limits).await?;
    }
    Ok(())
}

/// Submits each when it comes, and waits for the end of all; the time from the first to that.
async fn run(cluster: &Cluster, workloads: Vec<Workload>) -> anyhow::Result<Duration> {
    let before = waiting_and_active(&mut cluster.client(cluster.leader().await?).await?).await?;
    let began = Instant::now();
    let workloads = Arc::new(Mutex::new(workloads.into_iter()));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = cluster.client(cluster.leader().await?).await?;
        let workloads = Arc::clone(&workloads);
        clients.spawn(async move {
            loop {
                let Some(next) = workloads.lock().await.next() else {
                    return anyhow::Ok(());
                };
                sleep_until(began + next.at).await;
                client.submit(&next.body, &fresh_key("kueue")).await?;
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.context("a client of the generator")??;
    }
    say(&format!(
        "  all are submitted after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    // A new connection: the node has closed one that was idle meanwhile.
    let mut looking = cluster.client(cluster.leader().await?).await?;
    while waiting_and_active(&mut looking).await? > before {
        sleep(LOOK).await;
    }
    Ok(began.elapsed())
}

/// Experiments that are not over.
async fn waiting_and_active(client: &mut Client) -> anyhow::Result<u64> {
    let view = client.get("/api/v1/cluster").await?;
    let count = |field: &str| view[field].as_u64().context("no number in the answer");
    Ok(count("waiting")? + count("active")?)
}
