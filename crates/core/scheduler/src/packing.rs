//! Which node a request goes to, so that the least of the rest is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use types::{BlobHash, NodeId, ResourceRequest, Resources};

use crate::experience::{Accepted, Experience};
use crate::fit::{Who, fits, wants_gpus};
use crate::offer::NodeOffer;

/// Requests whose fit is remembered for every node; more differing ones are rare and are looked at anew.
const MAX_REMEMBERED: usize = 256;

/// All nodes with what is left of them, and what was found out about them.
#[derive(Clone, Debug)]
pub struct Packing {
    offers: Vec<NodeOffer>,
    experience: Arc<Experience>,
    /// Which GPUs of each node typical requests accept.
    accepted: Vec<Accepted>,
    /// Cost of each node as it is.
    costs: Vec<i64>,
    /// Counts what was booked on each node: what was found out before holds no more.
    versions: Vec<u32>,
    found: BTreeMap<ResourceRequest, Vec<Known>>,
    /// Largest amounts of any node: what left-overs are measured by.
    scale: (u64, u64),
}

/// How a request fits a node at one version of it.
#[derive(Clone, Copy, Debug)]
struct Known {
    version: u32,
    fit: Option<Fit>,
}

/// What it costs to put a request on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    /// Rise of the node's cost.
    rise: i64,
    /// Thousandths of the largest node that stay unused, over all kinds.
    left_over: u64,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The node, by its place among the offers.
    pub at: usize,
    /// What it books there.
    pub resources: Resources,
    /// Nodes that it fits.
    pub fitting: usize,
    /// The node that comes next, if it fits several.
    pub next: Option<usize>,
}

/// What speaks for or against nodes beside how a request fits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes<'w> {
    /// Nodes on which it failed before.
    pub avoid: &'w [&'w NodeId],
    /// Nodes that its owner would like.
    pub prefer: &'w [NodeId],
    /// Its source tree.
    pub tree: Option<&'w BlobHash>,
}

/// Less is better, field by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score<'s> {
    avoided: bool,
    not_preferred: bool,
    wastes_gpus: bool,
    rise: i64,
    left_over: u64,
    node: &'s NodeId,
}

impl Packing {
    /// A packing of these nodes.
    #[must_use]
    pub fn new(offers: Vec<NodeOffer>, experience: Arc<Experience>) -> Self {
        let profile = experience.profile();
        let most = |of: fn(&Resources) -> u64| {
            let amounts = offers.iter().map(|offer| of(&offer.capacity));
            amounts.max().unwrap_or_default().max(1)
        };
        let models = |offer: &NodeOffer| {
            let models: Vec<_> = offer.gpus.iter().map(|gpu| gpu.model.as_str()).collect();
            profile.accepted(&models)
        };
        let accepted: Vec<_> = offers.iter().map(models).collect();
        let costs = offers.iter().zip(&accepted);
        let costs = costs.map(|(offer, accepted)| profile.cost(&offer.room(), accepted));
        Self {
            scale: (most(|all| all.cpu_milli), most(|all| all.memory_bytes)),
            costs: costs.collect(),
            versions: vec![0; offers.len()],
            found: BTreeMap::new(),
            accepted,
            experience,
            offers,
        }
    }

    /// The nodes.
    #[must_use]
    pub fn offers(&self) -> &[NodeOffer] {
        &self.offers
    }

    /// Takes resources of a node.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn book(&mut self, at: usize, resources: &Resources) {
        self.offers[at].book(resources);
        self.renew(at);
    }

    /// Changes a node.
    pub(crate) fn change(&mut self, at: usize, change: impl FnOnce(&mut NodeOffer)) {
        change(&mut self.offers[at]);
        self.renew(at);
    }

    fn renew(&mut self, at: usize) {
        self.versions[at] += 1;
        let room = self.offers[at].room();
        self.costs[at] = self.experience.profile().cost(&room, &self.accepted[at]);
    }

    /// The best node for a request; `allowed` tells for a node, by its place, which bookings are.
    pub fn choose(
        &mut self,
        who: Who<'_>,
        wishes: Wishes<'_>,
        allowed: impl Fn(usize, &Resources) -> bool,
        is_open: impl Fn(usize) -> Openness,
    ) -> Option<Choice> {
        let mut known = self.take_known(who.request);
        let mut best: [Option<(Score<'_>, usize)>; 2] = [None, None];
        let mut fitting = 0;
        for at in 0..self.offers.len() {
            let fit = match is_open(at) {
                Openness::Closed => None,
                Openness::Open if self.offers[at].reserved.is_none() => {
                    self.known(&mut known, at, who)
                }
                Openness::Open => self.fit(at, who, |_| true).map(|(fit, _)| fit),
                Openness::Kept => self
                    .fit(at, who, |resources| allowed(at, resources))
                    .map(|(fit, _)| fit),
            };
            let Some(fit) = fit else {
                continue;
            };
            fitting += 1;
            let score = self.score(at, who.request, fit, wishes);
            if best[0].is_none_or(|(least, _)| score < least) {
                best = [Some((score, at)), best[0]];
            } else if best[1].is_none_or(|(least, _)| score < least) {
                best[1] = Some((score, at));
            }
        }
        let [first, next] = best.map(|best| best.map(|(_, at)| at));
        let choice = first.and_then(|at| {
            let kept = matches!(is_open(at), Openness::Kept);
            let may = |resources: &Resources| !kept || allowed(at, resources);
            let (_, resources) = self.fit(at, who, may)?;
            Some(Choice {
                at,
                resources,
                fitting,
                next,
            })
        });
        self.found.insert(who.request.clone(), known);
        choice
    }

    fn take_known(&mut self, request: &ResourceRequest) -> Vec<Known> {
        if let Some(known) = self.found.remove(request) {
            return known;
        }
        if self.found.len() >= MAX_REMEMBERED {
            self.found.pop_first();
        }
        let never = Known {
            version: u32::MAX,
            fit: None,
        };
        vec![never; self.offers.len()]
    }

    /// How it fits a node, remembered as long as the node does not change.
    fn known(&self, known: &mut [Known], at: usize, who: Who<'_>) -> Option<Fit> {
        let version = self.versions[at];
        if known[at].version != version {
            let fit = self.fit(at, who, |_| true).map(|(fit, _)| fit);
            known[at] = Known { version, fit };
        }
        known[at].fit
    }

    /// The best way to put it on a node.
    fn fit(
        &self,
        at: usize,
        who: Who<'_>,
        may: impl Fn(&Resources) -> bool,
    ) -> Option<(Fit, Resources)> {
        let offer = &self.offers[at];
        let ways = fits(offer, who).into_iter().filter(may);
        let rated = ways.map(|resources| {
            let fit = Fit {
                rise: self.rise(at, &resources),
                left_over: self.left_over(offer, &resources),
            };
            (fit, resources)
        });
        rated.min_by_key(|(fit, _)| *fit) // among equals the first
    }

    fn rise(&self, at: usize, resources: &Resources) -> i64 {
        let profile = self.experience.profile();
        let offer = &self.offers[at];
        if profile.is_empty() || offer.gpus.is_empty() {
            return 0;
        }
        let mut room = offer.room();
        room.cpu_milli = room.cpu_milli.saturating_sub(resources.cpu_milli);
        room.memory_bytes = room.memory_bytes.saturating_sub(resources.memory_bytes);
        for share in &resources.gpus {
            let place = offer.gpus.iter().position(|gpu| gpu.index == share.index);
            if let Some(left) = place.and_then(|place| room.gpus.get_mut(place)) {
                *left = left.saturating_sub(share.milli);
            }
        }
        profile.cost(&room, &self.accepted[at]) - self.costs[at]
    }

    fn score<'s>(
        &'s self,
        at: usize,
        request: &ResourceRequest,
        fit: Fit,
        wishes: Wishes<'_>,
    ) -> Score<'s> {
        let offer = &self.offers[at];
        let node = &offer.node;
        Score {
            avoided: wishes.avoid.contains(&node),
            not_preferred: !wishes.prefer.is_empty() && !wishes.prefer.contains(node),
            wastes_gpus: !wants_gpus(request) && !offer.gpus.is_empty(),
            rise: fit.rise - self.experience.warmth(wishes.tree, node),
            left_over: fit.left_over,
            node,
        }
    }

    /// Thousandths of the largest node that stay unused, over all kinds: the fewer, the better the fit.
    fn left_over(&self, offer: &NodeOffer, take: &Resources) -> u64 {
        let part = |free: u64, take: u64, scale: u64| {
            u128::from(free.saturating_sub(take)) * 1_000 / u128::from(scale)
        };
        let cpu = part(offer.free.cpu_milli, take.cpu_milli, self.scale.0);
        let memory = part(offer.free.memory_bytes, take.memory_bytes, self.scale.1);
        let free: u64 = offer.free.gpus.iter().map(|gpu| gpu.milli).sum();
        let taken: u64 = take.gpus.iter().map(|gpu| gpu.milli).sum();
        let left = cpu + memory + u128::from(free.saturating_sub(taken));
        u64::try_from(left).unwrap_or(u64::MAX)
    }
}

/// Whether a node is there for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Openness {
    /// It is.
    Open,
    /// It is kept for somebody else: only some bookings are allowed.
    Kept,
    /// It is not.
    Closed,
}
