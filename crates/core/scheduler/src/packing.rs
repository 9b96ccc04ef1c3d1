//! Which node a request goes to, so that the least of the rest is lost.

mod gang;

use std::collections::BTreeMap;
use std::sync::Arc;

use types::{BlobHash, NodeId, ResourceRequest, Resources};

use crate::experience::{Accepted, Experience, Profile};
use crate::fit::{Who, fits, wants_gpus};
use crate::offer::NodeOffer;

/// Requests whose fit is remembered for every node; more differing ones are rare and are looked at anew.
const MAX_REMEMBERED: usize = 1_024;
/// Fits that are remembered in all: 128 MiB of them, of which a small cluster needs little.
const MAX_KNOWN: usize = 8 << 20;

/// A version that no node reaches.
const NEVER: u32 = u32::MAX;

/// All nodes with what is left of them, and what was found out about them.
#[derive(Clone, Debug)]
pub struct Packing {
    offers: Vec<NodeOffer>,
    experience: Arc<Experience>,
    /// Which GPUs of each node typical requests accept.
    accepted: Vec<Arc<Accepted>>,
    /// Cost of each node as it is.
    costs: Vec<i64>,
    /// Counts what was booked on each node: what was found out before holds no more.
    versions: Vec<u32>,
    /// The last version at which a node got more: what did not fit since does not fit now.
    grown: Vec<u32>,
    /// Where in `found` each request is.
    places: BTreeMap<ResourceRequest, usize>,
    found: Vec<(ResourceRequest, Vec<Known>)>,
    /// Which of them is forgotten next when there are too many.
    oldest: usize,
    /// Largest amounts of any node: what left-overs are measured by.
    scale: (u64, u64),
}

/// How a request fits a node at one version of it.
#[derive(Clone, Copy, Debug)]
struct Known {
    version: u32,
    left_over: u32,
    /// [`NO_FIT`]: it does not.
    rise: i64,
}

/// No cost rises by this.
const NO_FIT: i64 = i64::MAX;

impl Known {
    fn of(version: u32, fit: Option<Fit>) -> Self {
        let (rise, left_over) = fit.map_or((NO_FIT, 0), |fit| (fit.rise, fit.left_over));
        Self {
            version,
            left_over,
            rise,
        }
    }

    fn fit(self) -> Option<Fit> {
        let (rise, left_over) = (self.rise, self.left_over);
        (rise != NO_FIT).then_some(Fit { rise, left_over })
    }
}

/// What it costs to put a request on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    /// Rise of the node's cost.
    rise: i64,
    /// Thousandths of the largest node that stay unused, over all kinds.
    left_over: u32,
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
struct Score {
    avoided: bool,
    not_preferred: bool,
    wastes_gpus: bool,
    rise: i64,
    left_over: u32,
    /// Place among the offers, which are in the order of their ids.
    at: usize,
}

impl Packing {
    /// A packing of these nodes.
    #[must_use]
    pub fn new(offers: Vec<NodeOffer>, experience: Arc<Experience>) -> Self {
        let profile = experience.profile();
        let accepted = accepted(&offers, profile);
        let costs = offers.iter().zip(&accepted);
        let costs = costs.map(|(offer, accepted)| profile.cost(&offer.room(), accepted));
        Self {
            scale: scale(&offers),
            costs: costs.collect(),
            versions: vec![0; offers.len()],
            grown: vec![0; offers.len()],
            places: BTreeMap::new(),
            found: Vec::new(),
            oldest: 0,
            accepted,
            experience,
            offers,
        }
    }

    /// The same nodes some time later: what was found out about those that did not change holds on.
    pub(crate) fn renewed(mut self, offers: Vec<NodeOffer>, experience: &Arc<Experience>) -> Self {
        let same =
            |(old, new): (&NodeOffer, &NodeOffer)| old.node == new.node && has_same_gpus(old, new);
        let is_alike = Arc::ptr_eq(&self.experience, experience)
            && self.offers.len() == offers.len()
            && self.scale == scale(&offers)
            && self.offers.iter().zip(&offers).all(same);
        if !is_alike {
            return Self::new(offers, Arc::clone(experience));
        }
        for (at, offer) in offers.into_iter().enumerate() {
            if self.offers[at] != offer {
                self.offers[at] = offer;
                self.renew(at);
            }
        }
        self
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
        let grown = self.grown[at];
        self.renew(at);
        self.grown[at] = grown;
    }

    /// Changes a node.
    pub(crate) fn change(&mut self, at: usize, change: impl FnOnce(&mut NodeOffer)) {
        change(&mut self.offers[at]);
        self.renew(at);
    }

    fn renew(&mut self, at: usize) {
        self.versions[at] += 1;
        self.grown[at] = self.versions[at];
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
        let mut best: [Option<Score>; 2] = [None, None];
        let mut fitting = 0;
        self.rate(who, wishes, &allowed, &is_open, |score| {
            fitting += 1;
            if best[0].is_none_or(|least| score < least) {
                best = [Some(score), best[0]];
            } else if best[1].is_none_or(|least| score < least) {
                best[1] = Some(score);
            }
        });
        let [first, next] = best.map(|best| best.map(|score| score.at));
        let at = first?;
        let resources = self.taken(at, who, &allowed, &is_open)?;
        Some(Choice {
            at,
            resources,
            fitting,
            next,
        })
    }

    /// Tells how good each node is that a request fits.
    fn rate(
        &mut self,
        who: Who<'_>,
        wishes: Wishes<'_>,
        allowed: &impl Fn(usize, &Resources) -> bool,
        is_open: &impl Fn(usize) -> Openness,
        mut tell: impl FnMut(Score),
    ) {
        let place = self.place_of(who.request);
        let mut known = std::mem::take(&mut self.found[place].1);
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
            if let Some(fit) = fit {
                tell(self.score(at, who.request, fit, wishes));
            }
        }
        self.found[place].1 = known;
    }

    /// What a request that fits a node books there.
    fn taken(
        &self,
        at: usize,
        who: Who<'_>,
        allowed: &impl Fn(usize, &Resources) -> bool,
        is_open: &impl Fn(usize) -> Openness,
    ) -> Option<Resources> {
        let kept = matches!(is_open(at), Openness::Kept);
        let may = |resources: &Resources| !kept || allowed(at, resources);
        self.fit(at, who, may).map(|(_, resources)| resources)
    }

    /// Where what was found out about a request is; of too many differing ones the oldest is forgotten.
    fn place_of(&mut self, request: &ResourceRequest) -> usize {
        if let Some(place) = self.places.get(request) {
            return *place;
        }
        let never = Known::of(NEVER, None);
        let fresh = (request.clone(), vec![never; self.offers.len()]);
        let most = (MAX_KNOWN / self.offers.len().max(1)).clamp(1, MAX_REMEMBERED);
        let place = if self.found.len() < most {
            self.found.push(fresh);
            self.found.len() - 1
        } else {
            let place = self.oldest;
            self.oldest = (place + 1) % most;
            let (forgotten, _) = std::mem::replace(&mut self.found[place], fresh);
            self.places.remove(&forgotten);
            place
        };
        self.places.insert(request.clone(), place);
        place
    }

    /// How it fits a node, remembered as long as the node does not change.
    fn known(&self, known: &mut [Known], at: usize, who: Who<'_>) -> Option<Fit> {
        let version = self.versions[at];
        let never = known[at].version == NEVER;
        if !never && known[at].rise == NO_FIT && known[at].version >= self.grown[at] {
            known[at].version = version;
        } else if known[at].version != version {
            let fit = self.fit(at, who, |_| true).map(|(fit, _)| fit);
            known[at] = Known::of(version, fit);
        }
        known[at].fit()
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

    fn score(&self, at: usize, request: &ResourceRequest, fit: Fit, wishes: Wishes<'_>) -> Score {
        let offer = &self.offers[at];
        let node = &offer.node;
        Score {
            avoided: wishes.avoid.contains(&node),
            not_preferred: !wishes.prefer.is_empty() && !wishes.prefer.contains(node),
            wastes_gpus: !wants_gpus(request) && !offer.gpus.is_empty(),
            rise: fit.rise - self.experience.warmth(wishes.tree, node),
            left_over: fit.left_over,
            at,
        }
    }

    /// Thousandths of the largest node that stay unused, over all kinds: the fewer, the better the fit.
    fn left_over(&self, offer: &NodeOffer, take: &Resources) -> u32 {
        let part = |free: u64, take: u64, scale: u64| {
            u128::from(free.saturating_sub(take)) * 1_000 / u128::from(scale)
        };
        let cpu = part(offer.free.cpu_milli, take.cpu_milli, self.scale.0);
        let memory = part(offer.free.memory_bytes, take.memory_bytes, self.scale.1);
        let free: u64 = offer.free.gpus.iter().map(|gpu| gpu.milli).sum();
        let taken: u64 = take.gpus.iter().map(|gpu| gpu.milli).sum();
        let left = cpu + memory + u128::from(free.saturating_sub(taken));
        u32::try_from(left).unwrap_or(u32::MAX)
    }
}

/// Which GPUs of each node typical requests accept. Machines come in few kinds.
fn accepted(offers: &[NodeOffer], profile: &Profile) -> Vec<Arc<Accepted>> {
    let mut kinds: BTreeMap<Vec<&str>, Arc<Accepted>> = BTreeMap::new();
    let of_node = |offer| {
        let models = models(offer);
        if let Some(known) = kinds.get(&models) {
            return Arc::clone(known);
        }
        let found = Arc::new(profile.accepted(&models));
        kinds.insert(models, Arc::clone(&found));
        found
    };
    offers.iter().map(of_node).collect()
}

fn models(offer: &NodeOffer) -> Vec<&str> {
    offer.gpus.iter().map(|gpu| gpu.model.as_str()).collect()
}

fn has_same_gpus(old: &NodeOffer, new: &NodeOffer) -> bool {
    let mut pairs = old.gpus.iter().zip(&new.gpus);
    old.gpus.len() == new.gpus.len() && pairs.all(|(old, new)| old.model == new.model)
}

/// Largest amounts of any node.
fn scale(offers: &[NodeOffer]) -> (u64, u64) {
    let most = |of: fn(&Resources) -> u64| {
        let amounts = offers.iter().map(|offer| of(&offer.capacity));
        amounts.max().unwrap_or_default().max(1)
    };
    (most(|all| all.cpu_milli), most(|all| all.memory_bytes))
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
