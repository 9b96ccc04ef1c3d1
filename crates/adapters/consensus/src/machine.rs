//! Applies the committed log to the cluster state and publishes it.

mod snapshots;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use futures::{Stream, StreamExt as _};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use state_machine::{ArchiveFile, ClusterState, Event, LogEntry, Outcome};
use types::{LogIndex, codec};

pub(crate) use self::snapshots::{IncomingSnapshot, SnapshotFile, Snapshots, read_state};
use crate::archives::{Archives, blocking};
use crate::compare::Hashes;
use crate::error::Error;
use crate::failpoint;
use crate::failure::Failure;
use crate::log_store::MAX_ENTRY_BYTES;
use crate::published::{Published, StallClock};
use crate::raft_types::{
    Proposal, RaftEntry, RaftLogId, RaftMembership, RaftSnapshotMeta, Reply, Types,
};

/// Entries applied before they are shown and answered: enough to share the cost (0.6 ms of processor time for all; four
/// times as many cost as much each), few enough that the first of them does not wait.
const APPLY_CHUNK: usize = 64;

type Snapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>;

/// What the machine, its snapshot builder and the receiver of snapshots share.
#[derive(Clone)]
pub(crate) struct Stores {
    pub(crate) snapshots: Snapshots,
    pub(crate) archives: Archives,
    pub(crate) published: Arc<Published>,
    pub(crate) hashes: Hashes,
    pub(crate) failure: Failure,
}

/// The replicated state machine of this node.
pub(crate) struct Machine {
    state: ClusterState,
    applied: Option<RaftLogId>,
    membership: RaftMembership,
    stores: Stores,
}

/// What a chunk of entries brought.
#[derive(Default)]
struct Effects {
    replies: Vec<(ApplyResponder<Types>, Reply)>,
    events: Vec<(LogIndex, Event)>,
    archives: Vec<ArchiveFile>,
}

impl Machine {
    pub(crate) fn new(stores: Stores) -> Self {
        Self {
            state: ClusterState::default(),
            applied: None,
            membership: RaftMembership::default(),
            stores,
        }
    }

    fn apply_entry(
        &mut self,
        entry: RaftEntry,
        responder: Option<ApplyResponder<Types>>,
        effects: &mut Effects,
    ) -> Result<(), Error> {
        let index = LogIndex(entry.log_id.index);
        let outcome = match entry.payload {
            EntryPayload::Blank => {
                self.state.skip(index);
                Outcome::Done
            }
            EntryPayload::Membership(membership) => {
                self.membership = RaftMembership::new(Some(entry.log_id), membership);
                self.state.skip(index);
                Outcome::Done
            }
            EntryPayload::Normal(proposal) => self.apply_command(index, &proposal, effects)?,
        };
        self.applied = Some(entry.log_id);
        self.stores.hashes.note(index.0, &self.state);
        if let Some(responder) = responder {
            effects.replies.push((responder, Reply { index, outcome }));
        }
        Ok(())
    }

    fn apply_command(
        &mut self,
        index: LogIndex,
        proposal: &Proposal,
        effects: &mut Effects,
    ) -> Result<Outcome, Error> {
        let entry: LogEntry =
            codec::decode(&proposal.0, MAX_ENTRY_BYTES).map_err(|error| Error::Damaged {
                file: "the replicated log".into(),
                key: format!("command {index}"),
                what: error.to_string(),
            })?;
        // A command that panics must stop the node with its name, not only end a task.
        let apply = std::panic::AssertUnwindSafe(|| self.state.apply(index, &entry));
        let applied = std::panic::catch_unwind(apply).map_err(|_panic| Error::Poison {
            index: index.0,
            author: entry.author.to_string(),
        })?;
        effects
            .events
            .extend(applied.events.into_iter().map(|event| (index, event)));
        effects.archives.extend(applied.archives);
        Ok(applied.outcome)
    }

    /// Shows the state, then answers: who gets an answer finds its write in the state.
    fn finish(&self, effects: Effects) {
        failpoint::reached("apply.before_publish");
        let before = self.applied.as_ref().map(|applied| {
            let term = **applied.committed_leader_id();
            self.stores
                .published
                .publish(self.state.clone(), LogIndex(applied.index), term)
        });
        failpoint::reached("apply.after_publish");
        for (responder, reply) in effects.replies {
            responder.send(reply);
        }
        self.stores.published.announce(effects.events);
        if !effects.archives.is_empty() {
            self.stores.archives.add(effects.archives);
            tokio::spawn(store_archives(self.stores.clone(), before));
        }
    }

    fn meta(&self) -> RaftSnapshotMeta {
        RaftSnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }
}

/// Writes sealed files while apply goes on, and frees the state `before`, the last that held what is in them.
async fn store_archives(stores: Stores, before: Option<Arc<ClusterState>>) {
    drop(before);
    if let Err(error) = stores.archives.store().await {
        drop(stores.failure.report_error(error));
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
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
            let mut clock = StallClock::start();
            let mut effects = Effects::default();
            for item in chunk {
                let (entry, responder) = item?;
                self.apply_entry(entry, responder, &mut effects)
                    .map_err(|error| self.stores.failure.report_error(error))?;
                if !effects.archives.is_empty() {
                    // Sealing takes as long as some hundred entries: nothing more waits for it.
                    self.finish(std::mem::take(&mut effects));
                    self.stores.published.note_apply(&clock);
                    clock = StallClock::start();
                }
            }
            self.finish(effects);
            self.stores.published.note_apply(&clock);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let clock = StallClock::start();
        let builder = Builder {
            state: self.state.clone(),
            meta: self.meta(),
            stores: self.stores.clone(),
        };
        self.stores.published.note_apply(&clock);
        builder
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let (stores, wanted) = (self.stores.clone(), meta.clone());
        let state = blocking("install a snapshot", move || {
            let state = read_state(&snapshot)?;
            stores.archives.check(&state)?;
            failpoint::reached("snapshot.before_adopt");
            stores.snapshots.adopt(&wanted, &snapshot)?;
            Ok(state)
        })
        .await
        .map_err(|error| self.stores.failure.report_error(error))?;
        self.state = state;
        self.applied.clone_from(&meta.last_log_id);
        self.membership = meta.last_membership.clone();
        self.finish(Effects::default());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.stores.snapshots.current())
    }
}

/// Writes one snapshot from a clone of the state, while apply goes on.
pub(crate) struct Builder {
    state: ClusterState,
    meta: RaftSnapshotMeta,
    stores: Stores,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let start = Instant::now();
        let (stores, state, meta) = (self.stores.clone(), self.state.clone(), self.meta.clone());
        let result = async {
            // Everything that this snapshot lets the log forget must be on disk first.
            stores.archives.store().await?;
            failpoint::reached("snapshot.before_write");
            let snapshots = stores.snapshots.clone();
            blocking("write a snapshot", move || snapshots.write(&state, &meta)).await
        };
        let built = result
            .await
            .map_err(|error| self.stores.failure.report_error(error));
        self.stores.published.note_snapshot(start.elapsed());
        built
    }
}

#[cfg(fuzzing)]
pub(crate) use snapshots::fuzz as fuzz_snapshot;
