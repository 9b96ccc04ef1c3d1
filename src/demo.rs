//! `muster demo`: the whole job on one machine, in front of your eyes, with the same commands that you would type.

mod client;
mod example;
mod steps;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use provisioner::LocalProcess;
use tokio::signal::unix::{SignalKind, signal};

use client::Client;
use steps::Cluster;

/// Longest time for the whole demonstration with `--exit`.
const PATIENCE: Duration = Duration::from_secs(90);

/// Flags of `muster demo`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DemoFlags {
    /// End when the demonstration is over, with 0 or 1, instead of leaving the cluster up.
    #[arg(long)]
    exit: bool,
    /// First of three HTTP ports on 127.0.0.1; default: free ones.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

/// Runs the demonstration.
pub(crate) async fn run(flags: &DemoFlags) -> anyhow::Result<ExitCode> {
    let directory = Directory::make()?;
    let program = std::env::current_exe().context("find the path of this program")?;
    let processes = LocalProcess::new(program.clone(), directory.0.join("nodes"))?;
    processes.kill_on_drop(true);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut cluster = Cluster::new(&directory.0, program, processes, flags.port);
    let shown = tokio::select! {
        shown = tokio::time::timeout(PATIENCE, show(&mut cluster)) => {
            shown.unwrap_or_else(|_late| Err(anyhow::anyhow!("the demonstration took over {} s", PATIENCE.as_secs())))
        }
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("told to end")),
    };
    if let Err(error) = &shown {
        say(&format!("FAILED: {error:#}"))?;
        cluster.show_logs()?;
    } else if !flags.exit {
        say("The cluster stays up. Try the commands above in another terminal; Ctrl-C ends it.")?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    say("stopping the three nodes and removing their directories")?;
    cluster.stop().await;
    Ok(if shown.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The steps, one line each.
async fn show(cluster: &mut Cluster) -> anyhow::Result<()> {
    let began = Instant::now();
    cluster.start_nodes().await?;
    let example = example::write(cluster.directory())?;
    say(&format!(
        "the experiment: {} ({})",
        example.description,
        example.command.join(" ")
    ))?;
    let id = cluster.submit(&example).await?;
    let runner = cluster.wait_until_running(&id).await?;
    cluster.kill_the_leader(&id, &runner).await?;
    cluster.wait_for_the_end(&id, &runner, &example).await?;
    cluster.show_urls()?;
    say(&format!("done in {:.1} s", began.elapsed().as_secs_f64()))
}

/// One line to the person who watches.
fn say(line: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "▸ {line}")
        .and_then(|()| out.flush())
        .context("standard output is closed")
}

/// A directory of this run, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn make() -> anyhow::Result<Self> {
        // Short, since a Unix socket's path has at most 107 bytes.
        let path = std::env::temp_dir().join(format!("muster-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "demo directory not removed");
        }
    }
}

/// Fails with what the condition said last, when it does not come true in time.
async fn until<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let deadline = Instant::now() + limit;
    let mut last = String::new();
    loop {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => last = format!(": {error:#}"),
        }
        if Instant::now() > deadline {
            bail!("waited {} s for {what}{last}", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
