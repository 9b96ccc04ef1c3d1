//! The leader's decision where an attempt runs.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::{
    AttemptToken, DurationMs, ExperimentId, LogIndex, NodeId, RankPlacement, Resources, Timestamp,
};

use crate::commands::unknown_experiment;
use crate::event::Event;
use crate::holdings::book_kept;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{Attempt, Booking, Experiment, ExperimentPhase, NodeRecord, RankRecord};
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
        if let Some(why) = self.not_whole(experiment) {
            return Outcome::refused(RefusalCode::Invalid, why);
        }
        if let Some(why) = state.held(experiment) {
            return Outcome::refused(RefusalCode::DoesNotFit, why);
        }
        if let Some(over) = state.over_limit(experiment) {
            return Outcome::refused(RefusalCode::DoesNotFit, over.to_string());
        }
        if let Some(why) = self.misfit(state, experiment) {
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
                    overuses: Vec::new(),
                    end: None,
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

impl PlaceAttempt {
    /// Why this is not a place for all of it, if so: each rank has a node of its own, and none is left out.
    fn not_whole(&self, experiment: &Experiment) -> Option<String> {
        let wanted = experiment.spec.resources.nodes as usize;
        let nodes: BTreeSet<_> = self.ranks.iter().map(|(rank, _)| &rank.node).collect();
        (self.ranks.len() != wanted || nodes.len() != wanted).then(|| {
            format!(
                "{} is placed on {wanted} different nodes or on none, not on {} of {} ranks",
                self.experiment,
                nodes.len(),
                self.ranks.len()
            )
        })
    }

    /// Why the ranks cannot all be booked, if so.
    fn misfit(&self, state: &ClusterState, experiment: &Experiment) -> Option<String> {
        let user = &experiment.author.user;
        self.ranks.iter().find_map(|(rank, capacity)| {
            let name = match open(state, &rank.node, user) {
                Ok(node) => &node.facts.name,
                Err(why) => return Some(why),
            };
            if let Some(why) = not_alone(state, &rank.node, experiment) {
                return Some(format!("{name} {why}"));
            }
            let mut booked = state.booking(&rank.node);
            for (whose, kept) in state.kept_on(&rank.node) {
                if whose != self.experiment {
                    book_kept(&mut booked, &kept);
                }
            }
            let short = add(&mut booked, &rank.resources, &capacity.total)?;
            Some(format!("{name} has not enough {short} left"))
        })
    }
}

/// The node, if it takes new attempts of this user; else why not.
pub(super) fn open<'a>(
    state: &'a ClusterState,
    id: &NodeId,
    user: &str,
) -> Result<&'a NodeRecord, String> {
    let Some(node) = state.nodes.get(id) else {
        return Err(format!("{id} is not a member any more"));
    };
    let name = &node.facts.name;
    if node.draining {
        return Err(format!("{name} takes no new attempts"));
    }
    match state.reserved(id).filter(|one| one.user != user) {
        Some(reserved) => Err(format!("{name} is reserved for {}", reserved.user)),
        None => Ok(node),
    }
}

/// Why a node is not there for one that wants it alone, or beside such a one.
fn not_alone(state: &ClusterState, node: &NodeId, experiment: &Experiment) -> Option<&'static str> {
    let attempts = state.booking(node).attempts;
    let wants_all = |id| {
        let other = state.experiment(id);
        other.is_some_and(|other| other.spec.resources.exclusive)
    };
    if attempts.iter().any(|token| wants_all(token.experiment)) {
        return Some("runs an experiment that asked to be alone there");
    }
    let is_taken = experiment.spec.resources.exclusive && !attempts.is_empty();
    is_taken.then_some("is not empty, and it asks to be alone")
}

/// Adds `want` to what is booked; names what there is then too little of.
fn add(booked: &mut Booking, want: &Resources, total: &Resources) -> Option<&'static str> {
    if let Err(short) = booked.add(want) {
        return Some(short);
    }
    if booked.cpu_milli > total.cpu_milli {
        return Some("cpus");
    }
    if booked.memory_bytes > total.memory_bytes {
        return Some("memory");
    }
    if booked.disk_bytes > total.disk_bytes {
        return Some("disk");
    }
    let fits = want.gpus.iter().all(|share| {
        let (milli, vram) = booked.gpus.get(&share.index.0).copied().unwrap_or_default();
        let whole = total.gpus.iter().find(|gpu| gpu.index == share.index);
        whole.is_some_and(|gpu| milli <= gpu.milli.min(1_000) && vram <= gpu.vram_bytes)
    });
    if fits { None } else { Some("gpu") }
}
