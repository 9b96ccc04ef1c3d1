//! Who holds how much just now, against the limits of queues; and places that are kept.

use std::sync::Arc;

use types::{ExperimentId, NodeId, RankPlacement, ResourceRequest, Resources};

use crate::queue::{Holding, OverLimit};
use crate::records::{Attempt, Booking, Experiment, KeptPlace};
use crate::state::ClusterState;
use crate::usage::Consumer;

impl Holding {
    /// What an experiment with this request would hold.
    #[must_use]
    pub fn wanted(request: &ResourceRequest) -> Self {
        let ranks = u64::from(request.nodes);
        Self {
            experiments: 1,
            cpu_milli: request.cpu_milli.saturating_mul(ranks),
            memory_bytes: request.memory_bytes.saturating_mul(ranks),
            gpu_milli: request.gpu_milli.saturating_mul(ranks),
        }
    }

    /// What is left without the other; nothing is less than nothing.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            experiments: self.experiments.saturating_sub(other.experiments),
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            gpu_milli: self.gpu_milli.saturating_sub(other.gpu_milli),
        }
    }
}

impl ClusterState {
    /// What a user holds of a queue.
    #[must_use]
    pub fn holding(&self, consumer: &Consumer) -> Holding {
        self.holdings.get(consumer).copied().unwrap_or_default()
    }

    /// Everybody that holds something.
    pub fn holdings(&self) -> impl Iterator<Item = (&Consumer, &Holding)> {
        self.holdings.iter()
    }

    /// The limit that keeps an experiment from being placed now, if one does.
    #[must_use]
    pub fn over_limit(&self, experiment: &Experiment) -> Option<OverLimit> {
        let queue = self.queues.get(&experiment.queue)?;
        let all = self.holdings.iter();
        let of_queue = all.filter(|(consumer, _)| consumer.queue == experiment.queue);
        let sum = of_queue.fold(Holding::default(), |sum, (_, holding)| sum.plus(*holding));
        let own = self.holding(&Consumer::of(experiment));
        let more = Holding::wanted(&experiment.spec.resources);
        queue.over_limit(sum, own, more)
    }

    /// Why an experiment is not placed now whatever room there is; none: it may be.
    #[must_use]
    pub fn held(&self, experiment: &Experiment) -> Option<String> {
        let by_history = self.held_by_history(experiment);
        let by_person = || {
            let word = experiment.held.as_ref()?;
            let id = experiment.id;
            Some(format!(
                "held by {word}: `muster release {id}` lets it go on"
            ))
        };
        let by_queue = || {
            let queue = self.queues.get(&experiment.queue)?;
            let (name, word) = (&queue.name, queue.paused.as_ref()?);
            Some(format!(
                "queue {name} is paused by {word}: `muster queue resume {name}` lets it go on"
            ))
        };
        by_history.or_else(by_person).or_else(by_queue)
    }

    /// The part of a user among those of a queue.
    #[must_use]
    pub fn user_weight(&self, user: &str) -> u32 {
        self.user_weights.get(user).copied().unwrap_or(1)
    }

    /// Users with a part other than 1.
    pub fn user_weights(&self) -> impl Iterator<Item = (&String, &u32)> {
        self.user_weights.iter()
    }

    /// The place that is kept for an experiment, if one is.
    #[must_use]
    pub fn kept_place(&self, id: ExperimentId) -> Option<&KeptPlace> {
        self.kept.get(&id).filter(|kept| self.is_kept(id, kept))
    }

    /// All places that are kept, by whom they are kept for.
    pub fn kept_places(&self) -> impl Iterator<Item = (&Arc<Experiment>, &KeptPlace)> {
        let kept = self
            .kept
            .iter()
            .filter(|(id, kept)| self.is_kept(**id, kept));
        kept.filter_map(|(id, kept)| Some((self.experiments.get(id)?, kept)))
    }

    /// Its time is not over, and whoever it is kept for may run: a place that cannot be used is anybody's.
    fn is_kept(&self, id: ExperimentId, kept: &KeptPlace) -> bool {
        let owner = self.experiments.get(&id);
        kept.until > self.time && owner.is_some_and(|owner| self.held(owner).is_none())
    }

    /// What others may not have of a node although nothing is booked there, by whom it is kept for: places that
    /// preemption frees, less what those who make room still hold.
    pub fn kept_on<'a>(
        &'a self,
        node: &'a NodeId,
    ) -> impl Iterator<Item = (ExperimentId, Resources)> + 'a {
        let kept = self.kept.iter();
        let kept = kept.filter(|(id, kept)| self.is_kept(**id, kept));
        let places = kept.flat_map(|(id, kept)| kept.places.iter().map(move |at| (*id, kept, at)));
        let there = places.filter(|(_, _, place)| place.node == *node);
        there.map(|(id, kept, place)| (id, self.freed(kept, place)))
    }

    /// The part of a kept place that its victims do not hold any more.
    fn freed(&self, kept: &KeptPlace, place: &RankPlacement) -> Resources {
        let mut freed = place.resources.clone();
        for token in &kept.victims {
            let attempt = self
                .experiments
                .get(&token.experiment)
                .and_then(|victim| victim.current_attempt())
                .filter(|attempt| attempt.token == *token);
            let ranks = attempt.into_iter().flat_map(Attempt::open_ranks);
            for (_, rank) in ranks.filter(|(_, rank)| rank.placement.node == place.node) {
                take(&mut freed, &rank.placement.resources);
            }
        }
        freed
    }

    /// Forgets kept places whose time is over.
    pub(crate) fn forget_kept(&mut self) {
        let over = self.kept.iter().filter(|(_, kept)| kept.until <= self.time);
        let over: Vec<_> = over.map(|(id, _)| *id).collect();
        for id in over {
            self.kept.remove(&id);
        }
    }

    pub(crate) fn hold(&mut self, experiment: &Experiment) {
        let consumer = Consumer::of(experiment);
        let sum = self.holding(&consumer).plus(held_by(experiment));
        self.holdings.insert(consumer, sum);
    }

    pub(crate) fn unhold(&mut self, experiment: &Experiment) {
        let consumer = Consumer::of(experiment);
        let rest = self.holding(&consumer).minus(held_by(experiment));
        if rest.experiments == 0 {
            self.holdings.remove(&consumer);
        } else {
            self.holdings.insert(consumer, rest);
        }
    }
}

/// What its placed ranks hold, as one experiment.
fn held_by(experiment: &Experiment) -> Holding {
    let attempt = experiment.current_attempt();
    let ranks = attempt.into_iter().flat_map(Attempt::open_ranks);
    let sum = ranks.fold(Holding::default(), |sum, (_, rank)| {
        sum.plus(Holding::of(&rank.placement.resources))
    });
    Holding {
        experiments: 1,
        ..sum
    }
}

fn take(from: &mut Resources, held: &Resources) {
    from.cpu_milli = from.cpu_milli.saturating_sub(held.cpu_milli);
    from.memory_bytes = from.memory_bytes.saturating_sub(held.memory_bytes);
    from.disk_bytes = from.disk_bytes.saturating_sub(held.disk_bytes);
    for share in &held.gpus {
        if let Some(gpu) = from.gpus.iter_mut().find(|gpu| gpu.index == share.index) {
            gpu.milli = gpu.milli.saturating_sub(share.milli);
            gpu.vram_bytes = gpu.vram_bytes.saturating_sub(share.vram_bytes);
        }
    }
    from.gpus.retain(|gpu| gpu.milli > 0 || gpu.vram_bytes > 0);
}

/// Adds a kept place to what is booked, for those for whom it is not kept.
pub(crate) fn book_kept(booked: &mut Booking, kept: &Resources) {
    booked.cpu_milli = booked.cpu_milli.saturating_add(kept.cpu_milli);
    booked.memory_bytes = booked.memory_bytes.saturating_add(kept.memory_bytes);
    booked.disk_bytes = booked.disk_bytes.saturating_add(kept.disk_bytes);
    for share in &kept.gpus {
        let (milli, vram) = booked.gpus.entry(share.index.0).or_default();
        *milli = milli.saturating_add(share.milli);
        *vram = vram.saturating_add(share.vram_bytes);
    }
}
