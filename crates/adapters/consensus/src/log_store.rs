//! The replicated log and the vote in sled, with group commit.
//!
//! [`LogStore`] answers reads from memory while entries are young and hands every change to one thread
//! ([`flusher`]), which makes it durable: sled flush, fdatasync of sled's file, fdatasync of the mark.

mod flusher;
mod mark;
mod opening;
mod record;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use sled::Tree;
use tokio::sync::oneshot;

use self::flusher::{Counters, Write};
use self::record::{Entries, ReadFault};
use crate::error::Error;
use crate::failure::Failure;
use crate::raft_types::{RaftEntry, RaftLogId, RaftVote, Types};
use crate::reserve::Reserve;

pub(crate) use self::opening::open_log;
pub(crate) use self::record::MAX_ENTRY_BYTES;
#[cfg(test)]
pub(crate) use self::record::golden_records;

/// Young entries kept in memory for replication and apply; older ones are read back from sled.
const TAIL_BYTES: usize = 2 << 20;
/// What an entry costs in memory beside its payload, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 160;
/// Bytes in one append request: some milliseconds on a gigabit network.
const MAX_READ_BYTES: usize = 1 << 20;
/// Writes that may wait for the flusher; openraft itself batches appends, so this is never near full.
const QUEUE: usize = 4_096;

/// The log of this replica; clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    queue: SyncSender<Write>,
}

/// What the flusher and the readers share.
struct Shared {
    view: Mutex<View>,
    trees: Mutex<Option<Trees>>,
    counters: Counters,
    failure: Failure,
    reserve: Reserve,
    /// A sync has failed: sled must not even be closed, since it would sync again.
    sync_failed: AtomicBool,
    log_path: PathBuf,
    mark_path: PathBuf,
    #[cfg(test)]
    fail_next_sync: AtomicBool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.sync_failed.load(Ordering::SeqCst) {
            let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(trees.take());
        }
    }
}

#[derive(Clone)]
struct Trees {
    db: sled::Db,
    raft: Tree,
}

/// What the log holds as its callers see it, ahead of the disk.
#[derive(Default)]
struct View {
    vote: Option<RaftVote>,
    committed: Option<RaftLogId>,
    purged: Option<RaftLogId>,
    last: Option<RaftLogId>,
    /// Index of the first entry, if there is one.
    first: u64,
    /// The youngest entries, without a gap up to the last.
    tail: VecDeque<RaftEntry>,
    tail_bytes: usize,
    /// One past the last durable index.
    flushed: u64,
}

impl View {
    fn next_index(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.index + 1)
    }

    fn tail_first(&self) -> u64 {
        self.tail
            .front()
            .map_or_else(|| self.next_index(), |entry| entry.log_id.index)
    }

    fn push(&mut self, entry: RaftEntry) {
        self.tail_bytes += entry_bytes(&entry);
        self.last = Some(entry.log_id);
        self.tail.push_back(entry);
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.tail.pop_front() {
            self.tail_bytes -= entry_bytes(&entry);
        }
    }

    fn shrink(&mut self) {
        while self.tail_bytes > TAIL_BYTES && self.tail_first() < self.flushed {
            self.pop_front();
        }
    }

    fn truncate(&mut self, keep: Option<RaftLogId>, next_index: u64) {
        while self
            .tail
            .back()
            .is_some_and(|entry| entry.log_id.index >= next_index)
        {
            if let Some(entry) = self.tail.pop_back() {
                self.tail_bytes -= entry_bytes(&entry);
            }
        }
        self.last = if next_index <= self.first {
            self.purged
        } else {
            keep
        };
    }

    fn purge(&mut self, upto: RaftLogId) {
        let next = upto.index + 1;
        if next <= self.first && self.purged.is_some() {
            return;
        }
        while self
            .tail
            .front()
            .is_some_and(|entry| entry.log_id.index < next)
        {
            self.pop_front();
        }
        if self.next_index() <= next {
            self.last = Some(upto);
        }
        self.first = self.first.max(next);
        self.purged = Some(upto);
    }
}

fn entry_bytes(entry: &RaftEntry) -> usize {
    let payload = match &entry.payload {
        openraft::EntryPayload::Normal(proposal) => proposal.0.len(),
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 0,
    };
    payload + ENTRY_OVERHEAD_BYTES
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trees(&self) -> io::Result<Trees> {
        let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees
            .clone()
            .ok_or_else(|| io::Error::other("the raft log is closed"))
    }

    /// Lets go of sled, unless a sync has failed: the last to let go syncs once more, and that may seem to succeed.
    fn close_trees(&self) {
        if self.sync_failed.load(Ordering::SeqCst) {
            return;
        }
        *self.trees.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn flushed_up_to(&self, next_index: u64) {
        let mut view = self.view();
        view.flushed = next_index;
        view.shrink();
    }

    fn fault_error(&self, fault: ReadFault) -> Error {
        match fault {
            ReadFault::Sled(error) if record::is_damage(&error) => Error::Damaged {
                file: self.log_path.join("db"),
                key: "sled's pages".into(),
                what: error.to_string(),
            },
            ReadFault::Sled(error) => Error::Log {
                step: "read",
                path: self.log_path.clone(),
                source: error.into(),
            },
            ReadFault::Damaged { key, what } => Error::Damaged {
                file: self.log_path.join("db"),
                key,
                what,
            },
        }
    }

    /// Reads `start..end` from sled, at most `limit` bytes but at least one entry.
    fn read_stored(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<RaftEntry>> {
        let trees = self.trees()?;
        let rows = trees
            .raft
            .range(record::first_key(start)..record::first_key(end));
        let mut entries = Vec::new();
        let mut bytes = 0;
        for found in Entries::new(rows) {
            let found =
                found.map_err(|fault| self.failure.report_error(self.fault_error(fault)))?;
            bytes += found.bytes;
            entries.push(found.entry);
            if bytes >= limit {
                break;
            }
        }
        let complete = bytes >= limit
            || entries
                .last()
                .is_some_and(|entry| entry.log_id.index + 1 == end);
        let from_start = entries
            .first()
            .is_some_and(|entry| entry.log_id.index == start);
        if !(complete && from_start) && self.view().first <= start {
            let fault = ReadFault::damaged(
                start,
                format!("entries {start} to {} are not all there", end - 1),
            );
            return Err(self.failure.report_error(self.fault_error(fault)));
        }
        Ok(entries)
    }
}

impl LogStore {
    /// Bytes of sled's files.
    pub(crate) fn size_on_disk(&self) -> io::Result<u64> {
        self.shared
            .trees()?
            .db
            .size_on_disk()
            .map_err(io::Error::other)
    }

    /// Index up to which the log is purged.
    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.shared.view().purged.map(|purged| purged.index)
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Writes what is left and closes sled, so that the directory can be opened again.
    pub(crate) async fn close(&self) {
        let (done, answer) = oneshot::channel();
        // Both errors mean that the thread has ended already.
        if self.send(Write::Close { done }).is_ok() {
            drop(answer.await);
        }
    }

    /// Makes the next sync fail, as a broken disk would.
    #[cfg(test)]
    pub(crate) fn fail_next_sync(&self) {
        self.shared.fail_next_sync.store(true, Ordering::SeqCst);
    }

    fn send(&self, write: Write) -> io::Result<()> {
        self.queue.send(write).map_err(|_closed| closed())
    }

    async fn read(&self, range: (u64, u64), limit: usize) -> io::Result<Vec<RaftEntry>> {
        let (stored, mut young) = {
            let view = self.shared.view();
            let start = range.0.max(view.first);
            let end = range.1.min(view.next_index());
            if start >= end {
                return Ok(Vec::new());
            }
            let tail_first = view.tail_first();
            let skip = usize::try_from(start.max(tail_first) - tail_first).unwrap_or(usize::MAX);
            let count =
                usize::try_from(end.saturating_sub(start.max(tail_first))).unwrap_or(usize::MAX);
            let stored = (start < tail_first).then(|| (start, end.min(tail_first)));
            let young = if stored.is_some() && limit != usize::MAX {
                0
            } else {
                count
            };
            (
                stored,
                limited(view.tail.iter().skip(skip).take(young), limit),
            )
        };
        let Some((start, end)) = stored else {
            return Ok(young);
        };
        let shared = Arc::clone(&self.shared);
        let reading = tokio::task::spawn_blocking(move || shared.read_stored(start, end, limit));
        let mut entries = reading.await.map_err(io::Error::other)??;
        entries.append(&mut young);
        Ok(entries)
    }
}

fn limited<'a>(entries: impl Iterator<Item = &'a RaftEntry>, limit: usize) -> Vec<RaftEntry> {
    let mut bytes = 0;
    let mut taken = Vec::new();
    for entry in entries {
        if bytes >= limit {
            break;
        }
        bytes += entry_bytes(entry);
        taken.push(entry.clone());
    }
    taken
}

fn closed() -> io::Error {
    io::Error::other("the raft log is closed")
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<RaftEntry>> {
        self.read(bounds(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> io::Result<Vec<RaftEntry>> {
        self.read((start, end), MAX_READ_BYTES).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.shared.view().vote.clone())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let view = self.shared.view();
        Ok(LogState {
            last_purged_log_id: view.purged,
            last_log_id: view.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(Write::Vote {
            vote: vote.clone(),
            done,
        })?;
        answer.await.map_err(|_closed| closed())??;
        self.shared.view().vote = Some(vote.clone());
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        // Written with the next group: at a restart it only decides how much is applied before a
        // leader is known.
        self.shared.view().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.shared.view().committed)
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        {
            let mut view = self.shared.view();
            for entry in &entries {
                let index = entry.log_id.index;
                if view.last.is_none() {
                    view.first = index;
                    view.flushed = index;
                } else if index != view.next_index() {
                    let what = format!("entry {index} cannot follow entry {:?}", view.last);
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
                }
                view.push(entry.clone());
            }
        }
        self.send(Write::Append { entries, done })
    }

    async fn truncate_after(&mut self, keep: Option<RaftLogId>) -> io::Result<()> {
        let next_index = {
            let mut view = self.shared.view();
            let next_index = keep
                .as_ref()
                .map_or(0, |keep| keep.index + 1)
                .max(view.first);
            if next_index >= view.next_index() {
                return Ok(());
            }
            view.truncate(keep, next_index);
            next_index
        };
        let (done, answer) = oneshot::channel();
        self.send(Write::Truncate { next_index, done })?;
        answer.await.map_err(|_closed| closed())?
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        self.shared.view().purge(upto);
        self.send(Write::Purge { upto })
    }
}

/// Takes bytes as the rows of a log (index, row, length, content) and as each of its small records.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    record::fuzz(bytes);
    mark::fuzz(bytes);
}
