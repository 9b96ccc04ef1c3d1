mod torn;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::RaftLogStorageExt as _;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;
use proptest::prelude::*;
use tempfile::TempDir;
use types::NodeId;

use super::*;
use crate::archives::Archives;
use crate::directory::Layout;
use crate::machine::{Machine, Snapshots, Stores};
use crate::published::Published;
use crate::raft_types::{Proposal, Replica};

fn node() -> NodeId {
    "a".parse().unwrap()
}

fn layout(directory: &TempDir) -> Layout {
    let layout = Layout {
        root: directory.path().to_owned(),
    };
    layout.create().unwrap();
    layout
}

fn open(directory: &TempDir) -> Result<LogStore, Error> {
    open_log(&layout(directory), &node(), Failure::new(), no_reserve())
}

fn no_reserve() -> Reserve {
    Reserve::open(std::path::Path::new("/nowhere"), 0)
}

fn log_id(term: u64, index: u64) -> RaftLogId {
    RaftLogId::new_term_index(term, index)
}

fn entry(term: u64, index: u64, payload: &[u8]) -> RaftEntry {
    let payload = EntryPayload::Normal(Proposal(Bytes::copy_from_slice(payload)));
    RaftEntry {
        log_id: log_id(term, index),
        payload,
    }
}

fn numbered(indexes: std::ops::Range<u64>) -> Vec<RaftEntry> {
    indexes
        .map(|index| entry(1, index, format!("payload {index}").as_bytes()))
        .collect()
}

async fn all(log: &mut LogStore) -> Vec<RaftEntry> {
    log.try_get_log_entries(..).await.unwrap()
}

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), openraft::StorageError<Types>> {
        let directory = tempfile::tempdir().unwrap();
        let log = open(&directory).unwrap();
        let layout = layout(&directory);
        let stores = Stores {
            snapshots: Snapshots::open(&layout).unwrap(),
            archives: Archives::open(&layout).unwrap(),
            published: Arc::new(Published::new()),
            hashes: crate::compare::Hashes::new(1_000).0,
            failure: Failure::new(),
        };
        Ok((directory, log, Machine::new(stores)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_own_storage_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test]
async fn what_was_appended_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory).unwrap();
    let vote = RaftVote::new(3, Replica(node()));
    log.save_vote(&vote).await.unwrap();
    log.blocking_append(numbered(0..50)).await.unwrap();
    log.truncate_after(Some(log_id(1, 39))).await.unwrap();
    log.blocking_append([entry(2, 40, b"after")]).await.unwrap();
    log.purge(log_id(1, 9)).await.unwrap();
    log.save_committed(Some(log_id(2, 40))).await.unwrap();
    let before = all(&mut log).await;
    log.close().await;

    let mut log = open(&directory).unwrap();
    assert_eq!(all(&mut log).await, before);
    assert_eq!(before.len(), 31);
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(2, 40)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(log_id(1, 9)), Some(log_id(2, 40)))
    );
    log.close().await;
}

#[tokio::test]
async fn large_entries_become_rows_and_never_sled_blobs() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory).unwrap();
    let large: Vec<u8> = (0..MAX_ENTRY_BYTES - 64)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let entries: Vec<_> = (0..60)
        .map(|i| {
            entry(
                1,
                i,
                &large[..large.len() / (1 + usize::try_from(i % 7).unwrap())],
            )
        })
        .collect();
    for chunk in entries.chunks(4) {
        log.blocking_append(chunk.to_vec()).await.unwrap();
    }
    log.close().await;
    let mut log = open(&directory).unwrap();
    assert_eq!(all(&mut log).await, entries);
    log.close().await;
    let blobs = std::fs::read_dir(directory.path().join("log/blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
}

#[tokio::test]
async fn old_entries_are_read_back_from_disk_and_reads_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory).unwrap();
    let payload = vec![7; 10_000];
    let entries: Vec<_> = (0..600).map(|i| entry(1, i, &payload)).collect();
    for chunk in entries.chunks(50) {
        log.blocking_append(chunk.to_vec()).await.unwrap();
    }
    assert!(
        log.shared.view().tail_first() > 300,
        "the tail must have been shortened"
    );
    assert_eq!(all(&mut log).await, entries);
    let some = log.limited_get_log_entries(0, 600).await.unwrap();
    assert!((100..=110).contains(&some.len()), "{}", some.len());
    let young = log.limited_get_log_entries(450, 600).await.unwrap();
    assert_eq!(young[0], entries[450]);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_appends_share_one_commit() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory).unwrap();
    let mut waiting = Vec::new();
    for index in 0..500 {
        let (done, flushed) = Types::oneshot();
        log.append(numbered(index..index + 1), IOFlushed::signal(done))
            .await
            .unwrap();
        waiting.push(flushed);
    }
    for flushed in waiting {
        flushed.await.unwrap().unwrap();
    }
    let commits = log.counters().commits.load(Ordering::Relaxed);
    assert_eq!(log.counters().appends.load(Ordering::Relaxed), 500);
    assert!(commits < 250, "500 appends took {commits} commits");
    log.close().await;
}

#[tokio::test]
async fn after_one_failed_sync_nothing_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let failure = Failure::new();
    let mut log = open_log(&layout(&directory), &node(), failure.clone(), no_reserve()).unwrap();
    log.blocking_append(numbered(0..3)).await.unwrap();
    log.fail_next_sync();
    assert!(log.blocking_append(numbered(3..4)).await.is_err());
    assert!(
        log.blocking_append(numbered(4..5)).await.is_err(),
        "the fault was only once, but it is final"
    );
    assert!(
        log.save_vote(&RaftVote::new(9, Replica(node())))
            .await
            .is_err()
    );
    let why = failure.why().unwrap();
    assert!(
        why.contains("cannot sync") && why.contains("db") && why.contains("injected"),
        "{why}"
    );
    log.close().await;
}

#[tokio::test]
async fn a_checksum_that_fails_while_the_node_runs_stops_it_with_file_key_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let failure = Failure::new();
    let mut log = open_log(&layout(&directory), &node(), failure.clone(), no_reserve()).unwrap();
    let payload = vec![7; 10_000];
    for first in (0..600).step_by(50) {
        let entries = (first..first + 50).map(|i| entry(1, i, &payload));
        log.blocking_append(entries).await.unwrap();
    }
    assert!(
        log.shared.view().tail_first() > 5,
        "entry 5 is read from disk"
    );
    // Memory between sled and us turns a bit: sled itself is content.
    let tree = log.shared.trees().unwrap().raft;
    let key = record::first_key(5);
    let mut row = tree.get(key).unwrap().unwrap().to_vec();
    row[100] ^= 1;
    tree.insert(key, row).unwrap();
    drop(tree);
    log.limited_get_log_entries(0, 600).await.unwrap_err();
    let why = failure.why().unwrap();
    assert!(
        why.contains("log/db") && why.contains("log entry 5") && why.contains("--rejoin"),
        "{why}"
    );
    assert!(
        log.blocking_append([entry(1, 600, b"after")])
            .await
            .is_err()
    );
    log.close().await;
}

#[tokio::test]
async fn another_nodes_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(&directory).unwrap().close().await;
    let Err(error) = open_log(
        &layout(&directory),
        &"b".parse().unwrap(),
        Failure::new(),
        no_reserve(),
    ) else {
        panic!("opened")
    };
    assert!(matches!(error, Error::OtherNode { .. }), "{error}");
}

/// Makes a log of 200 entries and closes it.
async fn used_log() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory).unwrap();
    log.save_vote(&RaftVote::new(1, Replica(node())))
        .await
        .unwrap();
    for index in 0..20 {
        log.blocking_append(numbered(index * 10..index * 10 + 10))
            .await
            .unwrap();
    }
    log.close().await;
    directory
}

/// Changes sled's contents behind the log's back.
fn tamper(directory: &TempDir, change: impl FnOnce(&Tree)) {
    let db = opening::open_sled(&directory.path().join("log")).unwrap();
    change(&db.open_tree("raft").unwrap());
    db.flush().unwrap();
}

fn refusal(directory: &TempDir) -> String {
    let Err(error) = open(directory) else {
        panic!("a damaged log was opened")
    };
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    error.to_string()
}

#[tokio::test]
async fn log_that_lost_its_end_is_refused_with_file_key_and_remedy() {
    let directory = used_log().await;
    tamper(&directory, |tree| {
        drop(tree.remove(record::first_key(199)).unwrap())
    });
    let text = refusal(&directory);
    assert!(
        text.contains("log/db") && text.contains("199") && text.contains("rejoin"),
        "{text}"
    );
}

#[tokio::test]
async fn missing_entry_in_the_middle_is_refused() {
    let directory = used_log().await;
    tamper(&directory, |tree| {
        drop(tree.remove(record::first_key(77)).unwrap())
    });
    assert!(refusal(&directory).contains("log entry 77"));
}

#[tokio::test]
async fn entry_replaced_by_a_valid_older_one_is_refused() {
    let directory = used_log().await;
    tamper(&directory, |tree| {
        // The same entry in another chain: every checksum fits, only the chain does not.
        let mut batch = sled::Batch::default();
        record::insert(&mut batch, [9; 32], &numbered(150..151)[0]);
        tree.apply_batch(batch).unwrap();
    });
    let text = refusal(&directory);
    assert!(
        text.contains("log entry 150") && text.contains("chain"),
        "{text}"
    );
}

#[tokio::test]
async fn last_entry_replaced_in_the_same_chain_is_refused_by_the_mark() {
    let directory = used_log().await;
    tamper(&directory, |tree| {
        let rows = tree.range(record::first_key(198)..record::first_key(199));
        let before = Entries::new(rows).next().unwrap().unwrap();
        let mut batch = sled::Batch::default();
        record::insert(&mut batch, before.chain, &entry(1, 199, b"another"));
        tree.apply_batch(batch).unwrap();
    });
    assert!(refusal(&directory).contains("log entry 199"));
}

#[tokio::test]
async fn older_vote_is_refused() {
    let directory = used_log().await;
    tamper(&directory, |tree| {
        drop(tree.remove(record::VOTE_KEY).unwrap())
    });
    assert!(refusal(&directory).contains("vote"));
}

#[tokio::test]
async fn missing_mark_and_missing_log_are_refused() {
    let directory = used_log().await;
    std::fs::rename(
        directory.path().join("commit.mark"),
        directory.path().join("elsewhere"),
    )
    .unwrap();
    assert!(refusal(&directory).contains("commit.mark"));
    std::fs::rename(
        directory.path().join("elsewhere"),
        directory.path().join("commit.mark"),
    )
    .unwrap();
    open(&directory).unwrap().close().await;
    std::fs::remove_dir_all(directory.path().join("log")).unwrap();
    assert!(refusal(&directory).contains("log/db"));
}

#[tokio::test]
async fn flipped_bits_in_the_file_are_refused_or_harmless() {
    let original = used_log().await;
    let db = original.path().join("log/db");
    let bytes = std::fs::read(&db).unwrap();
    let mut log = open(&original).unwrap();
    let expected = all(&mut log).await;
    log.close().await;
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let mut refused = 0;
    for step in 0..24 {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(original.path(), copy.path());
        let at = used * step / 24 + 13;
        let file = std::fs::File::options()
            .write(true)
            .open(copy.path().join("log/db"))
            .unwrap();
        file.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
        match open(&copy) {
            Err(Error::Damaged { .. }) => refused += 1,
            Err(error) => panic!("at byte {at}: {error:?}"),
            Ok(mut log) => {
                assert_eq!(all(&mut log).await, expected, "at byte {at}");
                log.close().await;
            }
        }
    }
    assert!(refused > 0, "no flip was noticed");
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize, usize),
    Truncate(usize),
    Purge(usize),
    PurgeBeyond(u64),
    Vote(u64),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_usize..8, 0_usize..9_000).prop_map(|(count, size)| Step::Append(count, size)),
        1 => (0_usize..10).prop_map(Step::Truncate),
        1 => (0_usize..20).prop_map(Step::Purge),
        1 => (1_u64..5).prop_map(Step::PurgeBeyond),
        1 => (0_u64..100).prop_map(Step::Vote),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

/// What the log must hold.
#[derive(Default)]
struct Model {
    entries: BTreeMap<u64, RaftEntry>,
    purged: Option<RaftLogId>,
    vote: Option<RaftVote>,
    term: u64,
}

impl Model {
    fn next(&self) -> u64 {
        let after_purged = self.purged.as_ref().map_or(0, |purged| purged.index + 1);
        self.entries
            .keys()
            .next_back()
            .map_or(after_purged, |last| last + 1)
    }

    async fn step(&mut self, log: &mut LogStore, step: &Step) {
        match *step {
            Step::Append(count, size) => {
                let new: Vec<_> = (self.next()..)
                    .take(count)
                    .map(|i| entry(self.term, i, &vec![5; size]))
                    .collect();
                log.blocking_append(new.clone()).await.unwrap();
                self.entries
                    .extend(new.into_iter().map(|entry| (entry.log_id.index, entry)));
            }
            Step::Truncate(back) => {
                self.term += 1;
                let keep = self
                    .entries
                    .values()
                    .rev()
                    .nth(back)
                    .map(|entry| entry.log_id);
                let keep = keep.or(self.purged);
                log.truncate_after(keep).await.unwrap();
                let next = keep.map_or(0, |keep| keep.index + 1);
                self.entries.retain(|index, _| *index < next);
            }
            Step::Purge(position) => {
                let Some(upto) = self
                    .entries
                    .values()
                    .nth(position)
                    .map(|entry| entry.log_id)
                else {
                    return;
                };
                log.purge(upto).await.unwrap();
                self.entries.retain(|index, _| *index > upto.index);
                self.purged = Some(upto);
            }
            Step::PurgeBeyond(distance) => {
                let upto = log_id(self.term, self.next() + distance);
                log.purge(upto).await.unwrap();
                self.entries.clear();
                self.purged = Some(upto);
            }
            Step::Vote(term) => {
                let vote = RaftVote::new(term, Replica(node()));
                log.save_vote(&vote).await.unwrap();
                self.vote = Some(vote);
            }
            Step::Reopen => {}
        }
    }

    async fn check(&self, log: &mut LogStore) {
        assert_eq!(
            all(log).await,
            self.entries.values().cloned().collect::<Vec<_>>()
        );
        assert_eq!(log.read_vote().await.unwrap(), self.vote);
        let state = log.get_log_state().await.unwrap();
        let last = self.entries.values().next_back().map(|entry| entry.log_id);
        assert_eq!(state.last_log_id, last.or(self.purged));
        assert_eq!(state.last_purged_log_id, self.purged);
    }
}

#[tokio::test]
async fn entries_after_a_snapshot_beyond_the_log_start_a_new_chain() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory).unwrap();
    log.blocking_append(numbered(0..600)).await.unwrap();
    log.purge(log_id(1, 999)).await.unwrap();
    log.blocking_append(numbered(1_000..1_002)).await.unwrap();
    log.close().await;
    let mut log = open(&directory).unwrap();
    assert_eq!(all(&mut log).await, numbered(1_000..1_002));
    log.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn log_equals_its_model_also_after_reopening(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let mut log = open(&directory).unwrap();
            let mut model = Model::default();
            for step in steps {
                model.step(&mut log, &step).await;
                model.check(&mut log).await;
                if matches!(step, Step::Reopen) {
                    log.close().await;
                    log = open(&directory).unwrap();
                    model.check(&mut log).await;
                }
            }
            log.close().await;
        });
    }
}
