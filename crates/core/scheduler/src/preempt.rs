//! Who makes room for whom.
//!
//! One of a higher class may take the place of a lower one. Within a class only a user who has less than a fair share, with
//! what is asked for, takes from one who has more. The cheapest victims go first: of the lowest class, with a checkpoint,
//! the youngest.

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use membership::View;
use state_machine::{
    Attempt, ClusterState, Consumer, Experiment, ExperimentPhase, Holding, PreemptFor, class,
};
use types::{AttemptToken, NodeId, RankPlacement, Resources, Timestamp};

use crate::fit::{Who, could_ever_fit, fits};
use crate::line::Line;
use crate::offer::{NodeOffer, offers};
use crate::place::SchedulerConfig;
use crate::round::Round;
use crate::shares::Shares;

/// Waiting experiments that are looked at in one round: who stands further behind is not served next.
const MAX_LOOKED_AT: usize = 16;

/// Somebody who may have to go, as one node sees it; with a gang go all of its ranks.
struct Victim<'a> {
    experiment: &'a Experiment,
    attempt: &'a Attempt,
    /// What it holds on this node.
    resources: &'a Resources,
    /// By a fair share rather than by class.
    by_share: bool,
}

impl Victim<'_> {
    /// Less is cheaper: class, then no checkpoint, then on how many nodes, then what it has done.
    fn price(&self) -> (i32, bool, usize, Reverse<Timestamp>, AttemptToken) {
        let keeps_work = !self.experiment.spec.policy.checkpoint_directory.is_empty();
        let begun = self
            .attempt
            .ranks
            .iter()
            .filter_map(|rank| rank.started_at)
            .min();
        let begun = begun.unwrap_or(self.attempt.placed_at);
        (
            class(self.experiment),
            !keeps_work,
            self.attempt.ranks.len(),
            Reverse(begun),
            self.attempt.token,
        )
    }

    /// All that it holds.
    fn holding(&self) -> Holding {
        let open = self.attempt.open_ranks();
        let held = open.map(|(_, rank)| Holding::of(&rank.placement.resources));
        held.fold(Holding::default(), Holding::plus)
    }
}

/// A node that is there for one rank once its victims are gone.
struct Candidate<'a, 'o> {
    offer: &'o NodeOffer,
    /// None: it has room already, and waits for the other nodes of a gang.
    victims: Vec<Victim<'a>>,
    resources: Resources,
}

impl Candidate<'_, '_> {
    fn price(&self) -> impl Ord + use<> {
        let prices: Vec<_> = self.victims.iter().map(Victim::price).collect();
        let highest = prices.iter().map(|price| price.0).max();
        let lost = prices.iter().filter(|price| price.1).count();
        let oldest = prices.iter().map(|price| price.3).max();
        let node = self.offer.node.clone();
        (highest, lost, prices.len(), oldest, node)
    }
}

/// Proposes who makes room for those in front of the line; call when nothing more can be placed.
#[must_use]
pub fn preempt_next(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    config: &SchedulerConfig,
) -> Option<PreemptFor> {
    let round = Round::new(state, offers(state, view, now), config);
    let mut line = Line::of(
        state,
        after_all_have_gone(state, round.shares()),
        round.aging(),
    );
    let fair = OnceCell::new();
    for _ in 0..MAX_LOOKED_AT {
        let experiment = line.next()?;
        if state.kept_place(experiment.id).is_some() || !round.may_run(experiment, &line.shares) {
            continue;
        }
        let shares = (&line.shares, &fair);
        if let Some(decision) = preempt_for(state, &round, config, shares, experiment) {
            return Some(decision);
        }
    }
    None
}

/// Shares as they will be when all that were asked to go are gone, and those whom they go for have their places.
fn after_all_have_gone(state: &ClusterState, mut shares: Shares) -> Shares {
    for (experiment, kept) in state.kept_places() {
        for place in &kept.places {
            let place = Holding::of(&place.resources);
            shares.add(state, &Consumer::of(experiment), place);
        }
    }
    let going = state.active().filter(|(one, _)| one.yields.is_some());
    for (experiment, attempt) in going {
        for (_, rank) in attempt.open_ranks() {
            let held = Holding::of(&rank.placement.resources);
            shares.take(state, &Consumer::of(experiment), held);
        }
    }
    shares
}

fn preempt_for<'a>(
    state: &'a ClusterState,
    round: &Round<'a>,
    config: &SchedulerConfig,
    (shares, fair): (&Shares, &OnceCell<FairShares>),
    experiment: &'a Experiment,
) -> Option<PreemptFor> {
    let ExperimentPhase::Queued { since } = experiment.phase else {
        return None;
    };
    let is_old = round.now.since(since) >= config.preempt_after;
    // Only who is old takes by its share: to know who may have how much, all that waits is looked through.
    let nobody = FairShares::default();
    let fair = match is_old {
        true => fair.get_or_init(|| FairShares::of(state)),
        false => &nobody,
    };
    let deserves = is_old && fair.deserves(state, shares, experiment);
    let who = round.who(experiment);
    let ranks = who.request.nodes as usize;
    let candidates = round.packing.offers().iter().filter_map(|offer| {
        if !offer.is_open() || !could_ever_fit(offer, who.request) {
            return None;
        }
        if let Some(resources) = fits(offer, who).into_iter().next() {
            // An only one that fits already just waits for the next round.
            let victims = Vec::new();
            return (ranks > 1).then_some(Candidate {
                offer,
                victims,
                resources,
            });
        }
        let victims = victims(state, fair, shares, offer, experiment, deserves);
        let (victims, resources) = enough(offer, who, victims)?;
        Some(Candidate {
            offer,
            victims,
            resources,
        })
    });
    let mut chosen: Vec<_> = candidates.collect();
    chosen.sort_by_cached_key(Candidate::price);
    chosen.truncate(ranks);
    let mut victims: Vec<_> = chosen
        .iter()
        .flat_map(|candidate| &candidate.victims)
        .collect();
    // The same order as on one node: of what may go together the youngest goes first.
    victims.sort_by_key(|victim| victim.price());
    victims.dedup_by_key(|victim| victim.attempt.token);
    // Room for all or for none: nobody goes for a part of it.
    if chosen.len() < ranks || victims.is_empty() {
        return None;
    }
    let mut gone = BTreeMap::new();
    let mut by_share = victims.iter().filter(|victim| victim.by_share);
    // Each node alone leaves a giver its part; all of them together have to as well.
    if !by_share.all(|victim| fair.gives_up(state, shares, &mut gone, victim)) {
        return None;
    }
    let by_share = victims.iter().any(|victim| victim.by_share);
    let place = |candidate: &Candidate<'_, '_>| RankPlacement {
        node: candidate.offer.node.clone(),
        resources: candidate.resources.clone(),
    };
    Some(PreemptFor {
        beneficiary: experiment.id,
        computed_at: state.applied(),
        places: chosen.iter().map(place).collect(),
        victims: victims.iter().map(|victim| victim.attempt.token).collect(),
        reason: match by_share {
            true => format!(
                "{} has less than a fair share of queue {}",
                experiment.author.user, experiment.queue
            ),
            false => format!("its priority {} is of a higher class", experiment.priority),
        },
    })
}

/// Who may have to go from a node, cheapest first; of those who have more than a fair share only what is beyond it.
fn victims<'a>(
    state: &'a ClusterState,
    fair: &FairShares,
    shares: &Shares,
    offer: &NodeOffer,
    experiment: &Experiment,
    deserves: bool,
) -> Vec<Victim<'a>> {
    let tokens = state.booking(&offer.node).attempts;
    let mut victims: Vec<_> = tokens
        .iter()
        .filter_map(|token| victim(state, token, &offer.node))
        .filter_map(|mut victim| {
            let higher = class(experiment) > class(victim.experiment);
            let same = class(experiment) == class(victim.experiment);
            let other = Consumer::of(experiment) != Consumer::of(victim.experiment);
            // A queue that is served after another takes nothing from it.
            let before = state.band(victim.experiment) < state.band(experiment);
            victim.by_share = same && deserves && other && !before;
            (higher || victim.by_share).then_some(victim)
        })
        .collect();
    victims.sort_by_key(Victim::price);
    let mut gone = BTreeMap::new();
    victims.retain(|victim| !victim.by_share || fair.gives_up(state, shares, &mut gone, victim));
    victims
}

fn victim<'a>(state: &'a ClusterState, token: &AttemptToken, node: &NodeId) -> Option<Victim<'a>> {
    let experiment = state.experiment(token.experiment)?;
    let attempt = experiment.current_attempt()?;
    let rank = attempt.rank(attempt.rank_on(node)?)?;
    // One that is broken goes anyway.
    let stays = experiment.yields.is_none()
        && experiment.stop_requested.is_none()
        && attempt.broken_by().is_none();
    stays.then_some(Victim {
        experiment,
        attempt,
        resources: &rank.placement.resources,
        by_share: false,
    })
}

/// The first victims that make enough room, without any that are not needed, and what is booked in their place.
fn enough<'a>(
    offer: &NodeOffer,
    who: Who<'_>,
    victims: Vec<Victim<'a>>,
) -> Option<(Vec<Victim<'a>>, Resources)> {
    let mut then = offer.clone();
    let mut chosen: Vec<Victim<'a>> = Vec::new();
    let mut found = false;
    for victim in victims {
        then.unbook(victim.resources);
        chosen.push(victim);
        if !fits(&then, who).is_empty() {
            found = true;
            break;
        }
    }
    if !found {
        return None;
    }
    // The dearest that it also fits with stays.
    let mut at = chosen.len();
    while at > 0 {
        at -= 1;
        let mut with = then.clone();
        with.book(chosen[at].resources);
        if chosen.len() > 1 && !fits(&with, who).is_empty() {
            then = with;
            chosen.remove(at);
        }
    }
    let resources = fits(&then, who).into_iter().next()?;
    Some((chosen, resources))
}

/// What each user of each queue may have when all that want something share by weight.
#[derive(Default)]
struct FairShares {
    /// Everybody that holds or wants something.
    consumers: BTreeSet<Consumer>,
}

impl FairShares {
    fn of(state: &ClusterState) -> Self {
        let holding = state.holdings().map(|(consumer, _)| consumer.clone());
        let waiting = state.waiting().filter(|one| state.held(one).is_none());
        Self {
            consumers: holding
                .chain(waiting.map(|one| Consumer::of(one)))
                .collect(),
        }
    }

    /// A consumer's fair share of the cluster, in parts per million.
    fn fair(&self, state: &ClusterState, consumer: &Consumer) -> u64 {
        let queue_weight = |queue| {
            state
                .queue(queue)
                .map_or(1, |queue| u64::from(queue.weight))
        };
        let queues: BTreeSet<_> = self.consumers.iter().map(|one| &one.queue).collect();
        let all: u64 = queues.into_iter().map(queue_weight).sum();
        let users = self
            .consumers
            .iter()
            .filter(|one| one.queue == consumer.queue);
        let of_queue: u64 = users
            .map(|one| u64::from(state.user_weight(&one.user)))
            .sum();
        let share = u128::from(queue_weight(&consumer.queue))
            * u128::from(state.user_weight(&consumer.user))
            * 1_000_000
            / u128::from(all.max(1))
            / u128::from(of_queue.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Who waits stays within a fair share with what is asked for.
    fn deserves(&self, state: &ClusterState, shares: &Shares, experiment: &Experiment) -> bool {
        let consumer = Consumer::of(experiment);
        let more = Holding::wanted(&experiment.spec.resources);
        shares.held(&consumer, more) <= self.fair(state, &consumer)
    }

    /// Whether the user of an attempt has more than a fair share without those that are gone, and without it too; then it
    /// is gone as well.
    fn gives_up(
        &self,
        state: &ClusterState,
        shares: &Shares,
        gone: &mut BTreeMap<Consumer, Holding>,
        victim: &Victim<'_>,
    ) -> bool {
        let giver = Consumer::of(victim.experiment);
        let fair = self.fair(state, &giver);
        let before = gone.get(&giver).copied().unwrap_or_default();
        let after = before.plus(victim.holding());
        let beyond = shares.held_without(&giver, before) > fair
            && shares.held_without(&giver, after).saturating_add(MARGIN) >= fair;
        if beyond {
            gone.insert(giver, after);
        }
        beyond
    }
}

/// Parts per million by which a victim may fall below its fair share: shares come in whole experiments.
const MARGIN: u64 = 50_000;
