//! What experiments usually ask for, and what that makes the rest of a node worth.
//!
//! Each node has a cost: an estimate of the idle GPU that will never be used, given the mix of requests that usually
//! comes. A request goes where the cost falls the most, or rises the least. It sums three ways in which idle GPU gets
//! lost: *waste* of a GPU whose shares no longer add up to a whole one, *starvation* of GPUs whose node runs out of
//! processors or memory first, and *fragmentation*: GPUs that a given shape cannot use here at all. The idea of typical
//! tasks is that of Weng et al., "Beware of Fragmentation" (USENIX ATC 2023); the cost is ours, and places more on all of
//! their workloads (`simulations placement`).

use std::collections::{BTreeMap, BTreeSet};

use state_machine::{ClusterState, ExperimentPhase};
use types::{BlobHash, NodeId, ResourceRequest, accepts_model};

/// A whole GPU.
pub(crate) const WHOLE: u64 = 1_000;
/// Weights of fragmentation, starvation and waste: the surer the loss, the higher its price. On a plateau: half and
/// twice of each place within 0.3 points of these on the openb workloads.
const FRAGMENTATION: i64 = 1;
const STARVATION: i64 = 2;
const WASTE: i64 = 4;
/// How many further requests a GPU is assumed to be offered.
const OFFERS: u32 = 100;
/// Part of the known requests that the typical ones cover.
const COVERAGE_PERCENT: u64 = 95;
/// Fixed point of the waste table.
const FIXED_POINT: i64 = 1_000;
/// Experiments that are looked at: some weeks of a team's work.
const MAX_REMEMBERED: usize = 16_384;
/// Memory of a GPU by which a request for memory alone counts as a share.
const USUAL_VRAM_BYTES: u64 = 24 << 30;
/// What a source tree that is there already is worth: this much GPU (thousandths) that is not lost.
const WARM_MILLI: i64 = 20;

/// What the state teaches about what will come; made now and then, not for each decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Experience {
    profile: Profile,
    /// Nodes on which each source tree was laid out lately.
    warm: BTreeMap<BlobHash, BTreeSet<NodeId>>,
}

impl Experience {
    /// Learns from the experiments of the hot state.
    #[must_use]
    pub fn of(state: &ClusterState) -> Self {
        let experiments = || state.experiments().take(MAX_REMEMBERED);
        let mut warm: BTreeMap<BlobHash, BTreeSet<NodeId>> = BTreeMap::new();
        for experiment in experiments() {
            let Some(source) = &experiment.spec.source else {
                continue;
            };
            let ranks = experiment.attempts.iter().flat_map(|one| &one.ranks);
            let nodes = ranks.map(|rank| rank.placement.node.clone());
            warm.entry(source.tree).or_default().extend(nodes);
        }
        let counted = experiments().filter(|one| {
            // One that was stopped while it waited says little.
            !one.attempts.is_empty() || matches!(one.phase, ExperimentPhase::Queued { .. })
        });
        Self {
            profile: Profile::learn(counted.map(|one| &one.spec.resources)),
            warm,
        }
    }

    /// Learns from requests alone.
    #[must_use]
    pub fn of_requests<'a>(requests: impl IntoIterator<Item = &'a ResourceRequest>) -> Self {
        Self {
            profile: Profile::learn(requests),
            warm: BTreeMap::new(),
        }
    }

    /// Typical requests.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What it is worth that this tree is on this node already, in units of the cost.
    pub(crate) fn warmth(&self, tree: Option<&BlobHash>, node: &NodeId) -> i64 {
        let there = tree
            .and_then(|tree| self.warm.get(tree))
            .is_some_and(|nodes| nodes.contains(node));
        if there {
            WARM_MILLI * self.profile.total.max(1)
        } else {
            0
        }
    }
}

/// What one request takes, as far as the cost looks at it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    cpu_milli: i64,
    memory_mib: i64,
    gpus: i64,
    /// Of each GPU: 1 to 1000.
    milli: i64,
    models: Vec<String>,
}

impl Shape {
    fn of(request: &ResourceRequest) -> Self {
        let amount = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        let by_memory = (request.vram_bytes / (USUAL_VRAM_BYTES / WHOLE)).min(WHOLE);
        let milli = match request.gpu_milli {
            0 => by_memory,
            milli => milli,
        };
        Self {
            cpu_milli: amount(request.cpu_milli),
            memory_mib: amount(request.memory_bytes >> 20),
            gpus: amount(milli.div_ceil(WHOLE)),
            milli: amount(milli.min(WHOLE)),
            models: request.gpu_models.clone(),
        }
    }

    fn size(&self) -> i64 {
        self.gpus * self.milli
    }

    /// Thousandths that as many copies take as go into so many slots.
    fn copies(&self, slots: i64) -> i64 {
        match self.gpus {
            1 => slots * self.milli,
            gpus => slots / gpus * self.size(),
        }
    }
}

/// What is left of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Thousandths left of each GPU, at most 1000, in the node's order.
    pub gpus: Vec<u64>,
}

/// The usual mix of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Typical shapes that ask for GPUs, with how often they were seen.
    shapes: Vec<(Shape, i64)>,
    /// Sum of their counts.
    total: i64,
    /// What they ask of one GPU, each amount once.
    sizes: Vec<i64>,
    /// For each shape where its amount is in `sizes`.
    size_of: Vec<usize>,
    /// Thousandths, times [`FIXED_POINT`], that are expected to stay unused of a GPU with so many left.
    waste: Vec<i64>,
}

impl Profile {
    /// The most frequent shapes, until 95 % of all are covered.
    fn learn<'a>(requests: impl IntoIterator<Item = &'a ResourceRequest>) -> Self {
        let mut counts: BTreeMap<Shape, i64> = BTreeMap::new();
        let mut all = 0_u64;
        for request in requests {
            *counts.entry(Shape::of(request)).or_default() += 1;
            all += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by(|(a, many), (b, few)| few.cmp(many).then_with(|| a.cmp(b)));
        let mut covered = 0_u64;
        let mut shapes = Vec::new();
        for (shape, count) in counts {
            if covered * 100 >= COVERAGE_PERCENT * all {
                break;
            }
            covered += count.unsigned_abs();
            if shape.gpus > 0 {
                shapes.push((shape, count));
            }
        }
        let total = shapes.iter().map(|(_, count)| count).sum();
        let waste = waste_table(&shapes);
        let sizes: BTreeSet<_> = shapes.iter().map(|(shape, _)| shape.milli.max(1)).collect();
        let sizes: Vec<_> = sizes.into_iter().collect();
        let place = |shape: &Shape| sizes.partition_point(|size| *size < shape.milli.max(1));
        Self {
            size_of: shapes.iter().map(|(shape, _)| place(shape)).collect(),
            sizes,
            shapes,
            total,
            waste,
        }
    }

    /// Number of typical shapes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shapes.len()
    }

    /// No GPU was ever asked for: nothing tells one room from another.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    /// For each typical shape, which GPUs of a node it accepts: the same as long as the node has the same GPUs.
    #[must_use]
    pub fn accepted(&self, models: &[&str]) -> Accepted {
        let of_shape = |(shape, _): &(Shape, i64)| {
            let taken = models
                .iter()
                .map(|model| accepts_model(&shape.models, model));
            let taken: Vec<_> = taken.collect();
            if taken.iter().all(|taken| *taken) {
                Takes::All
            } else if taken.iter().any(|taken| *taken) {
                Takes::Some(taken)
            } else {
                Takes::None
            }
        };
        Accepted(self.shapes.iter().map(of_shape).collect())
    }

    /// Cost of a node; only differences matter.
    #[must_use]
    pub fn cost(&self, room: &Room, accepted: &Accepted) -> i64 {
        let left = |milli: &u64| i64::try_from((*milli).min(WHOLE)).unwrap_or(0);
        let idle: i64 = room.gpus.iter().map(left).sum();
        if idle == 0 || self.shapes.is_empty() {
            return 0;
        }
        let cpu = i64::try_from(room.cpu_milli).unwrap_or(i64::MAX);
        let memory = i64::try_from(room.memory_bytes >> 20).unwrap_or(i64::MAX);
        // Shares come in few sizes: how many of each the GPUs hold is counted once.
        let slots = self.sizes.iter().map(|milli| {
            let of_gpu = |left: &u64| i64::try_from((*left).min(WHOLE)).unwrap_or(0) / milli;
            room.gpus.iter().map(of_gpu).sum::<i64>()
        });
        let slots: Vec<_> = slots.collect();
        let mut sum = 0;
        for (((shape, count), size), takes) in
            self.shapes.iter().zip(&self.size_of).zip(&accepted.0)
        {
            let usable = match takes {
                _ if shape.cpu_milli > cpu || shape.memory_mib > memory => 0,
                Takes::None => 0,
                Takes::All => shape.copies(slots[*size]),
                Takes::Some(taken) => shape.copies(some_slots(room, shape, taken)),
            };
            let starved = idle - fed(cpu, memory, shape, idle);
            sum += count * (FRAGMENTATION * (idle - usable) + STARVATION * starved);
        }
        let wasted = |milli: &u64| {
            let at = usize::try_from((*milli).min(WHOLE)).unwrap_or(0);
            self.waste.get(at).copied().unwrap_or(0)
        };
        let waste: i64 = room.gpus.iter().map(wasted).sum();
        sum + WASTE * self.total * waste / FIXED_POINT
    }
}

/// Which GPUs of one node each typical shape accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted(Vec<Takes>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Takes {
    All,
    None,
    Some(Vec<bool>),
}

/// How many of the shape the GPUs that it accepts hold.
fn some_slots(room: &Room, shape: &Shape, taken: &[bool]) -> i64 {
    let accepted = room.gpus.iter().zip(taken).filter(|(_, taken)| **taken);
    let slots = accepted
        .map(|(milli, _)| i64::try_from((*milli).min(WHOLE)).unwrap_or(0) / shape.milli.max(1));
    slots.sum()
}

/// Thousandths that the processors and the memory left could feed if all were like this shape, not rounded to whole
/// ones, at most `idle`: how far they are out of balance with the GPUs.
fn fed(cpu: i64, memory: i64, shape: &Shape, idle: i64) -> i64 {
    let size = shape.size();
    let by = |left: i64, each: i64| {
        let can = left.saturating_mul(size);
        // Mostly there is enough, which needs no division.
        if can >= idle.saturating_mul(each) {
            idle
        } else {
            can / each
        }
    };
    by(cpu, shape.cpu_milli).min(by(memory, shape.memory_mib))
}

/// Expected rest of a GPU with so many thousandths left, if so many requests of the mix are offered to it one by one and
/// it may take or decline each: W₀(l) = l, Wₖ₊₁(l) = Σ p(m) · min(Wₖ(l), Wₖ(l − m)).
fn waste_table(shapes: &[(Shape, i64)]) -> Vec<i64> {
    let size = usize::try_from(WHOLE).unwrap_or(usize::MAX) + 1;
    let mut demand = vec![0_i64; size];
    for (shape, count) in shapes {
        let at = usize::try_from(shape.milli).unwrap_or(0).min(size - 1);
        demand[at] += count * shape.gpus;
    }
    let total: i64 = demand.iter().sum();
    let asked = demand.iter().enumerate().filter(|(_, count)| **count > 0);
    let asked: Vec<_> = asked.map(|(milli, count)| (milli, *count)).collect();
    let lengths = 0..i64::try_from(size).unwrap_or(0);
    let mut waste: Vec<i64> = lengths.map(|left| left * FIXED_POINT).collect();
    if total == 0 {
        return waste;
    }
    for _ in 0..OFFERS {
        let after = |left: usize| {
            let each = asked.iter().map(|(milli, count)| {
                let taken = left.checked_sub(*milli).map(|rest| waste[rest]);
                count * taken.map_or(waste[left], |taken| taken.min(waste[left]))
            });
            each.sum::<i64>() / total
        };
        waste = (0..size).map(after).collect();
    }
    waste
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(milli: u64) -> ResourceRequest {
        ResourceRequest {
            gpu_milli: milli,
            ..ResourceRequest::default()
        }
    }

    fn room(gpus: &[u64]) -> Room {
        Room {
            cpu_milli: 64_000,
            memory_bytes: 256 << 30,
            gpus: gpus.to_vec(),
        }
    }

    fn cost(profile: &Profile, room: &Room) -> i64 {
        let models = vec!["H100"; room.gpus.len()];
        profile.cost(room, &profile.accepted(&models))
    }

    #[test]
    fn a_rest_that_can_be_used_costs_less_than_one_that_cannot() {
        let profile = Profile::learn(&[share(500), share(500), share(1_000)]);
        let two_halves = cost(&profile, &room(&[500, 500]));
        let one_whole = cost(&profile, &room(&[1_000, 0]));
        assert!(one_whole < two_halves, "{one_whole} {two_halves}");
        let odd = cost(&profile, &room(&[400, 600]));
        assert!(two_halves < odd, "{two_halves} {odd}");
        assert_eq!(cost(&profile, &room(&[0, 0])), 0);
    }

    #[test]
    fn gpus_without_processors_are_starved() {
        let profile = Profile::learn(&[share(1_000)]);
        let fed = room(&[1_000]);
        let starved = Room {
            cpu_milli: 500,
            ..fed.clone()
        };
        assert!(cost(&profile, &fed) < cost(&profile, &starved));
    }

    #[test]
    fn models_that_a_shape_does_not_accept_are_of_no_use_to_it() {
        let picky = ResourceRequest {
            gpu_models: vec!["A100".to_owned()],
            ..share(1_000)
        };
        let profile = Profile::learn(&[picky]);
        let room = room(&[1_000]);
        let of = |model| profile.cost(&room, &profile.accepted(&[model]));
        assert!(of("NVIDIA A100-SXM4-40GB") < of("NVIDIA H100"));
    }

    #[test]
    fn no_experience_tells_no_difference() {
        let profile = Profile::default();
        assert!(profile.is_empty());
        assert_eq!(cost(&profile, &room(&[1_000])), cost(&profile, &room(&[1])));
    }
}
