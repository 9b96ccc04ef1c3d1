//! Weighted fair shares of users and queues, by dominant resource (Ghodsi et al., "Dominant Resource Fairness", NSDI
//! 2011), with a history that fades.

use std::collections::BTreeMap;

use state_machine::{ClusterState, Consumer, HOUR, HOURS_KEPT, Holding, Hours, Usage};
use types::{QueueName, Resources, Timestamp};

/// A share of everything: parts per million of the cluster.
const MILLION: u128 = 1_000_000;
/// 2^32 · 2^(−1/168): after a week of hours half is left.
const HOURLY_DECAY: u64 = 4_277_283_299;

/// How much of the cluster everybody has, now and lately.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    capacity: Holding,
    users: BTreeMap<Consumer, Part>,
    queues: BTreeMap<QueueName, Part>,
}

/// One consumer's part.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// Placed now, and in this round.
    holding: Holding,
    /// On average lately.
    lately: Holding,
    weight: u32,
}

impl Part {
    fn of_weight(weight: u32) -> Self {
        Self {
            weight: weight.max(1),
            ..Self::default()
        }
    }

    /// Parts per million of the resource of which most is used, for each unit of weight.
    fn ratio(&self, capacity: &Holding) -> u64 {
        let share = dominant(&self.holding.plus(self.lately), capacity);
        share.saturating_mul(1_000) / u64::from(self.weight.max(1))
    }
}

/// The largest part of any kind of resource, in parts per million.
fn dominant(holding: &Holding, capacity: &Holding) -> u64 {
    let part = |used: u64, of: u64| match of {
        0 => 0,
        of => u128::from(used) * MILLION / u128::from(of),
    };
    let parts = [
        part(holding.gpu_milli, capacity.gpu_milli),
        part(holding.cpu_milli, capacity.cpu_milli),
        part(holding.memory_bytes, capacity.memory_bytes),
    ];
    u64::try_from(parts.into_iter().max().unwrap_or(0)).unwrap_or(u64::MAX)
}

impl Shares {
    /// Everybody's part at a time of state; `capacity` is what all nodes give.
    pub(crate) fn of<'a>(
        state: &ClusterState,
        capacity: impl Iterator<Item = &'a Resources>,
        now: Timestamp,
    ) -> Self {
        let capacity = capacity.fold(Holding::default(), |sum, one| sum.plus(Holding::of(one)));
        let mut shares = Self {
            capacity,
            users: BTreeMap::new(),
            queues: BTreeMap::new(),
        };
        let decay = Decay::new();
        for (consumer, hours) in state.consumers() {
            let lately = decay.average(hours, now);
            shares.note(state, consumer, |part| {
                part.lately = part.lately.plus(lately)
            });
        }
        for (consumer, holding) in state.holdings() {
            shares.note(state, consumer, |part| {
                part.holding = part.holding.plus(*holding);
            });
        }
        shares
    }

    fn note(&mut self, state: &ClusterState, consumer: &Consumer, change: impl Fn(&mut Part)) {
        let user = self.users.entry(consumer.clone());
        change(user.or_insert_with(|| Part::of_weight(state.user_weight(&consumer.user))));
        let weight = || state.queue(&consumer.queue).map_or(1, |queue| queue.weight);
        let queue = self.queues.entry(consumer.queue.clone());
        change(queue.or_insert_with(|| Part::of_weight(weight())));
    }

    /// Something of theirs is placed in this round.
    pub(crate) fn add(&mut self, state: &ClusterState, consumer: &Consumer, more: Holding) {
        self.note(state, consumer, |part| {
            part.holding = part.holding.plus(more)
        });
    }

    /// Something of theirs is as good as gone.
    pub(crate) fn take(&mut self, state: &ClusterState, consumer: &Consumer, gone: Holding) {
        self.note(state, consumer, |part| {
            part.holding = part.holding.minus(gone)
        });
    }

    /// The user's part of its queue; less is served first.
    pub(crate) fn user(&self, state: &ClusterState, consumer: &Consumer) -> u64 {
        let known = self.users.get(consumer).copied();
        let part = known.unwrap_or_else(|| Part::of_weight(state.user_weight(&consumer.user)));
        part.ratio(&self.capacity)
    }

    /// The queue's part; less is served first.
    pub(crate) fn queue(&self, queue: &QueueName) -> u64 {
        let part = self.queues.get(queue);
        part.map_or(0, |part| part.ratio(&self.capacity))
    }

    /// What the queue and the user have now, and had on average lately, in parts per million of the cluster.
    pub(crate) fn now_and_lately(&self, consumer: &Consumer) -> [(u64, u64); 2] {
        let queue = self.queues.get(&consumer.queue).copied();
        let user = self.users.get(consumer).copied();
        [queue, user].map(|part| {
            let part = part.unwrap_or_default();
            let share = |holding: &Holding| dominant(holding, &self.capacity);
            (share(&part.holding), share(&part.lately))
        })
    }

    /// What a queue and a user hold, with what was placed in this round.
    pub(crate) fn holdings(&self, consumer: &Consumer) -> (Holding, Holding) {
        let queue = self.queues.get(&consumer.queue);
        let user = self.users.get(consumer);
        let holding = |part: Option<&Part>| part.map_or_else(Holding::default, |part| part.holding);
        (holding(queue), holding(user))
    }

    /// What a user holds just now, with `more` on top, in parts per million of the cluster.
    pub(crate) fn held(&self, consumer: &Consumer, more: Holding) -> u64 {
        let (_, holding) = self.holdings(consumer);
        dominant(&holding.plus(more), &self.capacity)
    }

    /// What a user would hold without one of theirs.
    pub(crate) fn held_without(&self, consumer: &Consumer, one: Holding) -> u64 {
        let (_, holding) = self.holdings(consumer);
        dominant(&holding.minus(one), &self.capacity)
    }
}

/// Weights of past hours.
struct Decay {
    /// 2^32 · 2^(−age/168) by age in hours.
    weights: Vec<u64>,
    /// Their sum times the seconds of an hour.
    norm: u128,
}

impl Decay {
    fn new() -> Self {
        let mut weights = Vec::new();
        let mut weight = 1_u64 << 32;
        for _ in 0..=HOURS_KEPT {
            weights.push(weight);
            let next = (u128::from(weight) * u128::from(HOURLY_DECAY)) >> 32;
            weight = u64::try_from(next).unwrap_or(0);
        }
        let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        Self {
            weights,
            norm: sum * u128::from(HOUR.0 / 1_000),
        }
    }

    /// What was held on average, where an hour counts half a week later.
    fn average(&self, hours: &Hours, now: Timestamp) -> Holding {
        let current = now.0 / HOUR.0;
        let sum = |of: fn(&Usage) -> u64| {
            let weighed = hours.iter().filter_map(|(hour, usage)| {
                let age = usize::try_from(current.saturating_sub(*hour)).ok()?; // older than any that is kept
                let weight = self.weights.get(age)?;
                Some(u128::from(of(usage)) * u128::from(*weight))
            });
            let average = weighed.sum::<u128>() / self.norm;
            u64::try_from(average).unwrap_or(u64::MAX)
        };
        Holding {
            experiments: 0,
            cpu_milli: sum(|usage| usage.cpu_milli_s),
            memory_bytes: sum(|usage| usage.memory_mib_s).saturating_mul(1 << 20),
            gpu_milli: sum(|usage| usage.gpu_milli_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_counts_half_after_a_week_and_full_use_is_a_full_share() {
        let decay = Decay::new();
        let half = decay.weights[168];
        assert!(half.abs_diff(1 << 31) < 1 << 12, "{half}");
        let usage = Usage {
            cpu_milli_s: 4_000 * 3_600,
            memory_mib_s: 1_024 * 3_600,
            gpu_milli_s: 8_000 * 3_600,
        };
        let always: Hours = (280_u64..=1_000).map(|hour| (hour, usage)).collect();
        let average = decay.average(&always, Timestamp(1_000 * HOUR.0));
        assert_eq!((average.cpu_milli, average.gpu_milli), (4_000, 8_000));
        assert_eq!(average.memory_bytes, 1 << 30);
        let now = Hours::unit(1_000, usage);
        let long_ago = Hours::unit(832, usage);
        let [now, long_ago] =
            [now, long_ago].map(|hours| decay.average(&hours, Timestamp(1_000 * HOUR.0)));
        assert!(
            now.gpu_milli.abs_diff(2 * long_ago.gpu_milli) <= 1,
            "{now:?} {long_ago:?}"
        );
    }

    #[test]
    fn the_dominant_resource_is_the_one_of_which_most_is_used() {
        let capacity = Holding {
            experiments: 0,
            cpu_milli: 100_000,
            memory_bytes: 100 << 30,
            gpu_milli: 0,
        };
        let holding = Holding {
            experiments: 1,
            cpu_milli: 10_000,
            memory_bytes: 25 << 30,
            gpu_milli: 7,
        };
        assert_eq!(dominant(&holding, &capacity), 250_000);
    }
}
