//! `HyperQueue` with its server and one worker in a Python process, submitting one task for each line it reads.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::stamp;

/// Prints its version, then for each line of input submits a task and prints when it began to.
const SCRIPT: &str = r#"
import importlib.metadata, sys, time
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

program, flag, file = sys.argv[1:4]
with LocalCluster(worker_config=WorkerConfig(cores=2)) as cluster:
    client = cluster.client()
    print("report", importlib.metadata.version("hyperqueue"), flush=True)
    for _ in sys.stdin:
        job = Job()
        job.program([program, flag, file], stdout=None, stderr=None)
        began = time.time_ns()
        client.submit(job)
        print("report", began, flush=True)
"#;
/// What begins the lines of the script, among those that `HyperQueue` prints by itself.
const PREFIX: &str = "report ";

/// A running `HyperQueue`; killed when dropped.
#[derive(Debug)]
pub(crate) struct HyperQueue {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    pub(crate) version: String,
}

impl HyperQueue {
    /// Starts it; its tasks stamp `stamps`.
    pub(crate) async fn start(
        python: &Path,
        directory: &Path,
        stamps: &Path,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("find the path of this program")?;
        let log = std::fs::File::create(directory.join("hyperqueue.log"))?;
        let mut child = Command::new(python)
            .args(["-c", SCRIPT])
            .arg(program)
            .arg(stamp::FLAG)
            .arg(stamps)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("start python")?;
        let input = child.stdin.take().context("no pipe to python")?;
        let output = child.stdout.take().context("no pipe from python")?;
        let mut output = BufReader::new(output).lines();
        let version = next(&mut output).await?;
        Ok(Self {
            _child: child,
            input,
            output,
            version,
        })
    }

    /// Submits one task; returns when the submission began, in nanoseconds since the epoch.
    pub(crate) async fn submit(&mut self) -> anyhow::Result<u64> {
        self.input.write_all(b"go\n").await?;
        self.input.flush().await?;
        next(&mut self.output)
            .await?
            .parse()
            .context("hyperqueue said something else")
    }
}

/// The next line of the script, without what begins it.
async fn next(output: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<String> {
    while let Some(line) = output.next_line().await? {
        if let Some(rest) = line.strip_prefix(PREFIX) {
            return Ok(rest.to_owned());
        }
    }
    anyhow::bail!("hyperqueue has ended; is it installed (pip install hyperqueue)?")
}
