//! How much of a cluster's GPUs a placement policy fills before nothing fits any more: the allocation experiment of Weng
//! et al., "Beware of Fragmentation" (USENIX ATC 2023), on any cluster and task list of that format.
//!
//! Tasks come one by one and are placed or fail for ever; nothing ends. The list is filled up with copies until 130 % of the
//! GPUs are asked for. The measure is the part of the GPUs that is allocated, averaged over the steps at which the
//! arrived demand rounds to 130 %.

mod baselines;
mod cluster;
mod ours;
mod trace;

pub use trace::{Task, Trace, TraceError, TraceNode};

use crate::random::Random;
use cluster::{Cluster, Place};

/// Demand up to which tasks arrive, as a part of all GPUs.
const DEMAND_PERCENT: u64 = 130;

/// A way to choose nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementPolicy {
    /// Any node that fits.
    Random,
    /// The node that is fullest afterwards.
    BestFit,
    /// The node whose fragmentation grows least, by the typical tasks.
    Fgd,
    /// The scheduler of muster.
    Muster,
}

impl PlacementPolicy {
    /// All of them, the simplest first.
    pub const ALL: [Self; 4] = [Self::Random, Self::BestFit, Self::Fgd, Self::Muster];

    /// As it is written on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::BestFit => "best-fit",
            Self::Fgd => "fgd",
            Self::Muster => "muster",
        }
    }
}

/// What one run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allocation {
    /// Allocated GPUs in percent of all, at 130 % demand.
    pub percent: f64,
    /// Tasks that were decided.
    pub tasks: usize,
}

/// Chooses where a task goes; none: it fits nowhere.
trait Chooser {
    fn choose(&mut self, cluster: &Cluster, task: usize) -> Option<Place>;
    /// The task was put there.
    fn placed(&mut self, place: Place, task: usize);
}

/// Runs one policy over one order of tasks and nodes.
#[must_use]
pub fn allocate(trace: &Trace, policy: PlacementPolicy, seed: u64) -> Allocation {
    let mut random = Random::new(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x0123_4567);
    let capacity = trace.gpu_milli();
    let tasks = arrivals(trace, &mut random, capacity * DEMAND_PERCENT / 100);
    let mut order: Vec<_> = (0..trace.nodes.len()).collect();
    shuffle(&mut order, &mut random);
    let mut cluster = Cluster::new(trace, &order);
    let mut chooser: Box<dyn Chooser> = match policy {
        PlacementPolicy::Random => Box::new(baselines::AnyFit::new(random.fork())),
        PlacementPolicy::BestFit => Box::new(baselines::Scored::best_fit(&cluster)),
        PlacementPolicy::Fgd => Box::new(baselines::Scored::fgd(&cluster)),
        PlacementPolicy::Muster => Box::new(ours::Ours::new(trace, &order)),
    };
    let (mut arrived, mut allocated, mut sum, mut steps) = (0, 0, 0.0, 0_u32);
    for task in &tasks {
        let size = trace.tasks[*task].gpu_milli();
        arrived += size;
        if let Some(place) = chooser.choose(&cluster, *task) {
            cluster.put(place, *task);
            chooser.placed(place, *task);
            allocated += size;
        }
        // Rounded to the nearest percent, as in the original.
        if (arrived * 200 + capacity) / (2 * capacity) == DEMAND_PERCENT {
            sum += percent(allocated, capacity);
            steps += 1;
        }
    }
    Allocation {
        // In a small cluster no step may come so near: then what is allocated in the end.
        percent: match steps {
            0 => percent(allocated, capacity),
            steps => sum / f64::from(steps),
        },
        tasks: tasks.len(),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "amounts of GPUs are far below 2^52"
)]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

/// The order in which tasks come: the list shuffled, then copies of tasks drawn from it until the next would ask for more
/// than `limit`; or the list without tasks drawn from it until it asks for no more.
fn arrivals(trace: &Trace, random: &mut Random, limit: u64) -> Vec<usize> {
    let mut tasks: Vec<_> = (0..trace.tasks.len()).collect();
    shuffle(&mut tasks, random);
    let size = |task: usize| trace.tasks[task].gpu_milli();
    let mut sum: u64 = tasks.iter().map(|task| size(*task)).sum();
    if sum > limit {
        while sum > limit {
            let at = random.index(tasks.len());
            sum -= size(tasks.remove(at));
        }
        return tasks;
    }
    loop {
        let drawn = random.index(trace.tasks.len());
        if sum + size(drawn) > limit {
            return tasks;
        }
        sum += size(drawn);
        tasks.push(drawn);
    }
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for at in (1..items.len()).rev() {
        items.swap(at, random.index(at + 1));
    }
}

#[cfg(test)]
mod tests;
