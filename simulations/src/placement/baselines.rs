//! The published policies, as their authors' simulator has them: scores are cut to whole numbers from 0 to 100, and the
//! first of equals in the run's order of nodes is taken. Both decide the result (Weng et al. 2023 and their artifact).

use super::Chooser;
use super::cluster::{Cluster, Left, Place, Shape};
use crate::random::Random;

/// Part of the tasks that the typical ones cover.
const COVERAGE_PERCENT: u64 = 95;

/// Any node that fits, and any GPU of it.
pub(super) struct AnyFit {
    random: Random,
}

impl AnyFit {
    pub(super) fn new(random: Random) -> Self {
        Self { random }
    }

    /// One of these, each with the same chance.
    fn any(&mut self, items: impl Iterator<Item = usize>) -> Option<usize> {
        let mut chosen = None;
        for (seen, item) in (1_usize..).zip(items) {
            if self.random.index(seen) == 0 {
                chosen = Some(item);
            }
        }
        chosen
    }
}

impl Chooser for AnyFit {
    fn choose(&mut self, cluster: &Cluster, task: usize) -> Option<Place> {
        let shape = cluster.shape(task);
        let nodes = cluster.nodes.iter().zip(0_usize..);
        let node = self.any(nodes.filter(|(left, _)| left.fits(shape)).map(|(_, at)| at))?;
        let gpus = cluster.nodes[node].gpus.iter().zip(0_usize..);
        let milli = shape.task.milli;
        let gpu = self.any(gpus.filter(|(left, _)| **left >= milli).map(|(_, at)| at));
        Some(Place {
            node,
            gpu: gpu.unwrap_or(0),
        })
    }

    fn placed(&mut self, _: Place, _: usize) {}
}

/// The best score, remembered for each node and shape until the node changes.
pub(super) struct Scored {
    score: Score,
    /// By shape, then node.
    known: Vec<Vec<Known>>,
}

/// What a node at one version is worth to a shape: score and GPU; none: it does not fit.
type Known = (u32, Option<(i64, usize)>);

enum Score {
    BestFit,
    Fgd {
        /// Typical shapes with how often each comes.
        typical: Vec<(Shape, u64)>,
        total: u64,
    },
}

impl Scored {
    pub(super) fn best_fit(cluster: &Cluster) -> Self {
        Self::new(cluster, Score::BestFit)
    }

    pub(super) fn fgd(cluster: &Cluster) -> Self {
        let typical = typical(cluster);
        let total = typical.iter().map(|(_, count)| count).sum();
        Self::new(cluster, Score::Fgd { typical, total })
    }

    fn new(cluster: &Cluster, score: Score) -> Self {
        let nothing = vec![(u32::MAX, None); cluster.nodes.len()];
        Self {
            score,
            known: vec![nothing; cluster.shapes.len()],
        }
    }
}

impl Chooser for Scored {
    fn choose(&mut self, cluster: &Cluster, task: usize) -> Option<Place> {
        let shape = cluster.shape(task);
        let known = &mut self.known[cluster.shape_of[task]];
        let mut best: Option<(i64, Place)> = None;
        for (node, left) in cluster.nodes.iter().enumerate() {
            let version = cluster.versions[node];
            if known[node].0 != version {
                let fits = left.fits(shape);
                known[node] = (version, fits.then(|| self.score.of(left, shape)));
            }
            if let (_, Some((score, gpu))) = known[node]
                && best.is_none_or(|(most, _)| score > most)
            {
                best = Some((score, Place { node, gpu }));
            }
        }
        best.map(|(_, place)| place)
    }

    fn placed(&mut self, _: Place, _: usize) {}
}

impl Score {
    /// Score of a node and the GPU to take; more is better.
    fn of(&self, left: &Left, shape: &Shape) -> (i64, usize) {
        match self {
            Self::BestFit => (best_fit(left, shape), fullest(left, shape)),
            Self::Fgd { typical, total } => fgd(left, shape, typical, *total),
        }
    }
}

/// The fullest GPU that still has enough.
fn fullest(left: &Left, shape: &Shape) -> usize {
    let gpus = left.gpus.iter().zip(0_usize..);
    let enough = gpus.filter(|(left, _)| **left >= shape.task.milli);
    enough.min().map_or(0, |(_, at)| at)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "amounts are far below 2^52, and the score is cut on purpose"
)]
fn best_fit(left: &Left, shape: &Shape) -> i64 {
    let cpu = (left.cpu_milli - shape.task.cpu_milli) as f64 / 128_000.0;
    let idle = left.gpus.iter().sum::<u64>() - shape.task.gpu_milli();
    (100.0 * (1.0 - 0.5 * cpu - 0.5 * idle as f64 / 8_000.0)) as i64
}

/// The shapes without memory, by falling count, until most tasks are covered.
fn typical(cluster: &Cluster) -> Vec<(Shape, u64)> {
    let mut counted: Vec<(Shape, u64)> = Vec::new();
    let mut known: std::collections::BTreeMap<super::Task, usize> =
        std::collections::BTreeMap::new();
    for at in &cluster.shape_of {
        let mut shape = cluster.shapes[*at].clone();
        shape.task.memory_mib = 0;
        let place = *known.entry(shape.task.clone()).or_insert(counted.len());
        match counted.get_mut(place) {
            Some((_, count)) => *count += 1,
            None => counted.push((shape, 1)),
        }
    }
    counted.sort_by(|(a, many), (b, few)| few.cmp(many).then_with(|| a.task.cmp(&b.task)));
    let all = cluster.shape_of.len() as u64;
    let mut covered = 0;
    counted.retain(|(_, count)| {
        let needed = covered * 100 < COVERAGE_PERCENT * all;
        covered += count;
        needed
    });
    counted
}

fn fgd(left: &Left, shape: &Shape, typical: &[(Shape, u64)], total: u64) -> (i64, usize) {
    let before = fragments(left, typical);
    let score = |gpu: usize| {
        cut(
            before,
            fragments(&left.with(&shape.task, gpu), typical),
            total,
        )
    };
    if !shape.task.is_share() {
        return (score(0), 0);
    }
    let gpus = left.gpus.iter().zip(0_usize..);
    let enough = gpus.filter(|(left, _)| **left >= shape.task.milli);
    let mut best = (i64::MIN, 0);
    for (_, gpu) in enough {
        let score = score(gpu);
        if score > best.0 {
            best = (score, gpu);
        }
    }
    best
}

/// 100 · sigmoid((before − after) / 1000), cut to a whole number.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "fragments are far below 2^52, and the score is cut on purpose"
)]
fn cut(before: u64, after: u64, total: u64) -> i64 {
    let fall = (before as f64 - after as f64) / total.max(1) as f64 / 1_000.0;
    (100.0 / (1.0 + (-fall).exp())) as i64
}

/// Idle thousandths that typical tasks cannot use, times how often they come.
fn fragments(left: &Left, typical: &[(Shape, u64)]) -> u64 {
    let idle: u64 = left.gpus.iter().sum();
    if idle == 0 {
        return 0;
    }
    let of = |shape: &Shape| {
        let task = &shape.task;
        let fits = task.gpus > 0
            && task.cpu_milli <= left.cpu_milli
            && shape.accepts[left.model]
            && left.has_gpus(task);
        match fits {
            false => idle,
            true => left.gpus.iter().filter(|left| **left < task.milli).sum(),
        }
    };
    typical.iter().map(|(shape, count)| count * of(shape)).sum()
}
