//! Which node a request goes to, so that the least of the rest is lost.

use std::sync::Arc;

use types::{NodeId, ResourceRequest, Resources};

use crate::experience::{Accepted, Experience};
use crate::fit::ways;
use crate::offer::NodeOffer;

/// Requests whose fit is remembered for every node; with more differing ones the first of them is looked at anew.
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
    found: Vec<(ResourceRequest, Vec<Known>)>,
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
}

/// Less is better, field by field.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Score<'s> {
    failed_before: bool,
    wastes_gpus: bool,
    fit: Fit,
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
            found: Vec::new(),
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
        self.versions[at] += 1;
        let room = self.offers[at].room();
        self.costs[at] = self.experience.profile().cost(&room, &self.accepted[at]);
    }

    /// The best node for a request: rather not one of `failed_on`, never one that is `kept`.
    pub fn choose(
        &mut self,
        request: &ResourceRequest,
        failed_on: &[&NodeId],
        kept: &[NodeId],
    ) -> Option<Choice> {
        let mut known = self.take_known(request);
        let mut best: Option<(Score<'_>, usize)> = None;
        let mut fitting = 0;
        for (at, offer) in self.offers.iter().enumerate() {
            if known[at].version != self.versions[at] {
                known[at] = Known {
                    version: self.versions[at],
                    fit: self.fit(at, request).map(|(fit, _)| fit),
                };
            }
            let Some(fit) = known[at].fit.filter(|_| !kept.contains(&offer.node)) else {
                continue;
            };
            fitting += 1;
            let score = Score {
                failed_before: failed_on.contains(&&offer.node),
                wastes_gpus: request.gpu_milli == 0 && !offer.gpus.is_empty(),
                fit,
                node: &offer.node,
            };
            if best.as_ref().is_none_or(|(least, _)| score < *least) {
                best = Some((score, at));
            }
        }
        let chosen = best.map(|(_, at)| at);
        let choice = chosen.and_then(|at| {
            let (_, resources) = self.fit(at, request)?;
            Some(Choice {
                at,
                resources,
                fitting,
            })
        });
        self.found.push((request.clone(), known));
        choice
    }

    fn take_known(&mut self, request: &ResourceRequest) -> Vec<Known> {
        let place = self.found.iter().position(|(known, _)| known == request);
        if let Some(place) = place {
            return self.found.swap_remove(place).1;
        }
        if self.found.len() >= MAX_REMEMBERED {
            self.found.swap_remove(0);
        }
        let never = Known {
            version: u32::MAX,
            fit: None,
        };
        vec![never; self.offers.len()]
    }

    /// The best way to put a request on a node.
    fn fit(&self, at: usize, request: &ResourceRequest) -> Option<(Fit, Resources)> {
        let offer = &self.offers[at];
        let rated = ways(offer, request).into_iter().map(|resources| {
            let fit = Fit {
                rise: self.rise(at, &resources),
                left_over: self.left_over(offer, &resources),
            };
            (fit, resources)
        });
        rated.min_by_key(|(fit, resources)| {
            let share = resources.gpus.first();
            // Among equals the fullest, then the first.
            let gpu =
                share.and_then(|share| offer.gpus.iter().find(|gpu| gpu.index == share.index));
            let gpu = gpu.map(|gpu| (gpu.free().milli, gpu.vram_total_bytes, gpu.index));
            (*fit, gpu)
        })
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
