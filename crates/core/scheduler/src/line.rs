//! Who is served next.
//!
//! Bands (priority of the queue, class of the experiment) strictly one after the other. Within a band the queue with the
//! least share for its weight, in it those that a person put in front, among these the user with the least share for
//! their weight, and of each user the highest priority, then the oldest. Shares alone could keep somebody waiting for ever,
//! while people come who have used less: so in each band those that have waited for
//! [`serve_after`](crate::SchedulerConfig::serve_after) go before all shares, the oldest first. Only one that a person put
//! behind stays there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use state_machine::{Band, ClusterState, Consumer, Experiment, ExperimentPhase, Holding};
use types::{DurationMs, QueueName, Timestamp};

use crate::shares::Shares;

/// All that waits, in the order in which it is served as long as nothing is placed.
pub(crate) struct Line<'a> {
    state: &'a ClusterState,
    pub(crate) shares: Shares,
    /// First band in front.
    bands: VecDeque<BandLine<'a>>,
}

/// One band's part of the line.
#[derive(Default)]
struct BandLine<'a> {
    /// Who has waited for so long that shares do not count, the oldest in front.
    aged: VecDeque<&'a Arc<Experiment>>,
    queues: BTreeMap<&'a QueueName, QueueLine<'a>>,
}

/// From when on age counts more than shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aging {
    /// State time.
    pub(crate) now: Timestamp,
    pub(crate) serve_after: DurationMs,
}

impl Aging {
    pub(crate) fn is_aged(self, experiment: &Experiment) -> bool {
        let waited = queued_since(experiment).map(|since| self.now.since(since));
        experiment.rank <= 0 && waited.is_some_and(|waited| waited >= self.serve_after)
    }
}

/// Since when it waits; none: it does not.
fn queued_since(experiment: &Experiment) -> Option<Timestamp> {
    match experiment.phase {
        ExperimentPhase::Queued { since } => Some(since),
        ExperimentPhase::Active | ExperimentPhase::Ended { .. } => None,
    }
}

/// One queue's part of a band.
struct QueueLine<'a> {
    name: &'a QueueName,
    /// Its share for its weight.
    share: u64,
    /// By the place that people gave, then by user.
    places: BTreeMap<i64, BTreeMap<&'a str, UserLine<'a>>>,
}

/// One user's part of it.
struct UserLine<'a> {
    user: &'a str,
    /// Their share for their weight.
    share: u64,
    waiting: VecDeque<&'a Arc<Experiment>>,
}

impl<'a> Line<'a> {
    pub(crate) fn of(state: &'a ClusterState, shares: Shares, aging: Aging) -> Self {
        let mut bands: VecDeque<BandLine<'a>> = VecDeque::new();
        let mut last: Option<Band> = None;
        for (band, experiment) in state.waiting_by_band() {
            if last != Some(band) {
                bands.push_back(BandLine::default());
                last = Some(band);
            }
            let Some(BandLine { aged, queues }) = bands.back_mut() else {
                continue;
            };
            if aging.is_aged(experiment) {
                aged.push_back(experiment);
                continue;
            }
            let name = &experiment.queue;
            let queue = queues.entry(name).or_insert_with(|| QueueLine {
                name,
                share: shares.queue(name),
                places: BTreeMap::new(),
            });
            let users = queue.places.entry(experiment.rank).or_default();
            let user = experiment.author.user.as_str();
            let line = users.entry(user).or_insert_with(|| UserLine {
                user,
                share: shares.user(state, &Consumer::of(experiment)),
                waiting: VecDeque::new(),
            });
            line.waiting.push_back(experiment);
        }
        for band in &mut bands {
            let age = |one: &&Arc<Experiment>| (queued_since(one), one.submitted_index);
            band.aged.make_contiguous().sort_by_key(age);
        }
        Self {
            state,
            shares,
            bands,
        }
    }

    /// The next in line, which is taken out of it.
    pub(crate) fn next(&mut self) -> Option<&'a Arc<Experiment>> {
        loop {
            let BandLine { aged, queues } = self.bands.front_mut()?;
            if let Some(oldest) = aged.pop_front() {
                return Some(oldest);
            }
            let Some(queue) = queues.values_mut().min_by_key(|queue| queue.share) else {
                self.bands.pop_front();
                continue;
            };
            let found = queue.next();
            if found.is_some() {
                return found;
            }
            let name = queue.name;
            queues.remove(name);
        }
    }

    /// One of theirs was placed: they are served later.
    pub(crate) fn placed(&mut self, experiment: &Experiment) {
        let more = Holding::wanted(&experiment.spec.resources);
        let consumer = Consumer::of(experiment);
        self.shares.add(self.state, &consumer, more);
        let of_queue = self.shares.queue(&consumer.queue);
        let of_user = self.shares.user(self.state, &consumer);
        let lines = self.bands.iter_mut();
        for queue in lines.filter_map(|band| band.queues.get_mut(&consumer.queue)) {
            queue.share = of_queue;
            for users in queue.places.values_mut() {
                if let Some(line) = users.get_mut(consumer.user.as_str()) {
                    line.share = of_user;
                }
            }
        }
    }
}

impl<'a> QueueLine<'a> {
    fn next(&mut self) -> Option<&'a Arc<Experiment>> {
        loop {
            let mut first = self.places.first_entry()?;
            let users = first.get_mut();
            let Some(line) = users.values_mut().min_by_key(|line| line.share) else {
                first.remove();
                continue;
            };
            let found = line.waiting.pop_front();
            if found.is_some() {
                return found;
            }
            let user = line.user;
            users.remove(user);
        }
    }
}
