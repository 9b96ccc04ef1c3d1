//! The leader's decision where an attempt runs.

use serde::{Deserialize, Serialize};
use types::{
    AttemptToken, DurationMs, ExperimentId, LogIndex, NodeId, RankPlacement, Resources, Timestamp,
};

use bytes::Bytes;

use crate::commands::unknown_experiment;
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{Attempt, Booking, ExperimentPhase, RankRecord};
use crate::state::{ClusterState, Context};

/// What a node had to give when the decision was made; bookings are checked against it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankCapacity {
    /// Start of the node process whose report was used.
    pub node_started_at: Timestamp,
    /// All that it gives to attempts, each GPU with 1000 thousandths and its memory.
    pub total: Resources,
}

/// Books all ranks of the next attempt, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceAttempt {
    /// Which experiment.
    pub experiment: ExperimentId,
    /// Number of the new attempt: one more than it has.
    pub attempt: u32,
    /// State that the decision was computed from.
    pub computed_at: LogIndex,
    /// Ranks, with what their nodes had.
    pub ranks: Vec<(RankPlacement, RankCapacity)>,
    /// Keeper of the second copy of the records.
    pub mirror: Option<NodeId>,
    /// Length of the lease.
    pub lease_ms: DurationMs,
    /// Why there, for people.
    pub reason: String,
}

impl PlaceAttempt {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let id = self.experiment;
        let Some(experiment) = state.experiments.get(&id) else {
            return unknown_experiment(id);
        };
        let next = u32::try_from(experiment.attempts.len() + 1).unwrap_or(u32::MAX);
        if !matches!(experiment.phase, ExperimentPhase::Queued { .. }) || self.attempt != next {
            let message = format!("{id} is not waiting for attempt {}", self.attempt);
            return Outcome::refused(RefusalCode::NotWaiting, message);
        }
        if let Some(why) = self
            .ranks
            .iter()
            .find_map(|(rank, capacity)| misfit(state, rank, capacity))
        {
            return Outcome::refused(RefusalCode::DoesNotFit, why);
        }
        let token = AttemptToken {
            incarnation: state.incarnation,
            experiment: id,
            attempt: self.attempt,
            placed_at: context.index,
        };
        let mut experiment = experiment.as_ref().clone();
        let ranks = self.ranks.iter().map(|(rank, _)| rank);
        experiment.phase = ExperimentPhase::Active;
        experiment.attempts.push(Attempt {
            token,
            placed_at: context.now,
            reason: self.reason.clone(),
            ranks: ranks
                .clone()
                .map(|rank| RankRecord {
                    placement: rank.clone(),
                    started_at: None,
                    ended: false,
                })
                .collect(),
            mirror: self.mirror.clone(),
            lease_ms: self.lease_ms,
            segments: Vec::new(),
            inline_records: Bytes::new(),
            end: None,
            late: None,
        });
        state.put(experiment);
        state.record(
            context,
            Action::AttemptPlaced,
            Some(id),
            format!("attempt {}: {}", self.attempt, self.reason),
        );
        context.events.push(Event::AttemptPlaced {
            token,
            nodes: ranks.map(|rank| rank.node.clone()).collect(),
        });
        Outcome::Placed(token)
    }
}

/// Why the rank cannot be booked, if so.
fn misfit(state: &ClusterState, rank: &RankPlacement, capacity: &RankCapacity) -> Option<String> {
    let node = state.nodes.get(&rank.node);
    let Some(node) = node else {
        return Some(format!("{} is not a member any more", rank.node));
    };
    if node.draining {
        return Some(format!("{} takes no new attempts", node.facts.name));
    }
    let none = Booking::default();
    let booked = state.bookings.get(&rank.node).unwrap_or(&none);
    let (want, total) = (&rank.resources, &capacity.total);
    let over = |what: &str| Some(format!("{} has not enough {what} left", node.facts.name));
    if booked.cpu_milli.saturating_add(want.cpu_milli) > total.cpu_milli {
        return over("cpus");
    }
    if booked.memory_bytes.saturating_add(want.memory_bytes) > total.memory_bytes {
        return over("memory");
    }
    if booked.disk_bytes.saturating_add(want.disk_bytes) > total.disk_bytes {
        return over("disk");
    }
    let fits = want.gpus.iter().all(|share| {
        let (milli, vram) = booked.gpus.get(&share.index.0).copied().unwrap_or_default();
        total.gpus.iter().any(|gpu| {
            gpu.index == share.index
                && milli.saturating_add(share.milli) <= gpu.milli
                && vram.saturating_add(share.vram_bytes) <= gpu.vram_bytes
        })
    });
    if fits { None } else { over("gpu") }
}
