//! Stored bytes do not change: each line of `golden.txt` is a name and what was written under it once.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use state_machine::{ArchiveContent, ClusterState, LogEntry, decode_archive};
use types::{BlobHash, CauseKind, RequestId, codec};

use crate::samples::{Cluster, ended, every_command, log_entry, lose, node, report};

const GOLDEN: &str = include_str!("golden.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden(name: &str) -> Option<Vec<u8>> {
    let (_, hex) = GOLDEN
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(found, _)| *found == name)?;
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("golden.txt holds hex");
    Some((0..hex.len()).step_by(2).map(byte).collect())
}

/// Lines of values whose bytes are not the golden ones.
fn differing<T: Serialize + DeserializeOwned + PartialEq>(name: &str, value: &T) -> Option<String> {
    let bytes = codec::encode(value);
    let known = golden(name);
    let readable = known
        .as_deref()
        .and_then(|bytes| codec::decode::<T>(bytes, usize::MAX).ok());
    let same = known.as_deref() == Some(&bytes[..]) && readable.as_ref() == Some(value);
    (!same).then(|| format!("{name} {}", hex(&bytes)))
}

/// A cluster with something of everything: waiting, running, ended, late.
fn history() -> Cluster {
    let mut cluster = Cluster::founded();
    for (sequence, (_, command)) in (10..).zip(every_command()) {
        let mut entry = log_entry(command);
        entry.request = Some(RequestId {
            session: [2; 16],
            sequence,
        });
        cluster.entry(entry);
    }
    cluster.run(0);
    let lost = cluster.run(0);
    cluster.accept(lose(lost));
    cluster.place_again(lost.experiment, 2, 0);
    cluster.apply(report(lost, node(0), ended(CauseKind::Finished)));
    let finished = cluster.run(0);
    cluster.accept(report(finished, node(0), ended(CauseKind::Finished)));
    cluster
}

#[test]
fn log_entries_keep_their_bytes() {
    let lines: Vec<_> = every_command()
        .into_iter()
        .filter_map(|(name, command)| differing::<LogEntry>(name, &log_entry(command)))
        .collect();
    assert!(
        lines.is_empty(),
        "a released command never changes; append a new one. Bytes now:\n{}",
        lines.join("\n")
    );
}

#[test]
fn snapshot_and_archives_keep_their_bytes() {
    let state = history().state;
    let ledger = ArchiveContent::Ledger {
        previous: BlobHash([1; 32]),
        entries: state.ledger().cloned().collect(),
    };
    let experiments = ArchiveContent::Experiments {
        previous: BlobHash([2; 32]),
        entries: state.experiments().map(Arc::clone).collect(),
    };
    let mut lines: Vec<_> = [
        ("ledger-archive", &ledger),
        ("experiments-archive", &experiments),
    ]
    .into_iter()
    .filter_map(|(name, content)| differing(name, content))
    .collect();
    let bytes = codec::encode(&state);
    if golden("snapshot").as_ref() != Some(&bytes) {
        lines.push(format!("snapshot {}", hex(&bytes)));
    }
    assert!(
        lines.is_empty(),
        "stored bytes changed; append a version. Bytes now:\n{}",
        lines.join("\n")
    );
    assert!(decode_archive(&codec::encode(&ledger)).is_ok());
}

#[test]
fn the_golden_snapshot_restores_and_goes_on() {
    let bytes = golden("snapshot").unwrap();
    let mut restored: ClusterState = codec::decode(&bytes, usize::MAX).unwrap();
    state_machine::check_invariants(&restored).unwrap();
    let mut original = history();
    let entry = log_entry(every_command().swap_remove(6).1);
    let index = types::LogIndex(original.log.len() as u64 + 1);
    let applied = restored.apply(index, &entry);
    assert_eq!(applied, original.entry(entry));
    assert_eq!(restored.state_hash(), original.state.state_hash());
}
