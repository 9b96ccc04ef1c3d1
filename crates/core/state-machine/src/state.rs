//! The hot state: what can still change, in persistent maps, so that a clone is cheap and a reader or
//! a snapshot never stalls apply.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use serde::{Deserialize, Serialize};
use types::{
    AttemptToken, Author, BlobHash, ClusterId, ExperimentId, GroupId, Incarnation, LogIndex,
    NodeId, QueueName, RequestId, Timestamp, TokenId, codec,
};

use crate::archive::{self, ArchiveFile, ArchiveRef};
use crate::command::LogEntry;
use crate::event::Event;
use crate::group::Group;
use crate::ledger::{Action, LedgerEntry};
use crate::outcome::Outcome;
use crate::queue::{Holding, Queue};
use crate::records::{
    Booking, Experiment, ExperimentPhase, JoinToken, KeptPlace, NodeRecord, PlacementHold,
    UserToken, UserTokenTerms,
};
use crate::snapshot::Snapshot;
use crate::standing::{Departure, NodeStanding};
use crate::usage::{Consumer, Hours, Lesson};

/// Requests whose outcome is remembered. At 100 submits a second it covers three minutes of retries, at the
/// pace of a team of fifty several days; about 2 MiB.
pub const REQUEST_WINDOW: usize = 16_384;

/// What applying a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Answer to the proposer.
    pub outcome: Outcome,
    /// What to wake for.
    pub events: Vec<Event>,
    /// Files to store before this part of the log is purged.
    pub archives: Vec<ArchiveFile>,
}

/// The state that every replica holds in memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Snapshot", try_from = "Snapshot")]
pub struct ClusterState {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) cluster_public_key: Vec<u8>,
    pub(crate) incarnation: Incarnation,
    pub(crate) timing: String,
    pub(crate) applied: LogIndex,
    pub(crate) time: Timestamp,
    pub(crate) members_version: u64,
    pub(crate) nodes: OrdMap<NodeId, NodeRecord>,
    pub(crate) join_tokens: OrdMap<TokenId, JoinToken>,
    pub(crate) user_tokens: OrdMap<TokenId, UserToken>,
    pub(crate) user_token_terms: OrdMap<TokenId, UserTokenTerms>,
    pub(crate) standings: OrdMap<NodeId, NodeStanding>,
    pub(crate) departures: OrdMap<NodeId, Departure>,
    pub(crate) queues: OrdMap<QueueName, Queue>,
    pub(crate) experiments: OrdMap<ExperimentId, Arc<Experiment>>,
    pub(crate) ended: Vector<ExperimentId>,
    pub(crate) ledger: Vector<LedgerEntry>,
    pub(crate) ledger_head: [u8; 32],
    pub(crate) ledger_length: u64,
    pub(crate) ledger_archives: Vector<ArchiveRef>,
    pub(crate) experiment_archives: Vector<ArchiveRef>,
    pub(crate) requests: OrdMap<RequestId, Outcome>,
    pub(crate) request_order: Vector<RequestId>,
    pub(crate) placement_hold: Option<PlacementHold>,
    pub(crate) user_weights: OrdMap<String, u32>,
    pub(crate) usage: OrdMap<Consumer, Hours>,
    pub(crate) lessons: OrdMap<[u8; 32], Lesson>,
    pub(crate) lesson_order: Vector<[u8; 32]>,
    pub(crate) kept: OrdMap<ExperimentId, KeptPlace>,
    pub(crate) groups: OrdMap<GroupId, Arc<Group>>,
    // Derived from the fields above; rebuilt when a snapshot is read.
    pub(crate) waiting: OrdSet<WaitingKey>,
    pub(crate) active: OrdSet<ExperimentId>,
    pub(crate) bookings: OrdMap<NodeId, Booking>,
    pub(crate) names: OrdSet<(Arc<str>, LogIndex, ExperimentId)>,
    pub(crate) holdings: OrdMap<Consumer, Holding>,
}

/// The order of what waits: queue priority and class, place given by a person, own priority, age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaitingKey {
    pub(crate) band: Band,
    rank: i64,
    priority: std::cmp::Reverse<i32>,
    submitted: LogIndex,
    pub(crate) id: ExperimentId,
}

/// Who is served before whom whatever their shares: by the priority of the queue, then by the class of the experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Band {
    queue: std::cmp::Reverse<i32>,
    class: std::cmp::Reverse<i32>,
}

/// Priorities of one class: those within a hundred. A higher class may take places of a lower one.
const CLASS: i32 = 100;

/// Facts of the entry being applied, for the commands.
pub(crate) struct Context<'a> {
    pub(crate) index: LogIndex,
    pub(crate) now: Timestamp,
    pub(crate) author: &'a Author,
    pub(crate) request: Option<RequestId>,
    pub(crate) events: Vec<Event>,
}

impl ClusterState {
    /// Applies the entry at `index`. Total: a refused command is an outcome.
    pub fn apply(&mut self, index: LogIndex, entry: &LogEntry) -> Applied {
        self.applied = index;
        self.time = self.time.max(entry.time);
        self.forget_kept();
        if let Some(outcome) = entry
            .request
            .and_then(|request| self.requests.get(&request))
        {
            return Applied {
                outcome: outcome.clone(),
                events: Vec::new(),
                archives: Vec::new(),
            };
        }
        let (author, request) = (&entry.author, entry.request);
        let mut context = Context {
            index,
            now: self.time,
            author,
            request,
            events: Vec::new(),
        };
        let outcome = entry.command.apply(self, &mut context);
        if let Some(request) = entry.request {
            self.remember(request, outcome.clone());
        }
        Applied {
            outcome,
            events: context.events,
            archives: archive::seal(self).into_iter().collect(),
        }
    }

    /// Marks an entry without a command (a blank one, a membership change) as applied.
    pub fn skip(&mut self, index: LogIndex) {
        self.applied = index;
    }

    /// BLAKE3 of the encoded state; O(size of the hot state).
    #[must_use]
    pub fn state_hash(&self) -> [u8; 32] {
        *blake3::hash(&codec::encode(self)).as_bytes()
    }

    fn remember(&mut self, request: RequestId, outcome: Outcome) {
        self.requests.insert(request, outcome);
        self.request_order.push_back(request);
        if self.request_order.len() > REQUEST_WINDOW
            && let Some(oldest) = self.request_order.pop_front()
        {
            self.requests.remove(&oldest);
        }
    }

    pub(crate) fn record(
        &mut self,
        context: &Context<'_>,
        action: Action,
        experiment: Option<ExperimentId>,
        detail: impl Into<String>,
    ) {
        let mut entry = LedgerEntry {
            sequence: self.ledger_length,
            index: context.index,
            at: context.now,
            author: context.author.to_string(),
            action,
            experiment,
            detail: detail.into(),
            hash: [0; 32],
        };
        entry.hash = entry.chain_hash(&self.ledger_head);
        self.ledger_head = entry.hash;
        self.ledger_length += 1;
        self.ledger.push_back(entry);
    }

    /// Stores a changed experiment and keeps the derived indexes in step.
    pub(crate) fn put(&mut self, experiment: Experiment) {
        let id = experiment.id;
        if !matches!(experiment.phase, ExperimentPhase::Queued { .. }) {
            // It has its place, or needs none any more.
            self.kept.remove(&id);
        }
        if let Some(old) = self.experiments.get(&id).cloned() {
            self.unindex(&old);
        }
        self.index(&experiment).expect(
            "a placement that does not fit is refused, and no state with larger sums is read",
        );
        self.experiments.insert(id, Arc::new(experiment));
    }

    /// Takes an ended experiment out of the hot state.
    pub(crate) fn forget(&mut self, id: ExperimentId) -> Option<Arc<Experiment>> {
        let experiment = self.experiments.remove(&id)?;
        self.unindex(&experiment);
        self.names.remove(&name_key(&experiment));
        Some(experiment)
    }

    /// Adds it to the derived indexes, or names the node whose bookings are too many.
    pub(crate) fn index(&mut self, experiment: &Experiment) -> Result<(), NodeId> {
        self.names.insert(name_key(experiment));
        match &experiment.phase {
            ExperimentPhase::Queued { .. } => {
                self.waiting.insert(self.waiting_key(experiment));
            }
            ExperimentPhase::Active => {
                self.active.insert(experiment.id);
                self.book(experiment)?;
                self.hold(experiment);
            }
            ExperimentPhase::Ended { .. } => {}
        }
        Ok(())
    }

    fn unindex(&mut self, experiment: &Experiment) {
        match &experiment.phase {
            ExperimentPhase::Queued { .. } => {
                self.waiting.remove(&self.waiting_key(experiment));
            }
            ExperimentPhase::Active => {
                self.active.remove(&experiment.id);
                self.unbook(experiment);
                self.unhold(experiment);
            }
            ExperimentPhase::Ended { .. } => {}
        }
    }

    fn waiting_key(&self, experiment: &Experiment) -> WaitingKey {
        WaitingKey {
            band: self.band(experiment),
            rank: experiment.rank,
            priority: std::cmp::Reverse(experiment.priority),
            submitted: experiment.submitted_index,
            id: experiment.id,
        }
    }

    /// Who is served before and after it whatever the shares.
    #[must_use]
    pub fn band(&self, experiment: &Experiment) -> Band {
        let queue = self.queues.get(&experiment.queue);
        Band {
            queue: std::cmp::Reverse(queue.map_or(0, |queue| queue.priority)),
            class: std::cmp::Reverse(class(experiment)),
        }
    }

    /// Rebuilds the waiting order after a queue's priority changed.
    pub(crate) fn reorder_waiting(&mut self) {
        let ids: Vec<_> = self.waiting.iter().map(|key| key.id).collect();
        self.waiting = ids
            .into_iter()
            .filter_map(|id| {
                self.experiments
                    .get(&id)
                    .map(|experiment| self.waiting_key(experiment))
            })
            .collect();
    }

    /// Books what an active experiment holds, or names the node on which a sum does not fit into 64 bits.
    fn book(&mut self, experiment: &Experiment) -> Result<(), NodeId> {
        for (token, rank) in booked_ranks(experiment) {
            let booking = self.bookings.entry(rank.node.clone()).or_default();
            booking
                .add(&rank.resources)
                .map_err(|_what| rank.node.clone())?;
            booking.attempts.insert(token);
        }
        Ok(())
    }

    /// Takes away just what was booked: each token is of one experiment, and what a state holds was booked by it.
    fn unbook(&mut self, experiment: &Experiment) {
        for (token, rank) in booked_ranks(experiment) {
            let Some(booking) = self.bookings.get_mut(&rank.node) else {
                continue;
            };
            booking.subtract(&rank.resources);
            booking.attempts.remove(&token);
            if booking.attempts.is_empty() {
                self.bookings.remove(&rank.node);
            }
        }
    }
}

/// The class of an experiment: a higher one may take places of lower ones.
#[must_use]
pub fn class(experiment: &Experiment) -> i32 {
    experiment.priority.div_euclid(CLASS)
}

fn name_key(experiment: &Experiment) -> (Arc<str>, LogIndex, ExperimentId) {
    (
        experiment.spec.name.as_str().into(),
        experiment.submitted_index,
        experiment.id,
    )
}

/// Ranks that hold resources: those of the current attempt that have not reported their end.
fn booked_ranks(
    experiment: &Experiment,
) -> impl Iterator<Item = (AttemptToken, &types::RankPlacement)> {
    let attempt = experiment.current_attempt();
    attempt.into_iter().flat_map(|attempt| {
        attempt
            .ranks
            .iter()
            .filter(|rank| !rank.ended)
            .map(|rank| (attempt.token, &rank.placement))
    })
}

impl ClusterState {
    /// Names and hashes of all archive files, oldest first.
    pub fn archives(&self) -> impl Iterator<Item = (&str, BlobHash)> {
        let all = self
            .ledger_archives
            .iter()
            .chain(self.experiment_archives.iter());
        all.map(|archive| (archive.name.as_str(), archive.hash))
    }
}
