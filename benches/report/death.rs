//! The end of a machine that runs an experiment to the experiment's placement on another machine.
//!
//! A machine takes all its processes along: the node, the holder and the experiment are killed. Which machine runs the
//! experiment is the scheduler's choice; the lines say when it was the leader's.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::time::Instant;

use crate::arguments::Arguments;
use crate::figures::Samples;
use crate::muster::{Cluster, fresh_key};
use crate::table::{Row, Table, load_average, say};

/// Time between two looks at the experiment.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait for a placement.
const PATIENCE: Duration = Duration::from_secs(60);
/// What runs on a machine with an experiment: the node, the holder and the experiment.
const LEAST_PROCESSES: usize = 3;

pub(crate) async fn measure(
    arguments: &Arguments,
    voters: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    say(&format!(
        "death, {voters} voters: the end of a machine to the placement of its experiment (lease 5 s) on another"
    ));
    let mut cluster = Cluster::start(voters).await?;
    let mut took_ms = Vec::new();
    for kill in 1..=arguments.kills {
        cluster.wait_until_whole().await?;
        let death = kill_runner(&mut cluster).await?;
        took_ms.push(death.took_ms);
        let who = if death.led { "the leader" } else { "another" };
        say(&format!(
            "  kill {kill:2}: {:6.0} ms ({who}, {} processes)  load {}",
            death.took_ms,
            death.processes,
            load_average()
        ));
    }
    let took_ms = Samples::new(took_ms);
    for (what, ours) in [("median", took_ms.median()), ("worst", took_ms.worst())] {
        table.add(Row {
            figure: format!("machine dead to placed again, {voters} voters: {what} (ms)"),
            ours,
            peer: None,
            target: "<= 7000 ms",
        });
    }
    if arguments.keep {
        say(&format!("  kept: {}", cluster.keep().display()));
    }
    Ok(())
}

struct Death {
    took_ms: f64,
    /// Whether the machine led.
    led: bool,
    /// How many processes went with it.
    processes: usize,
}

/// Submits something long, kills the machine that runs it, and says how long it took until it was placed elsewhere, by
/// the cluster's own record.
async fn kill_runner(cluster: &mut Cluster) -> anyhow::Result<Death> {
    let command = ["sleep", "1000"].map(str::to_owned);
    let body = cluster.submission("death", &command, 100);
    let id = cluster
        .client(0)
        .await?
        .submit_for_id(&body, &fresh_key("death"))
        .await?;
    let path = format!("/api/v1/experiments/{id}");
    let running = wait_for(cluster, 0, &path, |detail| {
        !detail["attempts"][0]["started_at"].is_null()
    })
    .await
    .context("it did not start")?;
    let name = running["attempts"][0]["nodes"][0]["name"].clone();
    let name = name.as_str().context("it runs nowhere")?;
    let runner = cluster.number_of(name).context("it runs elsewhere")?;
    let led = cluster.leader().await? == runner;
    let witness = cluster.others(runner)[0];
    let killed = SystemTime::now();
    let processes = cluster.kill_machine(runner).await?;
    if processes < LEAST_PROCESSES {
        bail!("{processes} processes were killed: the experiment outlived its machine");
    }
    let again = wait_for(cluster, witness, &path, |detail| {
        !detail["attempts"][1].is_null()
    })
    .await
    .context("it was not placed again")?;
    let placed_at = again["attempts"][1]["placed_at"].as_u64();
    let placed_at = Duration::from_millis(placed_at.context("no time of placement")?);
    let took = (SystemTime::UNIX_EPOCH + placed_at)
        .duration_since(killed)
        .context("it was placed before the kill")?;
    if again["attempts"][1]["nodes"][0]["name"] == name {
        bail!("it was placed on the dead machine again");
    }
    let stop = format!("{path}/stop");
    cluster.client(witness).await?.post(&stop).await?;
    cluster.restart(runner).await?;
    Ok(Death {
        took_ms: took.as_secs_f64() * 1_000.0,
        led,
        processes,
    })
}

/// Looks until the experiment is so; an election may be under way.
async fn wait_for(
    cluster: &Cluster,
    node: usize,
    path: &str,
    is_so: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    let began = Instant::now();
    loop {
        if let Ok(mut client) = cluster.client(node).await
            && let Ok(detail) = client.get(path).await
            && is_so(&detail)
        {
            return Ok(detail);
        }
        if began.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}
