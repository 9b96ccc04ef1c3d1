//! openraft's state machine: applies the real [`ClusterState`] and shows it to the rest of the node.

use std::io;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use state_machine::{ClusterState, Event, LogEntry, Outcome};
use tokio::sync::broadcast;
use types::{LogIndex, codec};

use crate::disk::Disk;
use crate::plant::{Plant, Point};
use crate::raft_types::{
    RaftEntry, RaftLogId, RaftMembership, RaftSnapshot, RaftSnapshotMeta, Reply, SnapshotBytes,
    Types, position,
};
use crate::runtime::lock;
use crate::seen::{AppliedEntry, Members, Seen, payload_digest};
use crate::watch;
use crate::world::World;

/// Entries applied before they are shown and answered, at most.
const APPLY_CHUNK: usize = 16;
/// Events that a slow subscriber may be behind; here a few, so that lagging behind happens.
const EVENT_BACKLOG: usize = 64;

/// The newest applied state, for any number of readers.
pub(crate) struct Published {
    shown: Mutex<(ClusterState, u64)>,
    applied: watch::Sender<u64>,
    events: broadcast::Sender<Event>,
}

impl Published {
    pub(crate) fn new() -> Self {
        Self {
            shown: Mutex::default(),
            applied: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENT_BACKLOG),
        }
    }

    pub(crate) fn state(&self) -> ClusterState {
        lock(&self.shown).0.clone()
    }

    /// Term of the newest applied entry.
    pub(crate) fn term(&self) -> u64 {
        lock(&self.shown).1
    }

    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn publish(&self, state: &ClusterState, term: u64) {
        *lock(&self.shown) = (state.clone(), term);
        self.applied.send_replace(state.applied().0);
    }
}

/// The replicated state machine of one node process.
pub(crate) struct Machine {
    pub(crate) world: Arc<World>,
    pub(crate) node: u64,
    pub(crate) disk: Disk,
    pub(crate) published: Arc<Published>,
    state: ClusterState,
    applied: Option<RaftLogId>,
    membership: RaftMembership,
    /// This process has applied an entry.
    has_applied: bool,
}

impl Machine {
    pub(crate) fn new(world: Arc<World>, node: u64, disk: Disk, published: Arc<Published>) -> Self {
        Self {
            world,
            node,
            disk,
            published,
            state: ClusterState::default(),
            applied: None,
            membership: RaftMembership::default(),
            has_applied: false,
        }
    }

    fn apply_entry(&mut self, entry: &RaftEntry, events: &mut Vec<Event>) -> io::Result<Outcome> {
        let index = LogIndex(entry.log_id.index);
        let mut command = None;
        match &entry.payload {
            EntryPayload::Blank => self.state.skip(index),
            EntryPayload::Membership(membership) => {
                self.membership = RaftMembership::new(Some(entry.log_id), membership.clone());
                self.state.skip(index);
            }
            EntryPayload::Normal(proposal) => {
                let log_entry: LogEntry = codec::decode(&proposal.0, codec::MAX_MESSAGE_BYTES)
                    .map_err(io::Error::other)?;
                let applied = self.state.apply(index, &log_entry);
                command = Some((log_entry, applied));
            }
        }
        self.applied = Some(entry.log_id);
        let is_first = !std::mem::replace(&mut self.has_applied, true);
        if self.world.plant == Plant::DoubleApply
            && is_first
            && self.disk.view(|image| image.snapshot.is_some())
            && let Some((log_entry, _)) = &command
        {
            // As if the snapshot had held this entry already.
            self.state.apply(index, log_entry);
        }
        let (term, number) = position(&entry.log_id);
        let (durable_on, quorums) = self.world.durability(self.node, term, number);
        self.world.see(&Seen::Applied(Box::new(AppliedEntry {
            node: self.node,
            term,
            index: number,
            digest: payload_digest(entry),
            command: command.as_ref().map(|(entry, applied)| (entry, applied)),
            members: Members::of(entry),
            state: &self.state,
            durable_on,
            quorums,
        })));
        Ok(command.map_or(Outcome::Done, |(_, applied)| {
            events.extend(applied.events);
            applied.outcome
        }))
    }

    fn show(&self, events: Vec<Event>) {
        if let Some(applied) = &self.applied {
            self.published.publish(&self.state, position(applied).0);
        }
        for event in events {
            // An error says that nobody listens any more.
            drop(self.published.events.send(event));
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotBytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, RaftMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_CHUNK);
        while let Some(chunk) = chunks.next().await {
            let (mut events, mut replies) = (Vec::new(), Vec::new());
            for item in chunk {
                let (entry, responder) = item?;
                let outcome = self.apply_entry(&entry, &mut events)?;
                let index = entry.log_id.index;
                replies.extend(responder.map(|responder| (responder, Reply { index, outcome })));
            }
            self.show(events);
            for (responder, reply) in replies {
                responder.send(reply);
            }
            // Applied and answered; whoever asked may hear it or not.
            self.world.crash_point(self.node, Point::Applied).await;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            world: Arc::clone(&self.world),
            node: self.node,
            disk: self.disk.clone(),
            state: self.state.clone(),
            meta: RaftSnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            },
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: SnapshotBytes,
    ) -> io::Result<()> {
        let state: ClusterState =
            codec::decode(&snapshot.0, usize::MAX).map_err(io::Error::other)?;
        self.world
            .crash_point(self.node, Point::InstallSnapshot)
            .await;
        self.world.sync_time(self.node).await;
        let stored = RaftSnapshot {
            meta: meta.clone(),
            snapshot,
        };
        self.disk.store_snapshot(&stored);
        self.world
            .crash_point(self.node, Point::SnapshotInstalled)
            .await;
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        if let Some(id) = &meta.last_log_id {
            let (term, index) = position(id);
            self.world.see(&Seen::Restored {
                node: self.node,
                term,
                index,
                state: &self.state,
            });
        }
        self.world
            .with(|inner| inner.counts.snapshots_installed += 1);
        self.show(Vec::new());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        Ok(self.disk.view(|image| image.snapshot.clone()))
    }
}

/// Writes one snapshot from a clone of the state, while apply goes on.
pub(crate) struct Builder {
    world: Arc<World>,
    node: u64,
    disk: Disk,
    state: ClusterState,
    meta: RaftSnapshotMeta,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotBytes;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let bytes = codec::encode(&self.state);
        self.world
            .crash_point(self.node, Point::BuildSnapshot)
            .await;
        self.world.sync_time(self.node).await;
        let snapshot = RaftSnapshot {
            meta: self.meta.clone(),
            snapshot: SnapshotBytes(Arc::new(bytes)),
        };
        self.disk.store_snapshot(&snapshot);
        self.world.with(|inner| inner.counts.snapshots_built += 1);
        Ok(snapshot)
    }
}
