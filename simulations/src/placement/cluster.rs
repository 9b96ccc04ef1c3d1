//! What is left of each machine.

use super::trace::{Task, Trace, WHOLE};

/// Where a task goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Place of the node in this run's order.
    pub(super) node: usize,
    /// For a share: which GPU.
    pub(super) gpu: usize,
}

/// What is left of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) cpu_milli: u64,
    pub(super) memory_mib: u64,
    /// Thousandths left of each GPU.
    pub(super) gpus: Vec<u64>,
    /// Number of the GPUs' model.
    pub(super) model: usize,
}

/// A task with the numbers of its models.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) task: Task,
    /// By number of the model, whether it is accepted.
    pub(super) accepts: Vec<bool>,
}

/// All machines, in this run's order.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Left>,
    /// Counts what was put on each node.
    pub(super) versions: Vec<u32>,
    /// Each task's shape, by number.
    pub(super) shape_of: Vec<usize>,
    /// Distinct tasks.
    pub(super) shapes: Vec<Shape>,
}

impl Left {
    pub(super) fn fits(&self, shape: &Shape) -> bool {
        let task = &shape.task;
        task.cpu_milli <= self.cpu_milli
            && task.memory_mib <= self.memory_mib
            && (task.gpus == 0 || shape.accepts[self.model] && self.has_gpus(task))
    }

    pub(super) fn has_gpus(&self, task: &Task) -> bool {
        let enough = self.gpus.iter().filter(|left| **left >= task.milli);
        enough.count() as u64 >= task.gpus
    }

    /// The machine with the task on it.
    pub(super) fn with(&self, task: &Task, gpu: usize) -> Self {
        let mut left = self.clone();
        left.cpu_milli -= task.cpu_milli;
        left.memory_mib -= task.memory_mib;
        if task.is_share() {
            left.gpus[gpu] -= task.milli;
            return left;
        }
        let wanted = usize::try_from(task.gpus).unwrap_or(0);
        let free = left.gpus.iter_mut().filter(|left| **left == WHOLE);
        for gpu in free.take(wanted) {
            *gpu = 0;
        }
        left
    }
}

impl Cluster {
    pub(super) fn new(trace: &Trace, order: &[usize]) -> Self {
        let mut models: Vec<_> = trace.nodes.iter().map(|node| node.model.as_str()).collect();
        models.sort_unstable();
        models.dedup();
        let number = |model: &str| models.binary_search(&model).unwrap_or(0);
        let nodes: Vec<_> = order
            .iter()
            .map(|at| {
                let node = &trace.nodes[*at];
                Left {
                    cpu_milli: node.cpu_milli,
                    memory_mib: node.memory_mib,
                    gpus: vec![WHOLE; node.gpus],
                    model: number(&node.model),
                }
            })
            .collect();
        let mut distinct = trace.tasks.clone();
        distinct.sort();
        distinct.dedup();
        let shape_of = trace
            .tasks
            .iter()
            .map(|task| distinct.binary_search(task).unwrap_or(0));
        let shape_of = shape_of.collect();
        let accepts = |task: &Task| {
            let accepted =
                |model: &&str| task.models.is_empty() || task.models.iter().any(|one| one == model);
            models.iter().map(accepted).collect()
        };
        let shapes = distinct.into_iter().map(|task| Shape {
            accepts: accepts(&task),
            task,
        });
        Self {
            versions: vec![0; nodes.len()],
            shapes: shapes.collect(),
            shape_of,
            nodes,
        }
    }

    pub(super) fn shape(&self, task: usize) -> &Shape {
        &self.shapes[self.shape_of[task]]
    }

    pub(super) fn put(&mut self, place: Place, task: usize) {
        let task = &self.shapes[self.shape_of[task]].task;
        self.nodes[place.node] = self.nodes[place.node].with(task, place.gpu);
        self.versions[place.node] += 1;
    }
}
