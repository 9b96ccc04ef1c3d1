//! Long histories: what leaves the hot state is the same on every replica and misses nothing.

use state_machine::{
    ARCHIVE_ENTRIES, ARCHIVE_EXPERIMENTS, ArchiveContent, ArchiveFile, ClusterState, Command,
    LogEntry, Outcome, StopExperiment, SubmitExperiment, decode_archive, verify_chain,
};
use types::{Author, BlobHash, LogIndex, Timestamp, codec};

use crate::samples::{Cluster, found, node, spec};

fn entry(time: u64, command: Command) -> LogEntry {
    LogEntry {
        time: Timestamp(time),
        author: Author::node(node(0)),
        request: None,
        command,
    }
}

/// Submits and stops `count` experiments; returns the archive files and whatever was submitted.
fn long_history(state: &mut ClusterState, count: u64) -> (Vec<ArchiveFile>, usize) {
    let mut files = Vec::new();
    let mut submitted = 0;
    let mut index = state.applied().0;
    for number in 0..count {
        index += 1;
        let submit = SubmitExperiment { spec: spec("x") };
        let submit = entry(number, Command::SubmitExperiment(Box::new(submit)));
        let applied = state.apply(LogIndex(index), &submit);
        files.extend(applied.archives);
        let Outcome::Submitted(experiment) = applied.outcome else {
            unreachable!()
        };
        submitted += 1;
        index += 1;
        let stop = Command::StopExperiment(StopExperiment { experiment });
        files.extend(state.apply(LogIndex(index), &entry(number, stop)).archives);
    }
    (files, submitted)
}

#[test]
fn replicas_seal_the_same_files_and_the_chain_spans_them() {
    let mut state = Cluster::founded().state;
    let mut restored: ClusterState = codec::decode(&codec::encode(&state), usize::MAX).unwrap();
    let count = 2 * ARCHIVE_ENTRIES as u64 + 10;
    let (files, submitted) = long_history(&mut state, count);
    let (others, _) = long_history(&mut restored, count);
    assert_eq!(files, others);
    assert_eq!(state.state_hash(), restored.state_hash());
    let named: Vec<_> = files
        .iter()
        .map(|file| (file.name.as_str(), file.hash))
        .collect();
    assert!(state.archives().all(|archive| named.contains(&archive)));
    assert_eq!(state.archives().count(), files.len());

    let mut ledger_head = [0; 32];
    let mut previous_file = BlobHash::default();
    let (mut entries, mut experiments) = (0, 0);
    for file in &files {
        assert_eq!(BlobHash::of(&file.bytes), file.hash);
        match decode_archive(&file.bytes).unwrap() {
            ArchiveContent::Ledger {
                previous,
                entries: sealed,
            } => {
                assert_eq!(previous, previous_file);
                previous_file = file.hash;
                assert_eq!(sealed.len(), ARCHIVE_ENTRIES);
                ledger_head = verify_chain(ledger_head, &sealed).unwrap();
                entries += sealed.len();
            }
            ArchiveContent::Experiments {
                entries: sealed, ..
            } => {
                assert_eq!(sealed.len(), file.experiments.len());
                assert!(sealed.iter().all(|experiment| !experiment.is_live()));
                experiments += sealed.len();
            }
        }
    }
    ledger_head = verify_chain(ledger_head, state.ledger()).unwrap();
    assert_eq!(
        state.ledger_head(),
        (ledger_head, (entries + state.ledger().count()) as u64)
    );
    assert_eq!(experiments, ARCHIVE_EXPERIMENTS);
    assert_eq!(experiments + state.experiments().count(), submitted);
    state_machine::check_invariants(&state).unwrap();
}

#[test]
fn a_changed_ledger_entry_breaks_the_chain_where_it_is() {
    let state = Cluster::founded().state;
    let mut entries: Vec<_> = state.ledger().cloned().collect();
    entries[1].detail.push('!');
    assert_eq!(verify_chain([0; 32], &entries), Err(entries[1].sequence));
}

/// The stop of the 8,192nd experiment makes the ledger full as well.
#[test]
fn where_both_are_full_a_command_seals_one_file_and_the_next_the_other() {
    let mut cluster = Cluster::default();
    cluster.accept(found());
    let mut state = cluster.state;
    let (before, _) = long_history(&mut state, 8_191);
    assert!(before.iter().all(|file| file.name.starts_with("ledger-")));
    let mut sealed = |command| {
        let index = LogIndex(state.applied().0 + 1);
        let applied = state.apply(index, &entry(9_000, command));
        let names: Vec<_> = applied.archives.into_iter().map(|file| file.name).collect();
        (applied.outcome, names.join(" "))
    };
    let submit = || {
        let submit = SubmitExperiment { spec: spec("x") };
        Command::SubmitExperiment(Box::new(submit))
    };
    let (Outcome::Submitted(experiment), nothing) = sealed(submit()) else {
        unreachable!()
    };
    assert_eq!(nothing, "");
    let (_, first) = sealed(Command::StopExperiment(StopExperiment { experiment }));
    assert_eq!(first, format!("ledger-{:012}", before.len()));
    assert_eq!(sealed(submit()).1, "experiments-000000000000");
    assert_eq!(sealed(submit()).1, "");
}
