//! The decision: who goes where.

use std::sync::Arc;

use membership::View;
use state_machine::{ClusterState, Experiment, ExperimentPhase, PlaceAttempt, RankCapacity};
use types::{DurationMs, ExperimentId, NodeId, RankPlacement, ResourceRequest, Timestamp};

use crate::amount::{bytes, cpus, whole};
use crate::experience::Experience;
use crate::fit::could_ever_fit;
use crate::offer::{NodeOffer, offers};
use crate::packing::{Choice, Packing};

/// Requests that were found not to fit in this round and are compared with later ones; more differing shapes than
/// this are rare and only cost a walk over the nodes.
const MAX_REMEMBERED_MISFITS: usize = 32;
/// Shortest lease that a submitter gets: below, one lost packet and an election end the attempt.
const MIN_LEASE: DurationMs = DurationMs::from_secs(2);

/// Times and bounds of the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Lease of a new attempt whose submitter asked for none; default 5 s.
    pub lease_ms: DurationMs,
    /// Most placements of one round, so that a round is one small batch of proposals; default 64.
    pub max_placements_per_round: usize,
    /// Age at which a waiting experiment keeps a node free for itself; default 10 min.
    pub reserve_after: DurationMs,
    /// What earlier requests teach about those to come; none by default, renewed by who runs the scheduler.
    pub experience: Arc<Experience>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            lease_ms: DurationMs::from_secs(5),
            max_placements_per_round: 64,
            reserve_after: DurationMs::from_secs(600),
            experience: Arc::default(),
        }
    }
}

/// Proposes placements, first in line first, each on top of the ones before it, so that all can be applied together.
///
/// Greedy with skips: a smaller experiment may pass a larger one that does not fit now. Against starvation, one that has
/// waited for [`SchedulerConfig::reserve_after`] and could run on some empty node keeps that node free of those behind
/// it; at most a quarter of the nodes (and at least one) are kept so.
///
/// `now` is read on the clock of the view (any monotonic one); ages of experiments are measured in state time.
#[must_use]
pub fn place_next(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    config: &SchedulerConfig,
) -> Vec<PlaceAttempt> {
    let mut round = Round::new(offers(state, view, now), config);
    let mut placements = Vec::new();
    for experiment in state.waiting() {
        if placements.len() >= config.max_placements_per_round || round.is_closed() {
            break;
        }
        if experiment.spec.resources.nodes != 1 {
            continue; // Gangs are not built yet; submission refuses them.
        }
        if state.held(experiment).is_some() {
            continue;
        }
        match round.place(state, experiment) {
            Some(placement) => placements.push(placement),
            None => round.keep_node_for(experiment, state.time()),
        }
    }
    placements
}

/// Proposes places for newly queued experiments alone. The same as [`place_next`] as long as nothing was freed since
/// its last round and nobody in front keeps a node free: then all others still do not fit, and need no look. That keeps
/// a submission cheap behind a queue of many thousands.
#[must_use]
pub fn place_new(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    config: &SchedulerConfig,
    new: &[ExperimentId],
) -> Vec<PlaceAttempt> {
    let mut round = Round::new(offers(state, view, now), config);
    let waits = |id: &ExperimentId| {
        state
            .experiment(*id)
            .filter(|one| matches!(one.phase, ExperimentPhase::Queued { .. }))
    };
    let single = new
        .iter()
        .filter_map(waits)
        .filter(|one| one.spec.resources.nodes == 1 && state.held(one).is_none());
    single
        .filter_map(|experiment| round.place(state, experiment))
        .collect()
}

/// Whether somebody has waited so long that a node may be kept free for them: then only [`place_next`] is right.
#[must_use]
pub fn keeps_nodes_free(state: &ClusterState, config: &SchedulerConfig) -> bool {
    let now = state.time();
    state.waiting().any(|experiment| match experiment.phase {
        ExperimentPhase::Queued { since } => now.since(since) >= config.reserve_after,
        ExperimentPhase::Active | ExperimentPhase::Ended { .. } => false,
    })
}

/// What one round has decided so far.
struct Round<'a> {
    config: &'a SchedulerConfig,
    packing: Packing,
    /// Nodes that are kept free, each for one experiment in front.
    kept: Vec<NodeId>,
    misfits: Vec<ResourceRequest>,
}

impl<'a> Round<'a> {
    fn new(offers: Vec<NodeOffer>, config: &'a SchedulerConfig) -> Self {
        Self {
            config,
            packing: Packing::new(offers, Arc::clone(&config.experience)),
            kept: Vec::new(),
            misfits: Vec::new(),
        }
    }

    /// No node takes anything.
    fn is_closed(&self) -> bool {
        !self.packing.offers().iter().any(NodeOffer::is_open)
    }

    fn place(&mut self, state: &ClusterState, experiment: &Experiment) -> Option<PlaceAttempt> {
        let request = &experiment.spec.resources;
        if self.misfits.iter().any(|misfit| asks_more(request, misfit)) {
            return None;
        }
        let failed_on = failed_nodes(experiment);
        let Some(choice) = self.packing.choose(request, &failed_on, &self.kept) else {
            if self.misfits.len() < MAX_REMEMBERED_MISFITS {
                self.misfits.push(request.clone());
            }
            return None;
        };
        self.packing.book(choice.at, &choice.resources);
        Some(self.placement(state, experiment, choice))
    }

    fn placement(
        &self,
        state: &ClusterState,
        experiment: &Experiment,
        choice: Choice,
    ) -> PlaceAttempt {
        let offer = &self.packing.offers()[choice.at];
        let asked = experiment.spec.policy.lease_ms;
        let lease_ms = if asked.0 > 0 {
            asked.max(MIN_LEASE)
        } else {
            self.config.lease_ms
        };
        let rank = RankPlacement {
            node: offer.node.clone(),
            resources: choice.resources,
        };
        let capacity = RankCapacity {
            node_started_at: offer.node_started_at,
            total: offer.capacity.clone(),
        };
        PlaceAttempt {
            experiment: experiment.id,
            attempt: u32::try_from(experiment.attempts.len() + 1).unwrap_or(u32::MAX),
            computed_at: state.applied(),
            ranks: vec![(rank, capacity)],
            mirror: self.mirror(experiment.id, offer),
            lease_ms,
            reason: reason(offer, choice.fitting),
        }
    }

    /// The keeper of the second copy of the records: another live node, rather a storage node, rather in another failure
    /// domain; among equals by a hash of both names, so that the load spreads and stays when nodes come and go.
    fn mirror(&self, experiment: ExperimentId, on: &NodeOffer) -> Option<NodeId> {
        let others = self.packing.offers().iter().filter(|offer| {
            offer.node != on.node
                && offer.health == membership::Health::Live
                && offer.refuses_work.is_none()
        });
        let best = others.min_by_key(|offer| {
            (
                offer.draining,
                !offer.keeps_blobs,
                offer.failure_domain == on.failure_domain,
                rendezvous(experiment, &offer.node),
                &offer.node,
            )
        });
        best.map(|offer| offer.node.clone())
    }

    fn keep_node_for(&mut self, experiment: &Experiment, state_time: Timestamp) {
        let ExperimentPhase::Queued { since } = experiment.phase else {
            return;
        };
        let most = (self.packing.offers().len() / 4).max(1);
        if state_time.since(since) < self.config.reserve_after || self.kept.len() >= most {
            return;
        }
        let request = &experiment.spec.resources;
        let could = self.packing.offers().iter().filter(|offer| {
            offer.is_open() && !self.kept.contains(&offer.node) && could_ever_fit(offer, request)
        });
        // By size and id, not by what is free just now: the choice must not move while the node empties.
        let smallest = could.min_by_key(|offer| {
            let size = &offer.capacity;
            (
                size.gpus.len(),
                size.cpu_milli,
                size.memory_bytes,
                &offer.node,
            )
        });
        let smallest = smallest.map(|offer| offer.node.clone());
        self.kept.extend(smallest);
    }
}

/// Nodes on which an attempt of it was lost.
fn failed_nodes(experiment: &Experiment) -> Vec<&NodeId> {
    let lost = experiment.attempts.iter().filter(|attempt| {
        attempt
            .end
            .as_ref()
            .is_some_and(|end| end.cause.is_node_failure())
    });
    lost.flat_map(|attempt| attempt.ranks.iter().map(|rank| &rank.placement.node))
        .collect()
}

/// Whether `request` cannot fit where `misfit` does not: it asks for at least as much of everything.
fn asks_more(request: &ResourceRequest, misfit: &ResourceRequest) -> bool {
    let stricter = misfit.constraints.is_empty() || request.constraints == misfit.constraints;
    let pickier = misfit.gpu_models.is_empty() || request.gpu_models == misfit.gpu_models;
    stricter
        && pickier
        && request.cpu_milli >= misfit.cpu_milli
        && request.memory_bytes >= misfit.memory_bytes
        && request.disk_bytes >= misfit.disk_bytes
        && request.gpu_milli >= misfit.gpu_milli
        && request.vram_bytes == misfit.vram_bytes
}

fn reason(offer: &NodeOffer, fitting: usize) -> String {
    let first = match fitting {
        1 => "the only node with room".to_owned(),
        several => format!("best fit of {several} nodes"),
    };
    let left = &offer.free;
    let mut text = format!(
        "{first}: {} keeps {} and {}",
        offer.name,
        cpus(left.cpu_milli),
        bytes(left.memory_bytes)
    );
    if !left.gpus.is_empty() {
        let milli = left.gpus.iter().map(|gpu| gpu.milli).sum();
        text.push_str(&format!(" and {} gpus", whole(milli)));
    }
    text + " free"
}

/// FNV-1a over both names.
fn rendezvous(experiment: ExperimentId, node: &NodeId) -> u64 {
    let id = experiment.bits().to_le_bytes();
    let bytes = id.iter().chain(node.as_str().as_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
