//! The one thread that writes: whatever waits while a commit runs shares the next one.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use sled::{Batch, Db, Tree};
use tokio::sync::oneshot;
use types::codec;

use super::Shared;
use super::mark::{Mark, Position};
use super::record::{
    self, CHAIN_START, COMMITTED_KEY, ChainHash, CommittedRecord, ENTRIES_END, Entries, PURGED_KEY,
    PurgedRecord, ReadFault, VOTE_KEY, VoteRecord,
};
use crate::error::Error;
use crate::failpoint;
use crate::raft_types::{RaftEntry, RaftLogId, RaftVote, Types};

/// Bytes in one group commit: more would only delay the first of them.
const MAX_GROUP_BYTES: usize = 2 << 20;
/// Entries removed by one batch of a purge; small, because sled holds a whole batch in memory.
const PURGE_CHUNK_ENTRIES: u64 = 256;
/// Time without writes after which the commit position is stored by itself.
const IDLE: Duration = Duration::from_secs(1);

/// What the thread is asked to do; in the order of the queue.
pub(super) enum Write {
    Append {
        entries: Vec<RaftEntry>,
        done: IOFlushed<Types>,
    },
    Vote {
        vote: RaftVote,
        done: Done,
    },
    /// Keep only entries below this index.
    Truncate {
        next_index: u64,
        done: Done,
    },
    Purge {
        upto: RaftLogId,
    },
    Close {
        done: oneshot::Sender<()>,
    },
}

pub(super) type Done = oneshot::Sender<io::Result<()>>;

enum Waiting {
    Append(IOFlushed<Types>),
    Other(Done),
}

impl Waiting {
    fn complete(self, result: io::Result<()>) {
        match self {
            Self::Append(done) => done.io_completed(result),
            // Whoever asked is gone; nobody is misled.
            Self::Other(done) => drop(done.send(result)),
        }
    }
}

/// Counts for metrics and tests.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Group commits made durable.
    pub(crate) commits: AtomicU64,
    /// Appends acknowledged.
    pub(crate) appends: AtomicU64,
    /// Smoothed time of a group commit.
    sync_micros: AtomicU64,
    /// A commit above this is slow; 0: none is.
    pub(crate) slow_above_micros: AtomicU64,
    /// Slow commits in a row.
    slow_streak: AtomicU64,
}

/// Weight of the newest commit in the smoothed time, as a divisor.
const SMOOTHING: u64 = 4;

impl Counters {
    /// Smoothed time of a group commit.
    pub(crate) fn sync_micros(&self) -> u64 {
        self.sync_micros.load(Ordering::Relaxed)
    }

    /// Slow commits in a row, up to now.
    pub(crate) fn slow_streak(&self) -> u64 {
        self.slow_streak.load(Ordering::Relaxed)
    }

    fn note_commit(&self, took: Duration) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let before = self.sync_micros();
        let smoothed = match before {
            0 => took,
            _ => before - before / SMOOTHING + took / SMOOTHING,
        };
        self.sync_micros.store(smoothed, Ordering::Relaxed);
        let limit = self.slow_above_micros.load(Ordering::Relaxed);
        if limit > 0 && took > limit {
            self.slow_streak.fetch_add(1, Ordering::Relaxed);
        } else {
            self.slow_streak.store(0, Ordering::Relaxed);
        }
    }
}

/// State of the thread.
pub(super) struct Flusher {
    pub(super) shared: Arc<Shared>,
    pub(super) db: Db,
    pub(super) raft: Tree,
    /// sled's own file: its flush is no fsync (`sync_file_range` only).
    pub(super) db_file: File,
    pub(super) mark: Mark,
    pub(super) position: Position,
    pub(super) purged_next: u64,
    pub(super) committed: Option<RaftLogId>,
    pub(super) purge_target: Option<RaftLogId>,
    pub(super) path: PathBuf,
}

/// A group under construction.
#[derive(Default)]
struct Group {
    batch: Batch,
    bytes: usize,
    waiting: Vec<Waiting>,
    durable: bool,
}

impl Flusher {
    /// Runs until told to close or until nobody can ask any more.
    pub(super) fn run(mut self, queue: &Receiver<Write>) {
        loop {
            let first = match self.next(queue) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(Write::Close { done }) = first {
                self.close(done);
                return;
            }
            if let Some(closing) = self.commit_group(first, queue) {
                self.close(closing);
                return;
            }
            if self.purge_chunk().is_err() {
                // Reported where it happened; nothing is written after that.
                self.purge_target = None;
            }
        }
    }

    fn next(&self, queue: &Receiver<Write>) -> Result<Option<Write>, RecvTimeoutError> {
        if self.purge_target.is_some() {
            return match queue.try_recv() {
                Ok(write) => Ok(Some(write)),
                Err(TryRecvError::Empty) => Ok(None),
                Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
            };
        }
        if self.shared.view().committed == self.committed || self.shared.failure.why().is_some() {
            return queue
                .recv()
                .map(Some)
                .map_err(|_closed| RecvTimeoutError::Disconnected);
        }
        queue.recv_timeout(IDLE).map(Some)
    }

    /// Collects what waits, makes it durable, answers. Returns the sender of a close request.
    fn commit_group(
        &mut self,
        first: Option<Write>,
        queue: &Receiver<Write>,
    ) -> Option<oneshot::Sender<()>> {
        self.shared.reserve.guard();
        let mut group = Group::default();
        let mut next = first;
        let mut closing = None;
        let mut result = Ok(());
        while let Some(write) = next.take() {
            match write {
                Write::Close { done } => {
                    closing = Some(done);
                    break;
                }
                Write::Truncate { next_index, done } => {
                    // The mark must not promise what is about to go, so this is a commit of its own.
                    result = result.and_then(|()| self.write_group(&mut group));
                    group.waiting.push(Waiting::Other(done));
                    result = result.and_then(|()| self.truncate(next_index));
                    break;
                }
                Write::Purge { upto } if upto.index >= self.position.next_index => {
                    // A snapshot replaces the log: what is appended next starts a new chain.
                    result = result.and_then(|()| self.write_group(&mut group));
                    self.purge_target = Some(upto);
                    while result.is_ok() && self.purge_target.is_some() {
                        result = self.purge_chunk();
                    }
                    break;
                }
                other => self.add(&mut group, other),
            }
            if group.bytes < MAX_GROUP_BYTES {
                next = queue.try_recv().ok();
            }
        }
        if result.is_ok() {
            result = self.write_group(&mut group);
        }
        self.answer(group, &result);
        closing
    }

    fn add(&mut self, group: &mut Group, write: Write) {
        match write {
            Write::Append { entries, done } => {
                for entry in &entries {
                    let (chain, bytes) =
                        record::insert(&mut group.batch, self.position.chain, entry);
                    self.position.chain = chain;
                    self.position.next_index = entry.log_id.index + 1;
                    group.bytes += bytes;
                }
                group.durable = true;
                group.waiting.push(Waiting::Append(done));
            }
            Write::Vote { vote, done } => {
                self.position.saves += 1;
                let saves = self.position.saves;
                group
                    .batch
                    .insert(VOTE_KEY, codec::encode(&VoteRecord::V1 { vote, saves }));
                group.durable = true;
                group.waiting.push(Waiting::Other(done));
            }
            Write::Purge { upto } => self.purge_target = Some(upto),
            Write::Truncate { .. } | Write::Close { .. } => {
                unreachable!("both end a group before they get here")
            }
        }
    }

    /// Removes the next piece of a running purge; in steps, so that no append waits long.
    fn purge_chunk(&mut self) -> io::Result<()> {
        let Some(target) = self
            .purge_target
            .filter(|target| target.index >= self.purged_next)
        else {
            self.purge_target = None;
            return Ok(());
        };
        let mut group = Group::default();
        let end = (target.index + 1).min(self.purged_next.saturating_add(PURGE_CHUNK_ENTRIES));
        let stored_end = end.min(self.position.next_index);
        let last = self.remove_below(&mut group.batch, stored_end)?;
        let done = end > target.index || self.position.next_index <= end;
        let (log_id, chain) = match last {
            Some((log_id, chain)) if log_id.index == target.index => (target, chain),
            Some(last) if !done => last,
            None if !done => {
                self.purged_next = end;
                return Ok(());
            }
            // Past the end of the log, after a snapshot: a new chain starts there.
            _ => (target, CHAIN_START),
        };
        self.purged_next = log_id.index + 1;
        if self.purged_next > self.position.next_index {
            self.position.next_index = self.purged_next;
            self.position.chain = chain;
            group.durable = true;
        }
        group.batch.insert(
            PURGED_KEY,
            codec::encode(&PurgedRecord::V1 { log_id, chain }),
        );
        if done {
            self.purge_target = None;
        }
        failpoint::reached("purge.before_write");
        self.write_group(&mut group)?;
        failpoint::reached("purge.after_write");
        Ok(())
    }

    /// Adds the removal of the rows below `end`; returns the last entry among them.
    fn remove_below(
        &self,
        batch: &mut Batch,
        end: u64,
    ) -> io::Result<Option<(RaftLogId, ChainHash)>> {
        let mut last = None;
        if self.purged_next < end {
            let rows = self
                .raft
                .range(record::first_key(self.purged_next)..record::first_key(end));
            for found in Entries::new(rows) {
                let found = found.map_err(|fault| self.report_fault(fault))?;
                last = Some((found.entry.log_id, found.chain));
            }
            for row in self
                .raft
                .range(record::first_key(0)..record::first_key(end))
                .keys()
            {
                batch.remove(row.map_err(|source| self.report_fault(ReadFault::Sled(source)))?);
            }
        }
        Ok(last)
    }

    /// Applies the batch and, if anything in it is acknowledged, makes it durable.
    fn write_group(&mut self, group: &mut Group) -> io::Result<()> {
        if let Some(why) = self.shared.failure.why() {
            return Err(io::Error::other(why));
        }
        self.add_committed(group);
        let batch = std::mem::take(&mut group.batch);
        failpoint::reached("append.before_write");
        self.raft
            .apply_batch(batch)
            .map_err(|source| self.report_sled("write", source))?;
        if std::mem::take(&mut group.durable) {
            self.make_durable()?;
        }
        Ok(())
    }

    fn make_durable(&mut self) -> io::Result<()> {
        let start = Instant::now();
        failpoint::reached("append.before_sync");
        self.db.flush().map_err(|source| {
            self.shared.sync_failed.store(true, Ordering::SeqCst);
            self.report_sled("flush", source)
        })?;
        self.sync_db().map_err(|source| {
            self.shared.sync_failed.store(true, Ordering::SeqCst);
            let path = self.path.join("db");
            self.shared.failure.report_error(Error::File {
                step: "sync",
                path,
                source,
            })
        })?;
        failpoint::reached("append.before_mark");
        self.write_mark()?;
        failpoint::reached("append.after_mark");
        self.shared.counters.note_commit(start.elapsed());
        Ok(())
    }

    fn sync_db(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.shared.fail_next_sync.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("injected sync failure"));
        }
        self.db_file.sync_data()
    }

    fn write_mark(&mut self) -> io::Result<()> {
        self.mark.write(self.position).map_err(|source| {
            self.shared.sync_failed.store(true, Ordering::SeqCst);
            let path = self.shared.mark_path.clone();
            self.shared.failure.report_error(Error::File {
                step: "sync",
                path,
                source,
            })
        })
    }

    /// Stores the commit position along with the rest, unless the log is not that far here yet.
    fn add_committed(&mut self, group: &mut Group) {
        let committed = self.shared.view().committed;
        if committed != self.committed
            && let Some(log_id) = &committed
            && log_id.index < self.position.next_index
        {
            let record = CommittedRecord::V1 { log_id: *log_id };
            group.batch.insert(COMMITTED_KEY, codec::encode(&record));
            self.committed = committed;
        }
    }

    fn truncate(&mut self, next_index: u64) -> io::Result<()> {
        self.position.next_index = next_index;
        self.position.chain = self.chain_before(next_index)?;
        failpoint::reached("truncate.before_mark");
        self.write_mark()?;
        failpoint::reached("truncate.before_write");
        let mut batch = Batch::default();
        for row in self
            .raft
            .range(record::first_key(next_index).as_slice()..ENTRIES_END)
            .keys()
        {
            batch.remove(row.map_err(|source| self.report_fault(ReadFault::Sled(source)))?);
        }
        self.raft
            .apply_batch(batch)
            .map_err(|source| self.report_sled("truncate", source))?;
        self.make_durable()
    }

    fn chain_before(&self, next_index: u64) -> io::Result<ChainHash> {
        if let Some(index) = next_index.checked_sub(1) {
            let rows = self
                .raft
                .range(record::first_key(index)..record::first_key(next_index));
            if let Some(found) = Entries::new(rows).next() {
                return Ok(found.map_err(|fault| self.report_fault(fault))?.chain);
            }
        }
        let purged = self
            .raft
            .get(PURGED_KEY)
            .map_err(|source| self.report_fault(ReadFault::Sled(source)))?;
        let Some(purged) = purged else {
            return Ok(CHAIN_START);
        };
        let PurgedRecord::V1 { chain, .. } = record::decode_meta(&purged).map_err(|error| {
            self.report_fault(ReadFault::Damaged {
                key: "m/purged".into(),
                what: error.to_string(),
            })
        })?;
        Ok(chain)
    }

    fn answer(&self, group: Group, result: &io::Result<()>) {
        if result.is_ok() {
            self.shared.flushed_up_to(self.position.next_index);
        }
        for waiting in group.waiting {
            if matches!(waiting, Waiting::Append(_)) {
                self.shared.counters.appends.fetch_add(1, Ordering::Relaxed);
            }
            let told = result.as_ref().copied();
            waiting.complete(told.map_err(|error| io::Error::other(error.to_string())));
        }
    }

    fn close(mut self, done: oneshot::Sender<()>) {
        while self.purge_target.is_some() && self.purge_chunk().is_ok() {}
        if self.shared.failure.why().is_none() {
            let mut group = Group {
                durable: true,
                ..Group::default()
            };
            // A failure is reported where it happens; there is nobody else to tell.
            drop(self.write_group(&mut group));
        }
        let Self {
            db, raft, shared, ..
        } = self;
        shared.close_trees();
        drop((raft, db));
        if done.send(()).is_err() {
            tracing::debug!("the raft log closed, but nobody waits for it any more");
        }
    }

    fn sled_error(&self, step: &'static str, error: sled::Error) -> Error {
        Error::Log {
            step,
            path: self.path.clone(),
            source: error.into(),
        }
    }

    fn report_sled(&self, step: &'static str, error: sled::Error) -> io::Error {
        self.shared
            .failure
            .report_error(self.sled_error(step, error))
    }

    fn report_fault(&self, fault: ReadFault) -> io::Error {
        self.shared
            .failure
            .report_error(self.shared.fault_error(fault))
    }
}
