//! Submit to process start on an idle cluster, beside `HyperQueue`. The process itself writes down when it started.

use std::time::Duration;

use anyhow::Context as _;

use crate::arguments::Arguments;
use crate::figures::{Samples, number};
use crate::hyperqueue::HyperQueue;
use crate::muster::{Cluster, fresh_key};
use crate::stamp::{self, Stamps};
use crate::table::{Row, Table, load_average, say};

/// Rest between two starts: an idle cluster is asked for.
const PAUSE: Duration = Duration::from_millis(100);
/// Starts that are not counted.
const WARM_UP: usize = 5;

pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) -> anyhow::Result<()> {
    say("start: submit to process start, one at a time on an idle cluster, source tree warm");
    let directory = tempfile::tempdir().context("make a directory")?;
    let mut cluster = Cluster::start(3).await?;
    let own = Stamps::create(directory.path().join("muster.stamps"))?;
    let peers = Stamps::create(directory.path().join("hyperqueue.stamps"))?;
    let mut peer = match arguments.hq_python() {
        Some(python) => Some(HyperQueue::start(python, directory.path(), &peers.file).await?),
        None => None,
    };
    if let Some(peer) = &peer {
        say(&format!("  peer: hyperqueue {}", peer.version));
    }
    ours(&cluster, &own, WARM_UP).await?;
    if let Some(peer) = &mut peer {
        theirs(peer, &peers, WARM_UP).await?;
    }
    let (mut our_ms, mut their_ms) = (Vec::new(), Vec::new());
    for _ in 0..arguments.reps {
        our_ms.extend(shown(
            "muster",
            ours(&cluster, &own, arguments.starts).await?,
        ));
        if let Some(peer) = &mut peer {
            let run = theirs(peer, &peers, arguments.starts).await?;
            their_ms.extend(shown("hyperq", run));
        }
    }
    let (our_ms, their_ms) = (Samples::new(our_ms), Samples::new(their_ms));
    for (percent, target) in [(0, ""), (50, "<= 1 x"), (99, "")] {
        table.add(Row {
            figure: format!("submit to start: p{percent} (ms)"),
            ours: our_ms.percentile(percent),
            peer: peer
                .as_ref()
                .map(|_| ("hyperqueue", their_ms.percentile(percent))),
            target,
        });
    }
    if arguments.keep {
        say(&format!("  kept: {}", cluster.keep().display()));
    }
    Ok(())
}

fn shown(who: &str, run: Vec<f64>) -> Vec<f64> {
    let samples = Samples::new(run.clone());
    say(&format!(
        "  {who:6} {} starts: best {:.2}  p50 {:.2}  p99 {:.2} ms  load {}",
        samples.count(),
        samples.best(),
        samples.median(),
        samples.percentile(99),
        load_average(),
    ));
    run
}

async fn ours(cluster: &Cluster, stamps: &Stamps, count: usize) -> anyhow::Result<Vec<f64>> {
    let program = std::env::current_exe().context("find the path of this program")?;
    let path = |path: &std::path::Path| path.to_str().map(str::to_owned);
    let command = [
        path(&program),
        Some(stamp::FLAG.to_owned()),
        path(&stamps.file),
    ];
    let command: Option<Vec<_>> = command.into_iter().collect();
    let body = cluster.submission("stamp", &command.context("a path is no text")?, 1_000);
    let mut client = cluster.client(cluster.leader().await?).await?;
    let mut latencies_ms = Vec::with_capacity(count);
    let mut answers_ms = Vec::with_capacity(count);
    for _ in 0..count {
        let number = stamps.count()?;
        let key = fresh_key("start");
        let began = stamp::now_ns();
        client.submit(&body, &key).await?;
        answers_ms.push(milliseconds(began, stamp::now_ns()));
        let started = stamps.wait_for(number).await?;
        latencies_ms.push(milliseconds(began, started));
        tokio::time::sleep(PAUSE).await;
    }
    let answered = Samples::new(answers_ms).median();
    say(&format!(
        "  muster: submits acknowledged after {answered:.2} ms (p50)"
    ));
    Ok(latencies_ms)
}

async fn theirs(peer: &mut HyperQueue, stamps: &Stamps, count: usize) -> anyhow::Result<Vec<f64>> {
    let mut latencies_ms = Vec::with_capacity(count);
    for _ in 0..count {
        let number = stamps.count()?;
        let began = peer.submit().await?;
        let started = stamps.wait_for(number).await?;
        latencies_ms.push(milliseconds(began, started));
        tokio::time::sleep(PAUSE).await;
    }
    Ok(latencies_ms)
}

fn milliseconds(from_ns: u64, to_ns: u64) -> f64 {
    let microseconds = to_ns.saturating_sub(from_ns) / 1_000;
    number(usize::try_from(microseconds).unwrap_or(usize::MAX)) / 1_000.0
}
