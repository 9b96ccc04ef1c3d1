//! One round of decisions: what is left of each node, for whom some are kept, and what was found out on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use state_machine::{
    Attempt, ClusterState, Consumer, Experiment, ExperimentPhase, Holding, Limits, OverLimit,
    PlaceAttempt, RankCapacity,
};
use types::{DurationMs, ExperimentId, NodeId, RankPlacement, Resources, Timestamp};

use crate::amount::{bytes, cpus, whole};
use crate::backfill::{Ends, Reservation};
use crate::fit::{Who, fits};
use crate::line::{Aging, Line};
use crate::mirror::Mirrors;
use crate::misfits::Misfits;
use crate::offer::NodeOffer;
use crate::packing::{Choice, Openness, Packing, Wishes};
use crate::place::SchedulerConfig;
use crate::shares::Shares;

/// Shortest lease that a submitter gets: below, one lost packet and an election end the attempt.
const MIN_LEASE: DurationMs = DurationMs::from_secs(2);
/// Most nodes that are kept free at once: each takes a look at all others, and the first in line are served next.
const MAX_KEPT: usize = 16;

/// What one round has decided so far.
pub(crate) struct Round<'a> {
    state: &'a ClusterState,
    config: &'a SchedulerConfig,
    pub(crate) packing: Packing,
    /// Nodes that are kept free, each for one experiment in front, by their place.
    kept: BTreeMap<usize, Reservation>,
    /// Whether somebody who waits in front was looked at already.
    somebody_waits: bool,
    ends: Option<Ends<'a>>,
    misfits: Misfits<'a>,
    /// Who may keep the second copy of records.
    mirrors: Mirrors,
    /// State time.
    pub(crate) now: Timestamp,
}

impl<'a> Round<'a> {
    pub(crate) fn new(
        state: &'a ClusterState,
        offers: Vec<NodeOffer>,
        config: &'a SchedulerConfig,
    ) -> Self {
        let packing = Packing::new(offers, Arc::clone(&config.experience));
        Self::with(state, packing, config)
    }

    pub(crate) fn with(
        state: &'a ClusterState,
        packing: Packing,
        config: &'a SchedulerConfig,
    ) -> Self {
        let offers = packing.offers();
        let by_user = offers.iter().any(|offer| offer.reserved.is_some());
        Self {
            state,
            config,
            mirrors: Mirrors::of(offers),
            packing,
            kept: BTreeMap::new(),
            somebody_waits: false,
            ends: None,
            misfits: Misfits::new(by_user),
            now: state.time().max(config.clock),
        }
    }

    pub(crate) fn shares(&self) -> Shares {
        let capacity = self.packing.offers().iter().map(|offer| &offer.capacity);
        Shares::of(self.state, capacity, self.now)
    }

    pub(crate) fn aging(&self) -> Aging {
        Aging {
            now: self.now,
            serve_after: self.config.serve_after,
        }
    }

    pub(crate) fn line(&self) -> Line<'a> {
        Line::of(self.state, self.shares(), self.aging())
    }

    /// No node takes anything.
    pub(crate) fn is_closed(&self) -> bool {
        !self.packing.offers().iter().any(NodeOffer::is_open)
    }

    /// Neither a person nor a limit keeps it from being placed.
    pub(crate) fn may_run(&self, experiment: &Experiment, shares: &Shares) -> bool {
        self.state.held(experiment).is_none()
            && over_limit(self.state, shares, experiment).is_none()
    }

    pub(crate) fn who(&self, experiment: &'a Experiment) -> Who<'a> {
        Who {
            request: &experiment.spec.resources,
            user: &experiment.author.user,
            now: self.now,
        }
    }

    /// On the places that preemption has freed for it, if it can have them now, else wherever there is room.
    pub(crate) fn place(&mut self, experiment: &'a Experiment) -> Option<PlaceAttempt> {
        if let Some(placement) = self.place_on_kept(experiment) {
            return Some(placement);
        }
        let (who, duration) = (self.who(experiment), experiment.spec.policy.duration());
        if self.misfits.tell_of(who, duration) {
            return None;
        }
        let Some(choices) = self.choose(experiment, &[]) else {
            self.misfits.note(who, duration);
            return None;
        };
        Some(self.book_all(experiment, &choices))
    }

    /// On the places that are kept for it, which stay kept if not all are free yet.
    fn place_on_kept(&mut self, experiment: &'a Experiment) -> Option<PlaceAttempt> {
        let kept = self.state.kept_place(experiment.id)?;
        let offers = self.packing.offers();
        let find = |place: &RankPlacement| offers.iter().position(|one| one.node == place.node);
        let own: Vec<usize> = kept.places.iter().map(find).collect::<Option<_>>()?;
        let before: Vec<_> = own.iter().map(|at| offers[*at].clone()).collect();
        for at in &own {
            self.give_back(experiment.id, *at);
        }
        let Some(choices) = self.choose(experiment, &own) else {
            for (at, before) in own.into_iter().zip(before) {
                self.packing.change(at, |offer| *offer = before);
            }
            return None;
        };
        Some(self.book_all(experiment, &choices))
    }

    fn book_all(&mut self, experiment: &Experiment, choices: &[Choice]) -> PlaceAttempt {
        let duration = experiment.spec.policy.duration();
        let placement = self.placement(experiment, choices);
        for choice in choices {
            self.book(choice, experiment.spec.resources.exclusive, duration);
        }
        placement
    }

    fn book(&mut self, choice: &Choice, exclusive: bool, duration: Option<DurationMs>) {
        self.packing.book(choice.at, &choice.resources);
        if exclusive {
            let alone = |offer: &mut NodeOffer| offer.tenants.alone = true;
            self.packing.change(choice.at, alone);
        }
        if let Some(kept) = self.kept.get_mut(&choice.at)
            && !kept.is_back(duration, self.now)
        {
            kept.book(&choice.resources);
        }
    }

    /// Puts what preemption has freed for an experiment into what it can have.
    fn give_back(&mut self, id: ExperimentId, at: usize) {
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

    /// A node for each rank, or none at all; only those of its own places, if it has some.
    fn choose(&mut self, experiment: &'a Experiment, own: &[usize]) -> Option<Vec<Choice>> {
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
            [] if kept.contains_key(&at) => Openness::Kept,
            [] => Openness::Open,
            own if own.contains(&at) => Openness::Open,
            _ => Openness::Closed,
        };
        if who.request.nodes > 1 {
            return self.packing.choose_gang(who, wishes, allowed, is_open);
        }
        let choice = self.packing.choose(who, wishes, allowed, is_open)?;
        Some(vec![choice])
    }

    fn placement(&self, experiment: &Experiment, choices: &[Choice]) -> PlaceAttempt {
        let asked = experiment.spec.policy.lease_ms;
        let lease_ms = if asked.0 > 0 {
            asked.max(MIN_LEASE)
        } else {
            self.config.lease_ms
        };
        let (mirror, reason) = match choices {
            [only] => (self.mirror(experiment.id, only.at), self.reason(only)),
            several => (None, self.reason_of_gang(several)), // Its ranks keep each other's.
        };
        PlaceAttempt {
            experiment: experiment.id,
            attempt: u32::try_from(experiment.attempts.len() + 1).unwrap_or(u32::MAX),
            computed_at: self.state.applied(),
            mirror,
            lease_ms,
            reason,
            ranks: choices.iter().map(|choice| self.rank(choice)).collect(),
        }
    }

    fn rank(&self, choice: &Choice) -> (RankPlacement, RankCapacity) {
        let offer = &self.packing.offers()[choice.at];
        let placement = RankPlacement {
            node: offer.node.clone(),
            resources: choice.resources.clone(),
        };
        let capacity = RankCapacity {
            node_started_at: offer.node_started_at,
            total: offer.capacity.clone(),
        };
        (placement, capacity)
    }

    fn reason(&self, choice: &Choice) -> String {
        let offers = self.packing.offers();
        let next = choice.next.map(|next| &offers[next]);
        reason(&offers[choice.at], &choice.resources, choice.fitting, next)
    }

    fn reason_of_gang(&self, choices: &[Choice]) -> String {
        let offers = choices
            .iter()
            .map(|choice| &self.packing.offers()[choice.at]);
        let names: Vec<_> = offers.clone().map(|offer| offer.name.as_str()).collect();
        let domains: BTreeSet<_> = offers.map(NodeOffer::labelled_domain).collect();
        let fitting = choices.first().map_or(0, |choice| choice.fitting);
        let mut text = match fitting == names.len() {
            true => format!("the only {fitting} nodes with room"),
            false => format!("the best {} of {fitting} nodes with room", names.len()),
        };
        text.push_str(&format!(": {}", names.join(", ")));
        match domains.first().copied() {
            Some("") | None => {}
            Some(one) if domains.len() == 1 => text.push_str(&format!("; all in {one}")),
            Some(_) => text.push_str(&format!("; in {} failure domains", domains.len())),
        }
        text
    }

    fn mirror(&self, experiment: ExperimentId, on: usize) -> Option<NodeId> {
        let at = self.mirrors.best(experiment, on)?;
        Some(self.packing.offers()[at].node.clone())
    }

    /// It fits nowhere, as is known, and no node is kept for it: nothing more needs a look.
    pub(crate) fn is_passed_over(&self, experiment: &'a Experiment) -> bool {
        let duration = experiment.spec.policy.duration();
        let keeps_more =
            !self.somebody_waits || (self.kept.len() < self.most_kept() && self.is_old(experiment));
        !keeps_more
            && self.misfits.tell_of(self.who(experiment), duration)
            && self.state.kept_place(experiment.id).is_none()
    }

    fn most_kept(&self) -> usize {
        (self.packing.offers().len() / 4).clamp(1, MAX_KEPT)
    }

    fn is_old(&self, experiment: &Experiment) -> bool {
        match experiment.phase {
            ExperimentPhase::Queued { since } => self.now.since(since) >= self.config.reserve_after,
            ExperimentPhase::Active | ExperimentPhase::Ended { .. } => false,
        }
    }

    /// Keeps nodes for one that does not fit now, if it is the first of these or has waited for long.
    pub(crate) fn keep_nodes_for(&mut self, experiment: &'a Experiment) {
        let is_old = self.is_old(experiment);
        let ranks = experiment.spec.resources.nodes as usize;
        // The first in line is served whatever it takes.
        if self.somebody_waits && (!is_old || self.kept.len() + ranks > self.most_kept()) {
            return;
        }
        let state = self.state;
        let who = self.who(experiment);
        let ends = self.ends.get_or_insert_with(|| Ends::of(state));
        let kept = &self.kept;
        let offers = self.packing.offers().iter().enumerate();
        let others = offers.filter(|(at, _)| !kept.contains_key(at));
        let Some(chosen) = Reservation::choose(experiment, others, ends, who) else {
            return; // It fits no node, or too few: it keeps nobody waiting.
        };
        self.somebody_waits = true;
        // When nobody knows, nodes are kept empty only for who has waited for long.
        if !is_old && chosen.iter().any(|(_, kept)| kept.shadow.is_none()) {
            return;
        }
        self.kept.extend(chosen);
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
    if queue.limits == Limits::default() && queue.user_limits == Limits::default() {
        return None;
    }
    let (of_queue, of_user) = shares.holdings(&Consumer::of(experiment));
    let more = Holding::wanted(&experiment.spec.resources);
    queue.over_limit(of_queue, of_user, more)
}

/// Nodes on which an attempt of it was lost.
fn failed_nodes(experiment: &Experiment) -> Vec<&NodeId> {
    let attempts = experiment.attempts.iter();
    attempts.flat_map(Attempt::failed_nodes).collect()
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
