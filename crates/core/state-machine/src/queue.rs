//! Queues: who is served first, how much may run at once, and what a person has said about that.

use std::fmt;

use serde::{Deserialize, Serialize};
use types::{QueueName, Resources, Timestamp};

/// What a person said, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// user@node.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why; may be empty.
    pub reason: String,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.by)?;
        if self.reason.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.reason)
    }
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Its name.
    pub name: QueueName,
    /// Queues of higher priority are served first.
    pub priority: i32,
    /// Its part among queues of the same priority; at least 1.
    pub weight: u32,
    /// Nothing of it is placed.
    pub paused: Option<Word>,
    /// What all of it may hold at once.
    pub limits: Limits,
    /// What each user may hold of it at once.
    pub user_limits: Limits,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
}

/// The most that may be held at once; 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Experiments.
    pub experiments: u64,
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Thousandths of GPUs.
    pub gpu_milli: u64,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("experiments", self.experiments),
            ("gpus", self.gpu_milli),
            ("cpus", self.cpu_milli),
            ("memory", self.memory_bytes),
        ];
        let set = all.into_iter().filter(|(_, limit)| *limit > 0);
        let set: Vec<_> = set
            .map(|(what, limit)| format!("{} {what}", amount(what, limit)))
            .collect();
        match set.is_empty() {
            true => f.write_str("no limit"),
            false => f.write_str(&set.join(", ")),
        }
    }
}

/// What experiments that are placed hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Experiments.
    pub experiments: u64,
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Thousandths of GPUs.
    pub gpu_milli: u64,
}

impl Holding {
    /// What one experiment holds with these resources of one rank.
    #[must_use]
    pub fn of(resources: &Resources) -> Self {
        Self {
            experiments: 1,
            cpu_milli: resources.cpu_milli,
            memory_bytes: resources.memory_bytes,
            gpu_milli: resources
                .gpus
                .iter()
                .fold(0, |sum: u64, gpu| sum.saturating_add(gpu.milli)),
        }
    }

    /// Both together; stays at the largest number.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            experiments: self.experiments.saturating_add(other.experiments),
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            gpu_milli: self.gpu_milli.saturating_add(other.gpu_milli),
        }
    }
}

/// One limit that a holding would pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverLimit {
    /// Whose limit: the queue's as a whole, or that of each user in it.
    pub per_user: bool,
    /// Of which queue.
    pub queue: QueueName,
    /// Of what.
    pub what: &'static str,
    /// Held already, in the unit of the limit.
    pub held: u64,
    /// The limit.
    pub limit: u64,
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            queue,
            what,
            held,
            limit,
            ..
        } = self;
        let whose = if self.per_user {
            "each user of"
        } else {
            "all of"
        };
        let (held, limit) = (amount(what, *held), amount(what, *limit));
        let one = what.strip_suffix('s').filter(|_| limit == "1");
        let what = one.unwrap_or(what);
        let are = if held == "1" { "is" } else { "are" };
        write!(
            f,
            "queue {queue} lets {whose} it hold {limit} {what} at once, and {held} {are} held"
        )
    }
}

/// So much of what a limit is of, in the unit that people use.
fn amount(what: &str, amount: u64) -> String {
    match what {
        "memory" => format!("{} MiB", amount >> 20),
        "experiments" => amount.to_string(),
        _ => thousandths(amount),
    }
}

fn thousandths(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1_000, milli % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Queue {
    /// A queue as it is made.
    #[must_use]
    pub fn new(name: QueueName, created_by: String, created_at: Timestamp) -> Self {
        Self {
            name,
            priority: 0,
            weight: 1,
            paused: None,
            limits: Limits::default(),
            user_limits: Limits::default(),
            created_by,
            created_at,
        }
    }

    /// The first limit that `more` would pass on top of what the queue and the user hold of it; none: it may be placed.
    #[must_use]
    pub fn over_limit(&self, queue: Holding, user: Holding, more: Holding) -> Option<OverLimit> {
        let whole = over(&self.limits, queue, more).map(|over| (false, over));
        let own = || over(&self.user_limits, user, more).map(|over| (true, over));
        let (per_user, (what, held, limit)) = whole.or_else(own)?;
        Some(OverLimit {
            per_user,
            queue: self.name.clone(),
            what,
            held,
            limit,
        })
    }
}

fn over(limits: &Limits, held: Holding, more: Holding) -> Option<(&'static str, u64, u64)> {
    let sum = held.plus(more);
    let checks = [
        (
            "experiments",
            held.experiments,
            sum.experiments,
            limits.experiments,
        ),
        ("cpus", held.cpu_milli, sum.cpu_milli, limits.cpu_milli),
        (
            "memory",
            held.memory_bytes,
            sum.memory_bytes,
            limits.memory_bytes,
        ),
        ("gpus", held.gpu_milli, sum.gpu_milli, limits.gpu_milli),
    ];
    let passed = checks
        .into_iter()
        .find(|(_, held, sum, limit)| *limit > 0 && sum > limit && sum > held)?;
    let (what, held, _, limit) = passed;
    Some((what, held, limit))
}
