//! The demo's hands: the same command line that a person types, as a child process.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::process::Command;

/// The command line at one node.
#[derive(Clone, Debug)]
pub(super) struct Client {
    program: PathBuf,
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(program: &Path, socket: PathBuf) -> Self {
        Self {
            program: program.to_owned(),
            socket,
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs `muster --json …` in `directory` and reads what it prints.
    pub(super) async fn json(&self, arguments: &[&str], directory: &Path) -> anyhow::Result<Value> {
        let text = self
            .text(&[&["--json"], arguments].concat(), directory)
            .await?;
        serde_json::from_str(&text)
            .with_context(|| format!("muster {} printed no JSON", arguments.join(" ")))
    }

    /// Runs `muster …` and returns its standard output.
    pub(super) async fn text(
        &self,
        arguments: &[&str],
        directory: &Path,
    ) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command
            .arg("--node")
            .arg(&self.socket)
            .args(arguments)
            .current_dir(directory);
        command
            .env_remove("MUSTER_NODE")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let done = command.output().await.context("start muster")?;
        if !done.status.success() {
            bail!(
                "muster {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        String::from_utf8(done.stdout).context("muster printed no text")
    }
}
