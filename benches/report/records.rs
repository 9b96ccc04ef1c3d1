//! What an experiment says, on its way into records and back: points and bytes a second beside the same program that writes
//! a file, and how long a chart of a million points takes.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::Instant;

use crate::arguments::Arguments;
use crate::figures::Samples;
use crate::muster::{Client, Cluster, fresh_key};
use crate::table::{Row, Table, say};

/// Points of one run.
const POINTS: u32 = 1_000_000;
/// Bytes of console of one run: within what is kept at once, so that all of it is.
const CONSOLE_BYTES: u32 = 60_000_000;
/// Reads of a series, after the first.
const READS: usize = 5;
/// Longest wait for the end of one run.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) -> anyhow::Result<()> {
    say(&format!(
        "records: {POINTS} lines `metric: loss=… step=…`, then {CONSOLE_BYTES} bytes of console, {} times; the peer is the same program that writes to a file",
        arguments.reps
    ));
    let points = format!(
        "awk 'BEGIN {{ for (i = 0; i < {POINTS}; i++) print \"metric: loss=\" 1 / (i + 1) \" step=\" i }}'"
    );
    let console = format!(
        "yes 'epoch 3 batch 1017 of 5000: loss 0.2931, 512 images/s, 3.1 s left' | head -c {CONSOLE_BYTES}"
    );
    let cluster = Cluster::start(3).await?;
    let mut client = cluster.client(cluster.leader().await?).await?;
    let mut last = String::new();
    for (figure, script, amount) in [
        ("points of metrics per second", &points, f64::from(POINTS)),
        (
            "console (MB/s)",
            &console,
            f64::from(CONSOLE_BYTES) / 1_000_000.0,
        ),
    ] {
        let (mut ours, mut peer) = (Vec::new(), Vec::new());
        for _ in 0..arguments.reps {
            let (id, seconds) = ran(&cluster, &mut client, script).await?;
            ours.push(amount / seconds);
            peer.push(amount / into_file(script).await?);
            if figure.starts_with("points") {
                last = id;
            }
        }
        let (ours, peer) = (Samples::new(ours), Samples::new(peer));
        table.add(Row {
            figure: format!("records: {figure}, median"),
            ours: ours.median(),
            peer: Some(("a file", peer.median())),
            target: "",
        });
    }
    read(&mut client, &last, table).await
}

/// Runs it as an experiment; its id, and the seconds from its start to its end, both of the process.
async fn ran(
    cluster: &Cluster,
    client: &mut Client,
    script: &str,
) -> anyhow::Result<(String, f64)> {
    let command = ["sh", "-c", script].map(str::to_owned);
    let body = cluster.submission("records", &command, 1_000);
    let id = client.submit_for_id(&body, &fresh_key("records")).await?;
    let began = Instant::now();
    loop {
        let detail = client.get(&format!("/api/v1/experiments/{id}")).await?;
        if detail["summary"]["ended_at"].is_u64() {
            if detail["summary"]["state"] != "finished" {
                bail!("{id} ended as {}", detail["summary"]["reason"]);
            }
            let attempt = &detail["attempts"][0];
            let at = |name: &str| attempt[name].as_f64().context("no time of the attempt");
            let seconds = (at("ended_at")? - at("started_at")?) / 1_000.0;
            return Ok((id, seconds));
        }
        if began.elapsed() > PATIENCE {
            bail!("{id} did not end within {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same with its output in a file, which is synced at the end; seconds.
async fn into_file(script: &str) -> anyhow::Result<f64> {
    let file = tempfile::NamedTempFile::new().context("make a file")?;
    let began = Instant::now();
    let status = Command::new("sh")
        .args(["-c", script])
        .stdout(Stdio::from(file.reopen()?))
        .status()
        .await?;
    if !status.success() {
        bail!("the peer ended with {status}");
    }
    file.as_file().sync_all()?;
    Ok(began.elapsed().as_secs_f64())
}

/// A chart of all points: the first time, and again.
async fn read(client: &mut Client, id: &str, table: &mut Table) -> anyhow::Result<()> {
    let path = format!("/api/v1/experiments/{id}/metrics/series?name=loss&points=200");
    let mut times = Vec::new();
    for _ in 0..=READS {
        let began = Instant::now();
        let series: Value = client.get(&path).await?;
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
        if series["total"].as_u64() != Some(POINTS.into()) {
            bail!("{} points of {POINTS} were read", series["total"]);
        }
    }
    let again = Samples::new(times.split_off(1));
    for (figure, ours) in [
        ("the first time", times[0]),
        ("again, median", again.median()),
    ] {
        table.add(Row {
            figure: format!("records: chart of {POINTS} points (ms), {figure}"),
            ours,
            ..Row::default()
        });
    }
    Ok(())
}
