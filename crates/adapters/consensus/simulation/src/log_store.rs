//! openraft's log storage on a [`Disk`].

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use crate::disk::{Disk, Done, Image, Write};
use crate::plant::{Plant, Point};
use crate::raft_types::{RaftEntry, RaftLogId, RaftVote, Types, position};
use crate::seen::{Members, Seen, payload_digest};
use crate::world::World;

/// The log of one node; clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    pub(crate) world: Arc<World>,
    pub(crate) node: u64,
    pub(crate) disk: Disk,
}

impl LogStore {
    async fn durably(&self, write: Write) -> io::Result<()> {
        let (done, told) = oneshot::channel();
        self.disk.write(write, Done::Waiter(done));
        told.await
            .map_err(|_closed| io::Error::other("the disk is gone"))
    }

    fn see_entries(&self, entries: &[RaftEntry]) {
        let mut before = self.disk.view(Image::last);
        for entry in entries {
            let (term, index) = position(&entry.log_id);
            self.world.see(&Seen::Appended {
                node: self.node,
                term,
                index,
                digest: payload_digest(entry),
                before: before.as_ref().map(position),
                members: Members::of(entry),
            });
            before = Some(entry.log_id);
        }
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<RaftEntry>> {
        let read = |image: &Image| {
            image
                .log
                .range(range)
                .map(|(_, entry)| entry.clone())
                .collect()
        };
        Ok(self.disk.view(read))
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.disk.view(|image| image.vote))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = |image: &Image| LogState {
            last_purged_log_id: image.purged,
            last_log_id: image.last(),
        };
        Ok(self.disk.view(state))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        self.world.crash_point(self.node, Point::Vote).await;
        if self.world.plant == Plant::ForgottenVote {
            self.disk.show_vote(*vote);
        } else {
            self.durably(Write::Vote(*vote)).await?;
        }
        self.world.see(&Seen::Voted {
            node: self.node,
            term: vote.leader_id.term,
            candidate: vote.leader_id.voted_for,
            leads: vote.committed,
        });
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        self.disk.set_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.disk.view(|image| image.committed))
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        self.see_entries(&entries);
        if self.world.plant == Plant::LyingDisk {
            self.disk.write(Write::Append(entries), Done::Nobody);
            done.io_completed(Ok(()));
        } else {
            self.disk.write(Write::Append(entries), Done::Raft(done));
        }
        Ok(())
    }

    async fn truncate_after(&mut self, keep: Option<RaftLogId>) -> io::Result<()> {
        let next = keep.map_or(0, |keep| keep.index + 1);
        self.world.crash_point(self.node, Point::Truncate).await;
        self.world.see(&Seen::Truncated {
            node: self.node,
            next,
        });
        self.durably(Write::Truncate(next)).await
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        self.world.crash_point(self.node, Point::Purge).await;
        let snapshot = self.disk.synced(|image| {
            let id = image
                .snapshot
                .as_ref()
                .and_then(|snapshot| snapshot.meta.last_log_id);
            id.map(|id| id.index)
        });
        self.world.see(&Seen::Purged {
            node: self.node,
            upto: upto.index,
            snapshot,
        });
        self.disk.write(Write::Purge(upto), Done::Nobody);
        Ok(())
    }
}

/// Syncs the disk group by group, for the life of a node process.
pub(crate) async fn flush(store: LogStore) {
    loop {
        let (count, committed) = store.disk.work().await;
        store.world.crash_point(store.node, Point::BeforeSync).await;
        store.world.sync_time(store.node).await;
        let told = store.disk.sync(count, committed);
        // Durable, and nobody knows.
        store.world.crash_point(store.node, Point::AfterSync).await;
        for done in told {
            match done {
                Done::Nobody => {}
                Done::Raft(done) => done.io_completed(Ok(())),
                // Whoever waited may have been told to stop.
                Done::Waiter(done) => drop(done.send(())),
            }
        }
    }
}
