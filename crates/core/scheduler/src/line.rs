//! Who is served next.
//!
//! Bands (priority of the queue, class of the experiment) strictly one after the other. Within a band the queue with the
//! least share for its weight, in it those that a person put in front, among these the user with the least share for
//! their weight, and of each user the highest priority, then the oldest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use state_machine::{Band, ClusterState, Consumer, Experiment, Holding};
use types::QueueName;

use crate::shares::Shares;

/// All that waits, in the order in which it is served as long as nothing is placed.
pub(crate) struct Line<'a> {
    state: &'a ClusterState,
    pub(crate) shares: Shares,
    /// First band in front.
    bands: VecDeque<(Band, BTreeMap<QueueName, QueueLine<'a>>)>,
}

/// One queue's part of a band: by the place that people gave, then by user.
type QueueLine<'a> = BTreeMap<i64, BTreeMap<String, VecDeque<&'a Arc<Experiment>>>>;

impl<'a> Line<'a> {
    pub(crate) fn of(state: &'a ClusterState, shares: Shares) -> Self {
        let mut bands: VecDeque<(Band, BTreeMap<QueueName, QueueLine<'a>>)> = VecDeque::new();
        for experiment in state.waiting() {
            let band = state.band(experiment);
            if bands.back().is_none_or(|(last, _)| *last != band) {
                bands.push_back((band, BTreeMap::new()));
            }
            let Some((_, queues)) = bands.back_mut() else {
                continue;
            };
            let queue = match queues.get_mut(&experiment.queue) {
                Some(queue) => queue,
                None => queues.entry(experiment.queue.clone()).or_default(),
            };
            let users = queue.entry(experiment.rank).or_default();
            match users.get_mut(&experiment.author.user) {
                Some(line) => line.push_back(experiment),
                None => {
                    let user = experiment.author.user.clone();
                    users.insert(user, VecDeque::from([experiment]));
                }
            }
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
            let (_, queues) = self.bands.front_mut()?;
            let least = queues.keys().min_by_key(|name| self.shares.queue(name));
            let Some(name) = least.cloned() else {
                self.bands.pop_front();
                continue;
            };
            let found = next_of(self.state, &self.shares, queues, &name);
            if found.is_some() {
                return found;
            }
            queues.remove(&name);
        }
    }

    /// One of theirs was placed: they are served later.
    pub(crate) fn placed(&mut self, experiment: &Experiment) {
        let more = Holding::wanted(&experiment.spec.resources);
        self.shares.add(self.state, &Consumer::of(experiment), more);
    }
}

fn next_of<'a>(
    state: &ClusterState,
    shares: &Shares,
    queues: &mut BTreeMap<QueueName, QueueLine<'a>>,
    name: &QueueName,
) -> Option<&'a Arc<Experiment>> {
    let queue = queues.get_mut(name)?;
    loop {
        let mut first = queue.first_entry()?;
        let users = first.get_mut();
        let share = |user: &String| {
            let consumer = Consumer {
                queue: name.clone(),
                user: user.clone(),
            };
            shares.user(state, &consumer)
        };
        let least = match users.len() {
            0 | 1 => users.keys().next().cloned(),
            _ => users.keys().min_by_key(|user| share(user)).cloned(),
        };
        let Some(user) = least else {
            first.remove();
            continue;
        };
        match users.get_mut(&user).and_then(VecDeque::pop_front) {
            Some(experiment) => return Some(experiment),
            None => drop(users.remove(&user)),
        }
    }
}
