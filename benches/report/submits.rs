//! Durable submits per second at the leader, beside etcd's puts; what they leave on disk.

use crate::arguments::Arguments;
use crate::etcd::Etcd;
use crate::figures::{Samples, mebibytes, number};
use crate::load::{self, Run, Writer};
use crate::muster::Cluster;
use crate::process::Server;
use crate::table::{Row, Table, load_average, say};

/// Submits for which the disk is given.
const DISK_PER: f64 = 10_000.0;

pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) -> anyhow::Result<()> {
    say(
        "submits: experiments that cannot be placed, source tree stored, by REST over TCP keep-alive, to the leader of three",
    );
    let mut cluster = Cluster::start(3).await?;
    let etcd = match arguments.etcd() {
        Some(program) => Some(Etcd::start(program, &[]).await?),
        None => None,
    };
    let before = (cluster.disk_bytes(), etcd.as_ref().map(Etcd::disk_bytes));
    let term = cluster.term().await?;
    let (mut submits, mut puts) = (0, 0);
    for &clients in &arguments.clients {
        let mut runs = (Vec::new(), Vec::new());
        for _ in 0..arguments.reps {
            let writers = cluster.writers(cluster.leader().await?, clients).await?;
            runs.0
                .push(one("muster", writers, cluster.servers().collect(), arguments).await);
            if let Some(etcd) = &etcd {
                let count = u32::try_from(clients)?;
                let writers = etcd.writers(etcd.leader().await?, count).await?;
                runs.1
                    .push(one("etcd", writers, etcd.servers().collect(), arguments).await);
            }
        }
        submits += runs.0.iter().map(|run| run.writes).sum::<usize>();
        puts += runs.1.iter().map(|run| run.writes).sum::<usize>();
        add_rows(table, clients, &runs.0, &runs.1);
    }
    let resident = cluster.servers().map(|one| one.memory().resident_bytes);
    say(&format!(
        "  {submits} experiments wait: {:.0} MiB resident at most; {} elections meanwhile",
        mebibytes(resident.max().unwrap_or(0)),
        cluster.term().await? - term,
    ));
    let grown = |before: u64, after: u64, writes: usize| {
        mebibytes(after.saturating_sub(before)) / number(writes) * DISK_PER
    };
    let peer = etcd.as_ref().zip(before.1);
    table.add(Row {
        figure: format!(
            "disk per 10,000 submits, 3 nodes (MiB, after {submits} submits, {puts} puts)"
        ),
        ours: grown(before.0, cluster.disk_bytes(), submits),
        peer: peer.map(|(etcd, before)| ("etcd", grown(before, etcd.disk_bytes(), puts))),
        target: "",
    });
    if arguments.keep {
        say(&format!("  kept: {}", cluster.keep().display()));
    }
    Ok(())
}

async fn one<W: Writer>(
    who: &str,
    writers: Vec<W>,
    servers: Vec<&Server>,
    arguments: &Arguments,
) -> Run {
    let clients = writers.len();
    let cpu = || -> f64 { servers.iter().map(|server| server.cpu_seconds()).sum() };
    let before = cpu();
    let run = load::run(writers, arguments.run_time()).await;
    let microseconds = (cpu() - before) / number(run.writes.max(1)) * 1e6;
    say(&format!(
        "  {who:6} {clients:3} clients: {:6.0}/s  p50 {:6.2} ms  p99 {:6.2} ms  worst {:6.1} ms  cpu of 3 {microseconds:4.0} us each  errors {}{}  load {}",
        run.per_second,
        run.latencies_ms.median(),
        run.latencies_ms.percentile(99),
        run.latencies_ms.worst(),
        run.errors,
        if run.errors > 0 {
            format!(" ({})", run.last_error)
        } else {
            String::new()
        },
        load_average(),
    ));
    run
}

fn add_rows(table: &mut Table, clients: usize, ours: &[Run], theirs: &[Run]) {
    let middle =
        |runs: &[Run], of: fn(&Run) -> f64| Samples::new(runs.iter().map(of).collect()).median();
    let mut add = |what: &str, of: fn(&Run) -> f64, target| {
        table.add(Row {
            figure: format!("submits, {clients} clients: {what}"),
            ours: middle(ours, of),
            peer: (!theirs.is_empty()).then(|| ("etcd put", middle(theirs, of))),
            target,
        });
    };
    add("per second", |run| run.per_second, ">= 0.6 x");
    add("p50 (ms)", |run| run.latencies_ms.median(), "");
    add("p99 (ms)", |run| run.latencies_ms.percentile(99), "");
}
