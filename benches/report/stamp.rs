//! The smallest task: writes down when its process started.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};

/// `report --stamp FILE`.
pub(crate) const FLAG: &str = "--stamp";
/// Longest wait for a task to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a line: 20 digits and a newline, so that the size of the file counts the lines.
const LINE_BYTES: usize = 21;

/// Appends the time of now to `file`, in nanoseconds since the epoch, as one write.
pub(crate) fn append(file: &Path) -> ExitCode {
    let line = format!("{:020}\n", now_ns());
    let opened = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file);
    match opened.and_then(|mut file| file.write_all(line.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_nobody_reads_it) => ExitCode::FAILURE,
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The file that tasks of one system stamp.
#[derive(Debug)]
pub(crate) struct Stamps {
    pub(crate) file: PathBuf,
}

impl Stamps {
    /// An empty file.
    pub(crate) fn create(file: PathBuf) -> anyhow::Result<Self> {
        std::fs::write(&file, b"").with_context(|| format!("make {}", file.display()))?;
        Ok(Self { file })
    }

    /// How many tasks have started.
    pub(crate) fn count(&self) -> anyhow::Result<usize> {
        let bytes = std::fs::metadata(&self.file)
            .context("look at the stamps")?
            .len();
        Ok(usize::try_from(bytes)? / LINE_BYTES)
    }

    /// Waits for task number `number` (from 0) and returns when it started.
    pub(crate) async fn wait_for(&self, number: usize) -> anyhow::Result<u64> {
        let began = tokio::time::Instant::now();
        while self.count()? <= number {
            if began.elapsed() > PATIENCE {
                bail!("task {number} did not start within {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let text = std::fs::read_to_string(&self.file).context("read the stamps")?;
        let line = text.lines().nth(number).context("a stamp is missing")?;
        line.parse().context("a stamp is no number")
    }
}
