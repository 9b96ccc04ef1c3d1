//! A person changes the order of what waits.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use types::{ExperimentId, Role};

use crate::commands::waiting_of;
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::Experiment;
use crate::state::{ClusterState, Context};

/// Highest priority that a member may give: the ordinary class. Higher classes take places of others.
pub const MAX_MEMBER_PRIORITY: i32 = 99;

/// Experiments that one reordering shifts: applying it takes a few milliseconds.
const MAX_SHIFTED: usize = 1_000;

/// A place in the line of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinePlace {
    /// Before all others of its queue and class.
    First,
    /// After all others of its queue and class.
    Last,
    /// Right before this one.
    Before(ExperimentId),
    /// Where its priority and age put it.
    Ordinary,
}

/// Gives a waiting experiment another place among those of its queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderExperiment {
    /// Which.
    pub experiment: ExperimentId,
    /// Where.
    pub place: LinePlace,
}

impl OrderExperiment {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let experiment = match waiting_of(state, context, self.experiment, "reorder") {
            Ok(experiment) => experiment,
            Err(refused) => return refused,
        };
        let detail = match self.place {
            LinePlace::First => "first of its queue".to_owned(),
            LinePlace::Last => "last of its queue".to_owned(),
            LinePlace::Before(other) => format!("before {other}"),
            LinePlace::Ordinary => "by priority and age".to_owned(),
        };
        if let Some(refused) = self.refuse_passing(state, context, &experiment) {
            return refused;
        }
        let moved = match self.place {
            LinePlace::First => Ok(vec![ranked(&experiment, first(state, &experiment))]),
            LinePlace::Last => Ok(vec![ranked(&experiment, last(state, &experiment))]),
            LinePlace::Ordinary => Ok(vec![ranked(&experiment, 0)]),
            LinePlace::Before(other) => before(state, &experiment, other),
        };
        let moved = match moved {
            Ok(moved) => moved,
            Err(refused) => return refused,
        };
        for experiment in moved {
            state.put(experiment);
        }
        let id = Some(self.experiment);
        state.record(context, Action::ExperimentReordered, id, detail);
        let queued = Event::ExperimentQueued(self.experiment);
        context.events.push(queued);
        Outcome::Done
    }
}

impl OrderExperiment {
    /// Whom fair shares serve first is not for a member to say: in front go only own ones, while nobody else waits there.
    fn refuse_passing(
        &self,
        state: &ClusterState,
        context: &Context<'_>,
        of: &Experiment,
    ) -> Option<Outcome> {
        let forward = match self.place {
            LinePlace::First | LinePlace::Before(_) => true,
            LinePlace::Last | LinePlace::Ordinary => false,
        };
        if !forward || context.author.role == Role::Admin {
            return None;
        }
        let other = line(state, of).find(|other| other.author.user != of.author.user)?;
        let (id, queue, user) = (of.id, &of.queue, &other.author.user);
        let message = format!(
            "{user} waits in queue {queue} too: an admin can put {id} in front; `muster priority {id} N`, up to {MAX_MEMBER_PRIORITY}, puts it before others of yours"
        );
        Some(Outcome::refused(RefusalCode::NotAllowed, message))
    }
}

fn ranked(experiment: &Experiment, rank: i64) -> Experiment {
    Experiment {
        rank,
        ..experiment.clone()
    }
}

/// The others that wait in the queue of the experiment and are of its class, first in front.
fn line<'a>(
    state: &'a ClusterState,
    of: &'a Experiment,
) -> impl Iterator<Item = &'a Arc<Experiment>> {
    let band = state.band(of);
    let same = state
        .waiting_by_band()
        .filter(move |(other, _)| *other == band);
    same.map(|(_, other)| other)
        .filter(|other| other.queue == of.queue && other.id != of.id)
}

fn first(state: &ClusterState, of: &Experiment) -> i64 {
    let least = line(state, of).map(|other| other.rank).min();
    least.unwrap_or(0).min(0).saturating_sub(1)
}

fn last(state: &ClusterState, of: &Experiment) -> i64 {
    let most = line(state, of).map(|other| other.rank).max();
    most.unwrap_or(0).max(0).saturating_add(1)
}

/// Makes room right before another one: all that stand before it are shifted together, so that they keep their order.
fn before(
    state: &ClusterState,
    of: &Experiment,
    other: ExperimentId,
) -> Result<Vec<Experiment>, Outcome> {
    let Some(at) = line(state, of).position(|one| one.id == other) else {
        return Err(refuse_before(state, of, other));
    };
    if at > MAX_SHIFTED {
        let message = format!(
            "{at} wait before {other}, more than the {MAX_SHIFTED} that can be shifted at once: put it first, or before one further in front"
        );
        return Err(Outcome::refused(RefusalCode::Invalid, message));
    }
    let fence = line(state, of).nth(at).map_or(0, |one| one.rank);
    let ahead = line(state, of).take(at);
    let mut moved: Vec<_> = ahead
        .map(|one| ranked(one, one.rank.saturating_sub(2)))
        .collect();
    moved.push(ranked(of, fence.saturating_sub(1)));
    Ok(moved)
}

/// Why there is no place before another one.
fn refuse_before(state: &ClusterState, of: &Experiment, other: ExperimentId) -> Outcome {
    let (id, queue) = (of.id, &of.queue);
    let mut waiting = state.waiting().filter(|one| one.queue == *queue);
    if other != id && waiting.any(|one| one.id == other) {
        let message = format!(
            "{other} is of another class than {id}, and whole classes are served one after the other: `muster priority {id} N` changes it"
        );
        return Outcome::refused(RefusalCode::Invalid, message);
    }
    let message = format!("{other} does not wait in queue {queue}: `muster ls` lists what does");
    Outcome::refused(RefusalCode::NotWaiting, message)
}

/// Changes the priority of a waiting experiment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPriority {
    /// Which.
    pub experiment: ExperimentId,
    /// Higher goes first.
    pub priority: i32,
}

impl SetPriority {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let mut experiment = match waiting_of(state, context, self.experiment, "reprioritise") {
            Ok(experiment) => experiment,
            Err(refused) => return refused,
        };
        if let Some(refused) = refuse_high(context, self.priority) {
            return refused;
        }
        let detail = format!("from {} to {}", experiment.priority, self.priority);
        experiment.priority = self.priority;
        state.put(experiment);
        let id = Some(self.experiment);
        state.record(context, Action::PriorityChanged, id, detail);
        let queued = Event::ExperimentQueued(self.experiment);
        context.events.push(queued);
        Outcome::Done
    }
}

/// A member gives no priority of a class that takes places of others.
pub(super) fn refuse_high(context: &Context<'_>, priority: i32) -> Option<Outcome> {
    (priority > MAX_MEMBER_PRIORITY && context.author.role < Role::Admin).then(|| {
        let message = format!(
            "priority {priority} takes the places of others: a member gives at most {MAX_MEMBER_PRIORITY}, an admin any"
        );
        Outcome::refused(RefusalCode::NotAllowed, message)
    })
}
