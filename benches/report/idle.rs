//! Memory and processor time of nodes that have nothing to do, after a little work, beside etcd's.

use std::time::Duration;

use crate::arguments::Arguments;
use crate::etcd::Etcd;
use crate::figures::{Samples, mebibytes};
use crate::load;
use crate::muster::Cluster;
use crate::process::Server;
use crate::table::{Row, Table, load_average, say};

/// Time over which processor time is counted.
const WINDOW: Duration = Duration::from_secs(20);
/// Length of the work before, with four clients.
const WARM_UP: Duration = Duration::from_secs(1);

/// One idle process.
struct Idle {
    resident_mib: f64,
    proportional_mib: f64,
    cpu_percent: f64,
}

pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) -> anyhow::Result<()> {
    say(&format!(
        "idle: three nodes after a little work and {} s of rest; processor time over {} s",
        arguments.settle_secs,
        WINDOW.as_secs()
    ));
    let cluster = Cluster::start(3).await?;
    load::run(cluster.writers(cluster.leader().await?, 4).await?, WARM_UP).await;
    let etcd = match arguments.etcd() {
        Some(program) => {
            let etcd = Etcd::start(program, &[]).await?;
            load::run(etcd.writers(etcd.leader().await?, 4).await?, WARM_UP).await;
            Some(etcd)
        }
        None => None,
    };
    tokio::time::sleep(Duration::from_secs(arguments.settle_secs)).await;
    let ours: Vec<&Server> = cluster.servers().collect();
    let theirs: Vec<&Server> = etcd.iter().flat_map(Etcd::servers).collect();
    let before = (cpu(&ours), cpu(&theirs));
    tokio::time::sleep(WINDOW).await;
    let ours = shown("muster", &ours, &before.0);
    let theirs = shown("etcd", &theirs, &before.1);
    let worst =
        |idle: &[Idle], of: fn(&Idle) -> f64| Samples::new(idle.iter().map(of).collect()).worst();
    let mut add = |figure: &str, of: fn(&Idle) -> f64, target| {
        table.add(Row {
            figure: format!("idle node, worst of 3: {figure}"),
            ours: worst(&ours, of),
            peer: (!theirs.is_empty()).then(|| ("etcd", worst(&theirs, of))),
            target,
        });
    };
    add(
        "resident memory (MiB)",
        |idle| idle.resident_mib,
        "<= 40 MiB",
    );
    add("its own part, PSS (MiB)", |idle| idle.proportional_mib, "");
    add("processor (% of a core)", |idle| idle.cpu_percent, "<= 1 %");
    Ok(())
}

fn cpu(servers: &[&Server]) -> Vec<f64> {
    servers.iter().map(|server| server.cpu_seconds()).collect()
}

fn shown(who: &str, servers: &[&Server], before: &[f64]) -> Vec<Idle> {
    let idle = servers.iter().zip(before).map(|(server, before)| {
        let memory = server.memory();
        Idle {
            resident_mib: mebibytes(memory.resident_bytes),
            proportional_mib: mebibytes(memory.proportional_bytes),
            cpu_percent: (server.cpu_seconds() - before) / WINDOW.as_secs_f64() * 100.0,
        }
    });
    let idle: Vec<Idle> = idle.collect();
    for one in &idle {
        say(&format!(
            "  {who:6} RSS {:5.1} MiB  PSS {:5.1} MiB  cpu {:4.2} %  load {}",
            one.resident_mib,
            one.proportional_mib,
            one.cpu_percent,
            load_average(),
        ));
    }
    idle
}
