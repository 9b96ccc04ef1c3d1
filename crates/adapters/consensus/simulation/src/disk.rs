//! A disk of one machine: what is written, what is synced, and what a crash leaves of the rest.
//!
//! One ordered log of writes, as the flusher of `consensus` keeps it: a crash leaves a prefix of what was not synced, the
//! last record perhaps torn, which its checksum shows at the next open.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use openraft::EntryPayload;
use openraft::storage::IOFlushed;
use tokio::sync::{Notify, oneshot};

use crate::raft_types::{RaftEntry, RaftLogId, RaftSnapshot, RaftVote, Types};
use crate::random::Random;
use crate::runtime::lock;

/// What a disk holds, or seems to.
#[derive(Clone, Default)]
pub(crate) struct Image {
    pub(crate) vote: Option<RaftVote>,
    pub(crate) committed: Option<RaftLogId>,
    pub(crate) purged: Option<RaftLogId>,
    pub(crate) log: BTreeMap<u64, RaftEntry>,
    pub(crate) snapshot: Option<RaftSnapshot>,
    /// Voter sets of the memberships in log and snapshot, by index: for the checks.
    pub(crate) memberships: BTreeMap<u64, Vec<BTreeSet<u64>>>,
}

/// A change of the log.
#[derive(Clone)]
pub(crate) enum Write {
    Vote(RaftVote),
    Append(Vec<RaftEntry>),
    /// Drops this index and what follows.
    Truncate(u64),
    Purge(RaftLogId),
}

/// Whom to tell when it is durable.
pub(crate) enum Done {
    Nobody,
    Raft(IOFlushed<Types>),
    Waiter(oneshot::Sender<()>),
}

impl Image {
    pub(crate) fn last(&self) -> Option<RaftLogId> {
        let last = self.log.values().next_back().map(|entry| entry.log_id);
        last.max(self.purged)
    }

    fn apply(&mut self, write: &Write) {
        match write {
            Write::Vote(vote) => self.vote = Some(*vote),
            Write::Append(entries) => entries.iter().for_each(|entry| self.push(entry)),
            Write::Truncate(next) => {
                self.log.split_off(next);
                self.memberships.split_off(next);
            }
            Write::Purge(upto) => {
                self.log = self.log.split_off(&(upto.index + 1));
                self.purged = self.purged.max(Some(*upto));
            }
        }
    }

    fn push(&mut self, entry: &RaftEntry) {
        if let EntryPayload::Membership(membership) = &entry.payload {
            let sets = membership.get_joint_config().clone();
            self.memberships.insert(entry.log_id.index, sets);
        }
        self.log.insert(entry.log_id.index, entry.clone());
    }

    fn keep_snapshot(&mut self, snapshot: &RaftSnapshot) {
        let membership = &snapshot.meta.last_membership;
        if let Some(id) = membership.log_id() {
            let sets = membership.membership().get_joint_config().clone();
            self.memberships.insert(id.index, sets);
        }
        self.snapshot = Some(snapshot.clone());
    }

    /// Whether the entry at `index` of `term` is there, in the log or in the snapshot.
    pub(crate) fn holds(&self, term: u64, index: u64) -> bool {
        let covered = |id: Option<&RaftLogId>| id.is_some_and(|id| id.index >= index);
        let snapshot = self.snapshot.as_ref();
        let in_snapshot = covered(snapshot.and_then(|snapshot| snapshot.meta.last_log_id.as_ref()));
        let entry = self.log.get(&index);
        in_snapshot || entry.is_some_and(|entry| **entry.log_id.committed_leader_id() == term)
    }
}

/// A disk and its queue of writes; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    shared: Arc<Mutex<Shared>>,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct Shared {
    view: Image,
    synced: Image,
    pending: VecDeque<(Write, Done)>,
}

impl Disk {
    /// Reads what a process sees.
    pub(crate) fn view<T>(&self, read: impl FnOnce(&Image) -> T) -> T {
        read(&lock(&self.shared).view)
    }

    /// Reads what a power cut would leave at the least.
    pub(crate) fn synced<T>(&self, read: impl FnOnce(&Image) -> T) -> T {
        read(&lock(&self.shared).synced)
    }

    pub(crate) fn set_committed(&self, committed: Option<RaftLogId>) {
        lock(&self.shared).view.committed = committed;
    }

    /// For a planted bug: the process believes it, the disk never hears of it.
    pub(crate) fn show_vote(&self, vote: RaftVote) {
        lock(&self.shared).view.vote = Some(vote);
    }

    /// Seen at once, durable later.
    pub(crate) fn write(&self, write: Write, done: Done) {
        let mut shared = lock(&self.shared);
        shared.view.apply(&write);
        shared.pending.push_back((write, done));
        drop(shared);
        self.wake.notify_one();
    }

    /// Resolves when something waits for a sync; says how much.
    pub(crate) async fn work(&self) -> (usize, Option<RaftLogId>) {
        loop {
            {
                let shared = lock(&self.shared);
                if !shared.pending.is_empty() {
                    return (shared.pending.len(), shared.view.committed);
                }
            }
            self.wake.notified().await;
        }
    }

    /// The sync of the first `count` writes is over; says whom to tell.
    pub(crate) fn sync(&self, count: usize, committed: Option<RaftLogId>) -> Vec<Done> {
        let mut shared = lock(&self.shared);
        let group: Vec<_> = shared.pending.drain(..count).collect();
        shared.synced.committed = committed;
        let done = group.into_iter().map(|(write, done)| {
            shared.synced.apply(&write);
            done
        });
        done.collect()
    }

    /// A file of its own: written and synced before it gets its name.
    pub(crate) fn store_snapshot(&self, snapshot: &RaftSnapshot) {
        let mut shared = lock(&self.shared);
        shared.view.keep_snapshot(snapshot);
        shared.synced.keep_snapshot(snapshot);
    }

    /// What the next process will find: all that was synced, and a prefix of the rest.
    pub(crate) fn crash(&self, random: &mut Random) {
        let mut shared = lock(&self.shared);
        let pending = std::mem::take(&mut shared.pending);
        let kept = random.index(pending.len() + 1);
        for (number, (write, _done)) in pending.iter().enumerate() {
            match write {
                _ if number < kept => shared.synced.apply(write),
                Write::Append(entries) if number == kept => {
                    // Torn: whole records at its start are good, the rest fails its checksum.
                    let good = random.index(entries.len() + 1);
                    shared
                        .synced
                        .apply(&Write::Append(entries[..good].to_vec()));
                }
                _ => break,
            }
        }
        shared.view = shared.synced.clone();
    }

    /// For a planted bug: whatever was not synced is gone, told or not.
    pub(crate) fn crash_losing_all(&self) {
        let mut shared = lock(&self.shared);
        shared.pending.clear();
        shared.view = shared.synced.clone();
    }
}
