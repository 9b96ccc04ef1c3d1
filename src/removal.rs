//! The end of a node that was taken out of its cluster: it stops its work, says why, and does not come back as it was.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::time::Duration;

use anyhow::{Context as _, bail};
use service::Handle;
use types::{Incarnation, LogIndex, WantedSet};

use crate::data_directory::{DataDirectory, write_durably};

/// File that is there since this identity was taken out; it holds the words for people.
pub(crate) const REMOVED_MARK: &str = "removed";
/// What a person can do about it.
const REMEDY: &str = "`muster up --rejoin <token>` joins this machine again under a new identity (`muster token new` on a member prints a token)";
/// Time for what runs here to end: it is killed at once, but a disk may hang.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// Time between two looks whether something still runs.
const LOOK: Duration = Duration::from_millis(50);

/// Refuses to start under an identity that was taken out.
pub(crate) fn check(directory: &DataDirectory) -> anyhow::Result<()> {
    match fs::read_to_string(directory.path(REMOVED_MARK)) {
        Ok(text) => bail!("{}\nhint: {REMEDY}", text.trim()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context("read whether this node was removed"),
    }
}

/// Waits until this node learns that it was taken out; then stops what it runs and remembers it. Always an error.
pub(crate) async fn watch(
    handle: &Handle,
    directory: &DataDirectory,
) -> anyhow::Result<Infallible> {
    let text = handle.removed().await;
    tracing::error!(text, "this node was removed from its cluster");
    write_durably(&directory.path(REMOVED_MARK), text.as_bytes())
        .context("remember that this node was removed")?;
    // Nothing is wanted here any more, by the word of the cluster: newer than whatever a leader said before.
    let nothing = WantedSet {
        incarnation: Incarnation(u64::MAX),
        index: LogIndex(u64::MAX),
        attempts: Vec::new(),
    };
    handle.take_wanted(nothing, true);
    let runs = || {
        let running = handle.executor().running();
        running
            .iter()
            .any(|status| !matches!(status.phase, executor::Phase::Ended(_)))
    };
    let stopped = async {
        while runs() {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(STOP_PATIENCE, stopped).await.is_err() {
        tracing::warn!("something still runs; its holder ends it with its lease");
    }
    bail!("{text}; what ran here was stopped\nhint: {REMEDY}")
}
