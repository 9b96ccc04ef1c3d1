//! The decision: who goes where.

use std::collections::BTreeMap;
use std::sync::Arc;

use membership::View;
use state_machine::{
    ClusterState, Consumer, Experiment, ExperimentPhase, Holding, OverLimit, PlaceAttempt,
    RankCapacity,
};
use types::{
    DurationMs, ExperimentId, NodeId, RankPlacement, ResourceRequest, Resources, Timestamp,
};

use crate::amount::{bytes, cpus, whole};
use crate::backfill::{Ends, Reservation};
use crate::experience::Experience;
use crate::fit::{Who, could_ever_fit, fits};
use crate::line::Line;
use crate::offer::{NodeOffer, offers};
use crate::packing::{Choice, Openness, Packing, Wishes};
use crate::shares::Shares;

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
    /// Age at which a waiting experiment keeps a node free for itself although nobody knows when it will be; default
    /// 10 min.
    pub reserve_after: DurationMs,
    /// Age at which a waiting experiment may take the place of others of its own class, when its user has less than a
    /// fair share and theirs have more; default 2 min.
    pub preempt_after: DurationMs,
    /// The leader's wall clock: what state time would be if something was applied now; state time when that is later.
    pub clock: Timestamp,
    /// What the state teaches; renewed now and then by who runs the scheduler.
    pub experience: Arc<Experience>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            lease_ms: DurationMs::from_secs(5),
            max_placements_per_round: 64,
            reserve_after: DurationMs::from_secs(600),
            preempt_after: DurationMs::from_secs(120),
            clock: Timestamp(0),
            experience: Arc::default(),
        }
    }
}

/// Proposes placements, first in line first, each on top of the ones before it, so that all can be applied together.
///
/// The line is by bands, fair shares and age ([`crate::line`]). Whoever does not fit and is first keeps the node that is
/// ready for it first; those behind it may use that node only as far as it is not delayed. So do all that have waited for
/// [`SchedulerConfig::reserve_after`]; at most a quarter of the nodes (and at least one) are kept so.
///
/// `now` is read on the clock of the view (any monotonic one); ages of experiments are measured in state time.
#[must_use]
pub fn place_next(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    config: &SchedulerConfig,
) -> Vec<PlaceAttempt> {
    let mut round = Round::new(state, offers(state, view, now), config);
    let mut line = round.line();
    let mut placements = Vec::new();
    while placements.len() < config.max_placements_per_round && !round.is_closed() {
        let Some(experiment) = line.next() else {
            break;
        };
        if !round.may_run(experiment, &line.shares) {
            continue;
        }
        match round.place(experiment) {
            Some(placement) => {
                line.placed(experiment);
                placements.push(placement);
            }
            None => round.keep_node_for(experiment),
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
    let mut round = Round::new(state, offers(state, view, now), config);
    let mut shares = round.shares();
    let mut placements = Vec::new();
    for experiment in new.iter().filter_map(|id| state.experiment(*id)) {
        let waits = matches!(experiment.phase, ExperimentPhase::Queued { .. });
        if !waits || !round.may_run(experiment, &shares) {
            continue;
        }
        if let Some(placement) = round.place(experiment) {
            let more = Holding::wanted(&experiment.spec.resources);
            shares.add(state, &Consumer::of(experiment), more);
            placements.push(placement);
        }
    }
    placements
}

/// Whether somebody who waits may keep a node free: then only [`place_next`] is right.
#[must_use]
pub fn keeps_nodes_free(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    but: &[ExperimentId],
) -> bool {
    let offers = offers(state, view, now);
    let others = state.waiting().filter(|one| !but.contains(&one.id));
    let mut impossible: Vec<&ResourceRequest> = Vec::new();
    others.filter(|one| state.held(one).is_none()).any(|one| {
        let request = &one.spec.resources;
        if impossible.iter().any(|known| asks_more(request, known)) {
            return false;
        }
        let possible = offers.iter().any(|offer| could_ever_fit(offer, request));
        if !possible && impossible.len() < MAX_REMEMBERED_MISFITS {
            impossible.push(request);
        }
        possible
    })
}

/// What one round has decided so far.
pub(crate) struct Round<'a> {
    state: &'a ClusterState,
    config: &'a SchedulerConfig,
    pub(crate) packing: Packing,
    /// Nodes that are kept free, each for one experiment in front, by their place.
    kept: BTreeMap<usize, Reservation>,
    /// Whether somebody who waits in front was looked at already.
    somebody_waits: bool,
    ends: Option<Ends>,
    misfits: Vec<Misfit<'a>>,
    /// State time.
    pub(crate) now: Timestamp,
}

/// One that fits nowhere in this round.
struct Misfit<'a> {
    who: Who<'a>,
    /// How long it would run; none: nobody knows.
    duration: Option<DurationMs>,
}

impl Misfit<'_> {
    /// Whether it tells that this one does not fit either: the same user asks for at least as much for at least as long.
    fn tells_of(&self, who: Who<'_>, duration: Option<DurationMs>) -> bool {
        let longer = match (self.duration, duration) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(known), Some(duration)) => duration >= known,
        };
        longer && self.who.user == who.user && asks_more(who.request, self.who.request)
    }
}

impl<'a> Round<'a> {
    pub(crate) fn new(
        state: &'a ClusterState,
        offers: Vec<NodeOffer>,
        config: &'a SchedulerConfig,
    ) -> Self {
        Self {
            state,
            config,
            packing: Packing::new(offers, Arc::clone(&config.experience)),
            kept: BTreeMap::new(),
            somebody_waits: false,
            ends: None,
            misfits: Vec::new(),
            now: state.time().max(config.clock),
        }
    }

    pub(crate) fn shares(&self) -> Shares {
        let capacity = self.packing.offers().iter().map(|offer| &offer.capacity);
        Shares::of(self.state, capacity, self.now)
    }

    pub(crate) fn line(&self) -> Line<'a> {
        Line::of(self.state, self.shares())
    }

    /// No node takes anything.
    fn is_closed(&self) -> bool {
        !self.packing.offers().iter().any(NodeOffer::is_open)
    }

    /// Neither a person nor a limit keeps it from being placed.
    pub(crate) fn may_run(&self, experiment: &Experiment, shares: &Shares) -> bool {
        // Gangs are not built yet; submission refuses them.
        experiment.spec.resources.nodes == 1
            && self.state.held(experiment).is_none()
            && over_limit(self.state, shares, experiment).is_none()
    }

    pub(crate) fn who(&self, experiment: &'a Experiment) -> Who<'a> {
        Who {
            request: &experiment.spec.resources,
            user: &experiment.author.user,
            now: self.now,
        }
    }

    pub(crate) fn place(&mut self, experiment: &'a Experiment) -> Option<PlaceAttempt> {
        let (who, duration) = (self.who(experiment), experiment.spec.policy.duration());
        let own = self
            .state
            .kept_place(experiment.id)
            .map(|kept| &kept.placement.node);
        let own = own.and_then(|node| self.give_back(experiment.id, node));
        let is_known = self
            .misfits
            .iter()
            .any(|misfit| misfit.tells_of(who, duration));
        if is_known && own.is_none() {
            return None;
        }
        let Some(choice) = self.choose(experiment, own) else {
            if self.misfits.len() < MAX_REMEMBERED_MISFITS && own.is_none() {
                self.misfits.push(Misfit { who, duration });
            }
            return None;
        };
        let placement = self.placement(experiment, &choice);
        self.packing.book(choice.at, &choice.resources);
        if who.request.exclusive {
            let alone = |offer: &mut NodeOffer| offer.tenants.alone = true;
            self.packing.change(choice.at, alone);
        }
        if let Some(kept) = self.kept.get_mut(&choice.at)
            && !kept.is_back(duration, self.now)
        {
            kept.book(&choice.resources);
        }
        Some(placement)
    }

    /// Puts what preemption has freed for an experiment into what it can have; the node's place.
    fn give_back(&mut self, id: ExperimentId, node: &NodeId) -> Option<usize> {
        let mut nodes = self.packing.offers().iter();
        let at = nodes.position(|offer| offer.node == *node)?;
        self.packing.change(at, |offer| {
            let (own, others) = std::mem::take(&mut offer.kept)
                .into_iter()
                .partition(|(whose, _)| *whose == id);
            offer.kept = others;
            let own: Vec<(ExperimentId, Resources)> = own;
            for (_, kept) in &own {
                offer.tenants.attempts += 1;
                offer.unbook(kept);
            }
        });
        Some(at)
    }

    /// Whether it may use a node that is kept for somebody in some way.
    pub(crate) fn is_allowed(&self, at: usize, experiment: &Experiment) -> bool {
        let who = Who {
            request: &experiment.spec.resources,
            user: &experiment.author.user,
            now: self.now,
        };
        let duration = experiment.spec.policy.duration();
        let ways = fits(&self.packing.offers()[at], who);
        ways.iter().any(|resources| {
            let kept = self.kept.get(&at);
            kept.is_none_or(|kept| is_allowed(self.state, kept, resources, (duration, self.now)))
        })
    }

    fn choose(&mut self, experiment: &'a Experiment, own: Option<usize>) -> Option<Choice> {
        let who = self.who(experiment);
        let avoid = failed_nodes(experiment);
        let wishes = Wishes {
            avoid: &avoid,
            prefer: &experiment.spec.prefer_nodes,
            tree: experiment.spec.source.as_ref().map(|source| &source.tree),
        };
        let (state, kept, now) = (self.state, &self.kept, self.now);
        let duration = experiment.spec.policy.duration();
        let allowed = |at: usize, resources: &Resources| {
            let reservation: Option<&Reservation> = kept.get(&at);
            reservation.is_none_or(|kept| is_allowed(state, kept, resources, (duration, now)))
        };
        let is_open = |at: usize| match own {
            Some(own) if own != at => Openness::Closed,
            Some(_) => Openness::Open,
            None if kept.contains_key(&at) => Openness::Kept,
            None => Openness::Open,
        };
        self.packing.choose(who, wishes, allowed, is_open)
    }

    fn placement(&self, experiment: &Experiment, choice: &Choice) -> PlaceAttempt {
        let offer = &self.packing.offers()[choice.at];
        let asked = experiment.spec.policy.lease_ms;
        let lease_ms = if asked.0 > 0 {
            asked.max(MIN_LEASE)
        } else {
            self.config.lease_ms
        };
        let rank = RankPlacement {
            node: offer.node.clone(),
            resources: choice.resources.clone(),
        };
        let capacity = RankCapacity {
            node_started_at: offer.node_started_at,
            total: offer.capacity.clone(),
        };
        let next = choice.next.map(|next| &self.packing.offers()[next]);
        PlaceAttempt {
            experiment: experiment.id,
            attempt: u32::try_from(experiment.attempts.len() + 1).unwrap_or(u32::MAX),
            computed_at: self.state.applied(),
            mirror: self.mirror(experiment.id, offer),
            lease_ms,
            reason: reason(offer, &rank.resources, choice.fitting, next),
            ranks: vec![(rank, capacity)],
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

    /// Keeps a node for one that does not fit now, if it is the first of these or has waited for long.
    pub(crate) fn keep_node_for(&mut self, experiment: &'a Experiment) {
        let ExperimentPhase::Queued { since } = experiment.phase else {
            return;
        };
        let is_old = self.now.since(since) >= self.config.reserve_after;
        let most = (self.packing.offers().len() / 4).max(1);
        if self.kept.len() >= most || (self.somebody_waits && !is_old) {
            return;
        }
        let state = self.state;
        let who = self.who(experiment);
        let ends = self.ends.get_or_insert_with(|| Ends::of(state));
        let kept = &self.kept;
        let offers = self.packing.offers().iter().enumerate();
        let others = offers.filter(|(at, _)| !kept.contains_key(at));
        let chosen = Reservation::choose(experiment, others.map(|(_, offer)| offer), ends, who);
        let Some((node, reservation)) = chosen else {
            return; // It fits no node: it keeps nobody waiting.
        };
        self.somebody_waits = true;
        // When nobody knows, a node is kept empty only for who has waited for long.
        if reservation.shadow.is_none() && !is_old {
            return;
        }
        let mut nodes = self.packing.offers().iter();
        if let Some(at) = nodes.position(|offer| offer.node == node) {
            self.kept.insert(at, reservation);
        }
    }

    /// For whom a node is kept, and until when it is expected to be.
    pub(crate) fn kept_for(&self, at: usize) -> Option<&Reservation> {
        self.kept.get(&at)
    }
}

/// Whether these resources may be taken for a duration from a node that is kept.
fn is_allowed(
    state: &ClusterState,
    kept: &Reservation,
    resources: &Resources,
    (duration, now): (Option<DurationMs>, Timestamp),
) -> bool {
    let owner = state.experiment(kept.experiment);
    owner.is_none_or(|owner| {
        let owner = Who {
            request: &owner.spec.resources,
            user: &owner.author.user,
            now,
        };
        kept.allows(resources, duration, owner)
    })
}

/// The limit that keeps an experiment from being placed, with what was placed in this round.
pub(crate) fn over_limit(
    state: &ClusterState,
    shares: &Shares,
    experiment: &Experiment,
) -> Option<OverLimit> {
    let queue = state.queue(&experiment.queue)?;
    let (of_queue, of_user) = shares.holdings(&Consumer::of(experiment));
    let more = Holding::wanted(&experiment.spec.resources);
    queue.over_limit(of_queue, of_user, more)
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
    // Memory alone is another part of each GPU.
    let same_kind = (request.gpu_milli == 0) == (misfit.gpu_milli == 0) || misfit.vram_bytes == 0;
    let stricter = misfit.constraints.is_empty() || request.constraints == misfit.constraints;
    let pickier = misfit.gpu_models.is_empty() || request.gpu_models == misfit.gpu_models;
    same_kind
        && stricter
        && pickier
        && request.exclusive >= misfit.exclusive
        && request.cpu_milli >= misfit.cpu_milli
        && request.memory_bytes >= misfit.memory_bytes
        && request.disk_bytes >= misfit.disk_bytes
        && request.gpu_milli >= misfit.gpu_milli
        && request.vram_bytes == misfit.vram_bytes
}

fn reason(
    offer: &NodeOffer,
    taken: &Resources,
    fitting: usize,
    next: Option<&NodeOffer>,
) -> String {
    let first = match fitting {
        1 => "the only node with room".to_owned(),
        several => format!("best fit of {several} nodes"),
    };
    let left = &offer.free;
    let mut text = format!(
        "{first}: {} keeps {} and {}",
        offer.name,
        cpus(left.cpu_milli.saturating_sub(taken.cpu_milli)),
        bytes(left.memory_bytes.saturating_sub(taken.memory_bytes))
    );
    if !left.gpus.is_empty() {
        let free: u64 = left.gpus.iter().map(|gpu| gpu.milli).sum();
        let milli: u64 = taken.gpus.iter().map(|gpu| gpu.milli).sum();
        text.push_str(&format!(" and {} gpus", whole(free.saturating_sub(milli))));
    }
    text += " free";
    if let Some(next) = next {
        text.push_str(&format!("; next best is {}", next.name));
    }
    text
}

/// FNV-1a over both names.
fn rendezvous(experiment: ExperimentId, node: &NodeId) -> u64 {
    let id = experiment.bits().to_le_bytes();
    let bytes = id.iter().chain(node.as_str().as_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
