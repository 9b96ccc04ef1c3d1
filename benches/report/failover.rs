//! SIGKILL of the leader to the next acknowledged submit at another node, beside etcd's.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::arguments::Arguments;
use crate::etcd::{self, Etcd};
use crate::figures::Samples;
use crate::muster::{self, Cluster, fresh_key};
use crate::table::{Row, Table, load_average, say};

/// Pause before a refused submit is sent again: at once, but not in a busy loop.
const RETRY: Duration = Duration::from_millis(5);
/// Time between two overlapping puts, so that one that is lost with the old leader hides nothing.
const OVERLAP: Duration = Duration::from_millis(10);
/// Time for one of etcd's overlapping puts.
const PUT_PATIENCE: Duration = Duration::from_millis(500);
/// Longest wait for the next leader.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rest between a cluster that is whole again and the next kill.
const REST: Duration = Duration::from_secs(1);
/// Flags that bring etcd near the times of our own `lan` profile.
const FAST: [&str; 4] = ["--heartbeat-interval", "100", "--election-timeout", "500"];

pub(crate) async fn measure(
    arguments: &Arguments,
    voters: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    say(&format!(
        "failover, {voters} voters: SIGKILL of the leader to the next acknowledged submit at one of the other nodes"
    ));
    let mut cluster = Cluster::start(voters).await?;
    let mut peers = Vec::new();
    if let Some(program) = arguments.etcd() {
        peers.push(("etcd", Etcd::start(program, &[]).await?));
        peers.push(("etcd 100/500", Etcd::start(program, &FAST).await?));
    }
    let mut our_ms = Vec::new();
    let mut their_ms = vec![Vec::new(); peers.len()];
    for kill in 1..=arguments.kills {
        let took = kill_ours(&mut cluster).await?;
        our_ms.push(took);
        let mut line = format!("  kill {kill:2}: muster {took:6.0} ms");
        for ((name, etcd), their_ms) in peers.iter_mut().zip(&mut their_ms) {
            let took = kill_theirs(etcd).await?;
            their_ms.push(took);
            line.push_str(&format!("  {name} {took:6.0} ms"));
        }
        say(&format!("{line}  load {}", load_average()));
    }
    let our_ms = Samples::new(our_ms);
    for ((name, _), their_ms) in peers.iter().zip(their_ms) {
        let their_ms = Samples::new(their_ms);
        add(
            table,
            voters,
            "median",
            our_ms.median(),
            Some((name, their_ms.median())),
        );
        add(
            table,
            voters,
            "worst",
            our_ms.worst(),
            Some((name, their_ms.worst())),
        );
    }
    if peers.is_empty() {
        add(table, voters, "median", our_ms.median(), None);
        add(table, voters, "worst", our_ms.worst(), None);
    }
    if arguments.keep {
        say(&format!("  kept: {}", cluster.keep().display()));
    }
    Ok(())
}

fn add(table: &mut Table, voters: usize, what: &str, ours: f64, peer: Option<(&'static str, f64)>) {
    table.add(Row {
        figure: format!("leader killed to next submit, {voters} voters: {what} (ms)"),
        ours,
        peer,
        target: if what == "median" {
            "<= 1000 ms"
        } else {
            "<= 1600 ms"
        },
    });
}

/// One submit, under one key, at both survivors, from the kill on.
async fn kill_ours(cluster: &mut Cluster) -> anyhow::Result<f64> {
    cluster.wait_until_whole().await?;
    cluster.warm_source().await?;
    tokio::time::sleep(REST).await;
    let leader = cluster.leader().await?;
    let mut clients = Vec::new();
    for node in cluster.others(leader) {
        clients.push(cluster.client(node).await?);
    }
    let (body, key) = (cluster.unplaceable(), fresh_key("failover"));
    let mut tries = JoinSet::new();
    let killed = Instant::now();
    cluster.kill(leader)?;
    for client in clients {
        let (body, key) = (body.clone(), key.clone());
        tries.spawn(async move { submit_until_acknowledged(client, &body, &key).await });
    }
    let first = tokio::time::timeout(PATIENCE, tries.join_next());
    first
        .await
        .context("no submit was acknowledged any more")?
        .context("nobody submits")??;
    let took = killed.elapsed();
    cluster.restart(leader).await?;
    Ok(took.as_secs_f64() * 1_000.0)
}

async fn submit_until_acknowledged(mut client: muster::Client, body: &bytes::Bytes, key: &str) {
    while client.submit(body, key).await.is_err() {
        tokio::time::sleep(RETRY).await;
    }
}

async fn kill_theirs(etcd: &mut Etcd) -> anyhow::Result<f64> {
    etcd.wait_until_whole().await?;
    tokio::time::sleep(REST).await;
    let leader = etcd.leader().await?;
    let mut clients = Vec::new();
    for member in etcd.others(leader) {
        clients.push(etcd.client(member).await?);
    }
    let mut tries = JoinSet::new();
    let killed = Instant::now();
    etcd.kill(leader)?;
    for client in clients {
        tries.spawn(put_until_acknowledged(client));
    }
    let first = tokio::time::timeout(PATIENCE, tries.join_next());
    first
        .await
        .context("no put was acknowledged any more")?
        .context("nobody puts")??;
    let took = killed.elapsed();
    etcd.restart(leader).await?;
    Ok(took.as_secs_f64() * 1_000.0)
}

/// Puts overlap: one that the old leader took along would otherwise be waited for until its time-out.
async fn put_until_acknowledged(client: etcd::Client) {
    let mut puts = JoinSet::new();
    loop {
        let mut client = client.clone();
        puts.spawn(async move {
            let put = client.put("failover");
            matches!(tokio::time::timeout(PUT_PATIENCE, put).await, Ok(Ok(())))
        });
        let pause = tokio::time::sleep(OVERLAP);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                put = puts.join_next(), if !puts.is_empty() => if matches!(put, Some(Ok(true))) { return },
                () = &mut pause => break,
            }
        }
    }
}
