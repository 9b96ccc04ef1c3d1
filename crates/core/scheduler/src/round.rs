//! One round of decisions: what is left of each node, for whom some are kept, and what was found out on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use state_machine::{
    ClusterState, Consumer, Experiment, ExperimentPhase, Holding, Limits, OverLimit, PlaceAttempt,
    RankCapacity,
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
        if own.is_none() && self.misfits.tell_of(who, duration) {
            return None;
        }
        let Some(choice) = self.choose(experiment, own) else {
            if own.is_none() {
                self.misfits.note(who, duration);
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
            mirror: self.mirror(experiment.id, choice.at),
            lease_ms,
            reason: reason(offer, &rank.resources, choice.fitting, next),
            ranks: vec![(rank, capacity)],
        }
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

    /// Keeps a node for one that does not fit now, if it is the first of these or has waited for long.
    pub(crate) fn keep_node_for(&mut self, experiment: &'a Experiment) {
        let is_old = self.is_old(experiment);
        if self.kept.len() >= self.most_kept() || (self.somebody_waits && !is_old) {
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
    if queue.limits == Limits::default() && queue.user_limits == Limits::default() {
        return None;
    }
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
