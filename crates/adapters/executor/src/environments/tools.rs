//! `uv`, which builds environments: the machine's own, or one that the node installs for itself by the machine's pip.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::sync::Mutex;

use super::python::{Python, on_path};
use crate::remove_tree::remove_tree;

/// Longest time for its download: 20 MB.
const PATIENCE: Duration = Duration::from_secs(180);
/// After a failure it is not tried again for so long: pip and venv do as well.
const REST: Duration = Duration::from_secs(600);

/// Finds or installs `uv`, once at a time.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Where tools of the node's own are.
    pub(super) directory: PathBuf,
    failed: Mutex<Option<(Instant, String)>>,
}

impl Tools {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            failed: Mutex::default(),
        }
    }

    fn own_directory(&self) -> PathBuf {
        self.directory.join("uv")
    }

    /// The program.
    ///
    /// # Errors
    /// There is none and it cannot be installed: why.
    pub(super) async fn uv(
        &self,
        python: &Python,
        variables: &[(String, String)],
    ) -> Result<PathBuf, String> {
        let path = variables.iter().rev().find(|(name, _)| name == "PATH");
        if let Some(uv) = path.and_then(|(_, path)| on_path("uv", path)) {
            return Ok(uv);
        }
        let mut failed = self.failed.lock().await;
        let own = self.own_directory();
        let program = own.join("bin/uv");
        if program.is_file() {
            return Ok(program);
        }
        if let Some((at, why)) = &*failed
            && at.elapsed() < REST
        {
            return Err(why.clone());
        }
        match install(python, &own, variables).await {
            Ok(()) => {
                tracing::info!(path = %program.display(), "uv is installed for building environments");
                *failed = None;
                Ok(program)
            }
            Err(why) => {
                tracing::warn!(why, "uv cannot be installed: environments are built by pip");
                *failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }
}

/// Installs into a directory beside and renames it, so that a cut leaves no half of it. A wheel only: nothing of it runs
/// as the node.
async fn install(
    python: &Python,
    own: &Path,
    variables: &[(String, String)],
) -> Result<(), String> {
    let new = own.with_extension("new");
    let text = |error: std::io::Error| error.to_string();
    remove_tree(&new).map_err(text)?;
    std::fs::create_dir_all(&new).map_err(text)?;
    let run = Command::new(&python.executable)
        .args(["-m", "pip", "install", "--disable-pip-version-check"])
        .args(["--no-input", "--no-deps", "--only-binary", ":all:"])
        .args(["--retries", "1", "--timeout", "15", "--quiet", "--target"])
        .arg(&new)
        .arg("uv")
        .env_clear()
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PATIENCE, run).await {
        Ok(run) => run.map_err(text)?,
        Err(_late) => return Err(format!("pip took over {} s", PATIENCE.as_secs())),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().rfind(|line| !line.trim().is_empty());
        return Err(line.unwrap_or("pip failed without a word").to_owned());
    }
    std::fs::rename(&new, own).map_err(text)
}
