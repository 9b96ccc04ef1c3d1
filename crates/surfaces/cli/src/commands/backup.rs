//! `muster backup`.

use std::path::{Path, PathBuf};

use hyper::Method;
use serde_json::json;
use types::BackupSummary;

use crate::backup_file::{self, BackupFile};
use crate::client::{Payload, Request, next_piece};
use crate::error::Error;
use crate::output::amounts::{bytes, plain};
use crate::retry::while_unavailable;
use crate::terminal::Terminal;

use super::{READ_WINDOW, Session};

/// What to do with a backup.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check a backup from its first byte to its last; needs no node
    Verify {
        /// The backup
        file: PathBuf,
    },
}

/// Options of `muster backup`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where to; must not exist
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// Also all source trees and recorded output
    #[arg(long)]
    with_blobs: bool,
}

impl Arguments {
    /// The file that is to be checked, for which no node is needed.
    pub(super) fn offline(&self) -> Option<&Path> {
        match &self.command {
            Some(Command::Verify { file }) => Some(file),
            None => None,
        }
    }
}

/// Checks a file and says what is in it.
pub(super) fn verify(file: &Path, terminal: &Terminal) -> Result<(), Error> {
    let (summary, file_bytes) = backup_file::verify(file)?;
    report(&summary, file_bytes, file, terminal)
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let Some(file) = &arguments.file else {
        return Ok(()); // `verify` was handled before a node was looked for.
    };
    // Before anybody makes anything: the place must be free and writable.
    let mut writing = BackupFile::create(file)?;
    let path = format!("/backup?blobs={}", arguments.with_blobs);
    let path = session.client.consistent(&path);
    let open = async || {
        let request = Request::new(Method::GET, path.clone(), Payload::empty());
        session.client.open(request).await
    };
    let response = while_unavailable(READ_WINDOW, &session.terminal, open).await?;
    let mut body = response.into_body();
    while let Some(piece) = next_piece(&mut body).await? {
        writing.write(&piece)?;
    }
    let (summary, file_bytes) = writing.finish()?;
    report(&summary, file_bytes, file, &session.terminal)
}

fn report(
    summary: &BackupSummary,
    file_bytes: u64,
    file: &Path,
    terminal: &Terminal,
) -> Result<(), Error> {
    let header = &summary.header;
    let hash = blake3_text(&summary.hash);
    if terminal.json {
        let value = json!({
            "file": file, "cluster": header.cluster.to_string(), "incarnation": header.incarnation.0,
            "index": header.index.0, "made_at": header.made_at.0, "made_by": header.made_by,
            "version": header.program, "with_blobs": header.with_blobs, "archives": summary.archives,
            "blobs": summary.blobs, "missing_blobs": summary.missing_blobs, "bytes": file_bytes, "hash": hash,
        });
        return terminal.print(&format!("{value}\n"));
    }
    let blobs = match (header.with_blobs, summary.missing_blobs) {
        (false, _) => "without blobs".to_owned(),
        (true, 0) => format!("{} blobs", summary.blobs),
        (true, missing) => format!(
            "{} blobs; {missing} are on no machine that answered",
            summary.blobs
        ),
    };
    terminal.print(&format!(
        "{}: whole\ncluster {} incarnation {} up to log index {}, made {} on {}\nstate, {} archives, {blobs}; {} in all\nhash {hash}\n",
        plain(&file.display().to_string()),
        &header.cluster.to_string()[..12],
        header.incarnation.0,
        header.index,
        made_at(header.made_at.0),
        plain(&header.made_by),
        summary.archives,
        bytes(file_bytes),
    ))
}

fn blake3_text(hash: &[u8; 32]) -> String {
    types::BlobHash(*hash).to_string()
}

fn made_at(ms: u64) -> String {
    let at = i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()); // out of any calendar: shown as it is
    at.map_or_else(|| ms.to_string(), |at| format!("{at:.0}"))
}
