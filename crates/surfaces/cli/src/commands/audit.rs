//! `muster audit`.

use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rest::audit::ChainCheck;
use rest::wire::{LedgerEntryView, LedgerHead, LedgerPage};

use crate::audit_file::{AuditFile, AuditWriter};
use crate::client::{encode, parse};
use crate::error::Error;
use crate::output;
use crate::output::amounts::plain;
use crate::retry::while_unavailable;

use super::{READ_WINDOW, Session};

/// What to do with the history.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check the whole history: every hash, and the signatures of the replicas under its end
    Verify {
        /// An exported file; without it, what the node has now. Needs no node
        file: Option<PathBuf>,
    },
    /// Write the whole history to a file that can be checked anywhere
    Export {
        /// Where to; must not exist
        file: PathBuf,
    },
}

/// Options of `muster audit`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only what was done about this experiment: id, the start of one, or a name
    #[arg(long, short)]
    experiment: Option<String>,
    /// Only what was done by this user, node, or user@node
    #[arg(long)]
    by: Option<String>,
    /// Only this action, as `attempt-placed`
    #[arg(long)]
    action: Option<String>,
    /// Only from this time on, as `2026-11-24T12:00Z`, `2026-11-24` or `3h` (ago)
    #[arg(long, value_parser = since)]
    since: Option<u64>,
    /// At most so many entries, the newest
    #[arg(long, default_value_t = 100)]
    limit: u64,
}

impl Arguments {
    /// The file that is to be checked, for which no node is needed.
    pub(super) fn offline(&self) -> Option<&Path> {
        match &self.command {
            Some(Command::Verify { file: Some(file) }) => Some(file),
            _ => None,
        }
    }
}

/// A point in time: a timestamp, a day, or how long ago.
fn since(text: &str) -> Result<u64, String> {
    let ago = text
        .parse::<SignedDuration>()
        .ok()
        .map(|ago| Timestamp::now() - ago);
    let day = || {
        let day = text.parse::<Date>().ok()?;
        Some(day.to_zoned(TimeZone::system()).ok()?.timestamp())
    };
    let at = ago.or_else(|| text.parse().ok()).or_else(day);
    at.and_then(|at: Timestamp| u64::try_from(at.as_millisecond()).ok())
        .ok_or_else(|| {
            "write a time as 2026-11-24T12:00Z, a day as 2026-11-24, or how long ago as 3h or 48h"
                .to_owned()
        })
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    match &arguments.command {
        None => list(arguments, session).await,
        Some(Command::Verify { .. }) => {
            let head = follow(session, |_| Ok(())).await?;
            session
                .terminal
                .print(&output::audit_report(&head, "the history of this cluster"))
        }
        Some(Command::Export { file }) => export(file, session).await,
    }
}

async fn list(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let mut path = format!("/ledger?limit={}", arguments.limit);
    let conditions = [
        ("experiment", arguments.experiment.clone()),
        ("by", arguments.by.clone()),
        ("action", arguments.action.clone()),
        ("since", arguments.since.map(|since| since.to_string())),
    ];
    for (name, value) in conditions {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encode(&value)));
        }
    }
    let text = |entries: &Vec<LedgerEntryView>, look: &_| output::ledger(entries, look);
    session.show(&path, "a ledger", text).await
}

/// Checks a file without any node.
pub(super) fn verify_file(path: &Path) -> Result<String, Error> {
    let mut file = AuditFile::open(path)?;
    let mut check = ChainCheck::default();
    let broken = |broken| Error::LedgerBroken {
        what: path.display().to_string(),
        source: broken,
    };
    while let Some(record) = file.next_record()? {
        check.take(&record).map_err(broken)?;
    }
    let head = file.head()?;
    check.finish(&head).map_err(broken)?;
    Ok(output::audit_report(
        &head,
        &plain(&path.display().to_string()),
    ))
}

async fn export(path: &Path, session: &Session) -> Result<(), Error> {
    let mut writer = AuditWriter::create(path)?;
    let head = follow(session, |page| {
        page.records
            .iter()
            .try_for_each(|record| writer.record(record))
    })
    .await?;
    writer.finish(&head)?;
    session.terminal.note(&format!(
        "{} holds {} records; check it anywhere with `muster audit verify {}`",
        path.display(),
        head.length,
        path.display()
    ));
    Ok(())
}

/// Reads the whole ledger from the node and checks it here; gives every page of it to `take`.
async fn follow(
    session: &Session,
    mut take: impl FnMut(&LedgerPage) -> Result<(), Error>,
) -> Result<LedgerHead, Error> {
    let broken = |broken| Error::LedgerBroken {
        what: "the history at this node".to_owned(),
        source: broken,
    };
    let read = async |path: &str| {
        let get = async || session.client.get(path).await;
        while_unavailable(READ_WINDOW, &session.terminal, get).await
    };
    let head: LedgerHead = parse(&read("/ledger/head").await?, "the head of a ledger")?;
    let mut check = ChainCheck::default();
    while check.length() < head.length {
        let path = format!("/ledger/records?from={}", check.length());
        let mut page: LedgerPage = parse(&read(&path).await?, "ledger records")?;
        // What was done since the head was read belongs to the next check.
        page.records.retain(|record| record.sequence < head.length);
        let before = check.length();
        page.records
            .iter()
            .try_for_each(|record| check.take(record))
            .map_err(broken)?;
        if check.length() == before {
            break;
        }
        take(&page)?;
    }
    check.finish(&head).map_err(broken)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_timestamp_a_day_or_how_long_ago() {
        assert_eq!(since("1970-01-01T00:00:05Z"), Ok(5_000));
        assert!(since("2026-11-24").is_ok());
        let hour = since("1h").unwrap();
        let now = since("0s").unwrap();
        assert!((3_599_000..3_601_000).contains(&(now - hour)));
        assert!(since("yesterday").unwrap_err().contains("3h"));
        assert!(since("1900-01-01T00:00Z").is_err(), "before the epoch");
    }
}
