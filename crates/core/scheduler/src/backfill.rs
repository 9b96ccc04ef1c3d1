//! Room that is kept for who waits in front, and who may use it meanwhile (EASY backfill: Lifka, "The ANL/IBM SP
//! scheduling system", JSSPP 1995).

use std::collections::BTreeMap;

use state_machine::{ClusterState, Experiment};
use types::{DurationMs, ExperimentId, NodeId, Resources, Timestamp};

use crate::fit::{Who, could_ever_fit, fits};
use crate::offer::NodeOffer;

/// When what runs on each node is expected to end.
pub(crate) struct Ends<'a> {
    /// By node: first end in front, with what it frees; none: nobody knows when.
    by_node: BTreeMap<&'a NodeId, Vec<End<'a>>>,
}

type End<'a> = (Option<Timestamp>, &'a Resources);

impl<'a> Ends<'a> {
    pub(crate) fn of(state: &'a ClusterState) -> Self {
        let mut by_node: BTreeMap<&NodeId, Vec<End<'_>>> = BTreeMap::new();
        for (experiment, attempt) in state.active() {
            let duration = experiment.spec.policy.duration();
            for rank in attempt.ranks.iter().filter(|rank| !rank.ended) {
                let begun = rank.started_at.unwrap_or(attempt.placed_at);
                let end = duration.map(|duration| Timestamp(begun.0.saturating_add(duration.0)));
                let placement = &rank.placement;
                let ends = by_node.entry(&placement.node).or_default();
                ends.push((end, &placement.resources));
            }
        }
        for ends in by_node.values_mut() {
            // What is overdue may end at any time; what nobody knows of ends last.
            ends.sort_by_key(|(end, _)| end.unwrap_or(NEVER));
        }
        Self { by_node }
    }

    fn on(&self, node: &NodeId) -> &[End<'a>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }
}

/// Nobody knows when.
pub(crate) const NEVER: Timestamp = Timestamp(u64::MAX);

/// A node that is kept for one experiment.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    /// For whom.
    pub(crate) experiment: ExperimentId,
    /// When it is expected to start there; none: nobody knows.
    pub(crate) shadow: Option<Timestamp>,
    /// The node as it will be then, without it.
    then: NodeOffer,
}

/// When the experiment would fit on the node if nothing else was placed there, and what the node has then.
fn shadow(
    offer: &NodeOffer,
    ends: &Ends<'_>,
    who: Who<'_>,
) -> Option<(Option<Timestamp>, NodeOffer)> {
    if !offer.is_open() || !could_ever_fit(offer, who.request) {
        return None;
    }
    let mut then = offer.clone();
    let mut known = Some(who.now);
    for (end, freed) in ends.on(&offer.node) {
        known = known.and_then(|known| end.map(|end| end.max(known)));
        then.unbook(freed);
        if !fits(&then, who).is_empty() {
            return Some((known, then));
        }
    }
    None
}

/// The same for a gang, of which a node that has room waits for the others.
pub(crate) fn shadow_of_rank(
    offer: &NodeOffer,
    ends: &Ends<'_>,
    who: Who<'_>,
) -> Option<(Option<Timestamp>, NodeOffer)> {
    if who.request.nodes > 1 && !fits(offer, who).is_empty() {
        return Some((Some(who.now), offer.clone()));
    }
    shadow(offer, ends, who)
}

impl Reservation {
    /// Keeps the node that is ready first for the experiment, or as many as it needs, by their places; when nobody knows,
    /// the smallest that is large enough. All of a gang's are needed when the last of them is ready. None: it fits too few.
    pub(crate) fn choose<'a>(
        experiment: &Experiment,
        offers: impl Iterator<Item = (usize, &'a NodeOffer)>,
        ends: &Ends<'_>,
        who: Who<'_>,
    ) -> Option<Vec<(usize, Self)>> {
        let mut candidates: Vec<_> = offers
            .filter_map(|(at, offer)| {
                let (shadow, then) = shadow_of_rank(offer, ends, who)?;
                Some((at, offer, shadow.unwrap_or(NEVER), then))
            })
            .collect();
        // By size and id, not by what is free just now: the choice must not move while the node empties.
        candidates.sort_by_key(|(_, offer, shadow, _)| {
            let size = &offer.capacity;
            let node = &offer.node;
            let size = (size.gpus.len(), size.cpu_milli, size.memory_bytes);
            (*shadow, size, node)
        });
        let ranks = experiment.spec.resources.nodes as usize;
        candidates.truncate(ranks);
        let last = candidates.last().filter(|_| candidates.len() == ranks)?.2;
        let shadow = (last != NEVER).then_some(last);
        let reserve = |(at, _, _, then): (usize, &NodeOffer, Timestamp, NodeOffer)| {
            let reservation = Self {
                experiment: experiment.id,
                shadow,
                then,
            };
            (at, reservation)
        };
        Some(candidates.into_iter().map(reserve).collect())
    }

    /// Whether `resources` may be taken on the node for `duration` without delaying whom it is kept for: they are back
    /// by then, or both fit.
    pub(crate) fn allows(
        &self,
        resources: &Resources,
        duration: Option<DurationMs>,
        owner: Who<'_>,
    ) -> bool {
        if self.is_back(duration, owner.now) {
            return true;
        }
        let mut then = self.then.clone();
        then.book(resources);
        !fits(&then, owner).is_empty()
    }

    /// Whether what begins now for a duration is over before the node is needed.
    pub(crate) fn is_back(&self, duration: Option<DurationMs>, now: Timestamp) -> bool {
        let both = self.shadow.zip(duration);
        both.is_some_and(|(shadow, duration)| now.0.saturating_add(duration.0) <= shadow.0)
    }

    /// Something was placed on the node that outlives the wait.
    pub(crate) fn book(&mut self, resources: &Resources) {
        self.then.book(resources);
    }
}
