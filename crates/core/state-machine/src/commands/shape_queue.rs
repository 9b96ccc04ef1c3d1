//! What people decide about a queue: paused, its part, its limits.

use serde::{Deserialize, Serialize};
use types::QueueName;

use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::queue::{Limits, Queue, Word};
use crate::state::{ClusterState, Context};

/// Largest weight of a queue or user: parts are compared by cross products of 64 bits.
const MAX_WEIGHT: u32 = 1_000_000;

/// Longest name of a user.
const MAX_USER_BYTES: usize = 64;

/// Keeps all of a queue from being placed, or lets it go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseQueue {
    /// Which.
    pub queue: QueueName,
    /// False: it goes on.
    pub paused: bool,
    /// Why, for people; may be empty.
    pub reason: String,
}

impl PauseQueue {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(queue) = state.queues.get(&self.queue).cloned() else {
            return unknown_queue(&self.queue);
        };
        if queue.paused.is_some() == self.paused {
            return Outcome::Done;
        }
        let paused = self.paused.then(|| Word {
            by: context.author.to_string(),
            at: context.now,
            reason: self.reason.clone(),
        });
        let detail = match &paused {
            Some(word) if !word.reason.is_empty() => {
                format!("{}: paused: {}", self.queue, word.reason)
            }
            Some(_) => format!("{}: paused", self.queue),
            None => format!("{}: goes on", self.queue),
        };
        change(state, context, Queue { paused, ..queue }, detail)
    }
}

/// Sets the priority, the part and the limits of a queue; makes it if there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeQueue {
    /// Which.
    pub queue: QueueName,
    /// Higher is served first; none: as it is.
    pub priority: Option<i32>,
    /// Its part among queues of the same priority; none: as it is.
    pub weight: Option<u32>,
    /// What all of it may hold; none: as it is.
    pub limits: Option<Limits>,
    /// What each user may hold of it; none: as it is.
    pub user_limits: Option<Limits>,
}

impl ShapeQueue {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        if let Some(refused) = self.weight.and_then(refuse_weight) {
            return refused;
        }
        if self.priority.is_none()
            && self.weight.is_none()
            && self.limits.is_none()
            && self.user_limits.is_none()
        {
            let message = "say what to change of the queue: priority, weight or limits";
            return Outcome::refused(RefusalCode::Invalid, message);
        }
        let by = context.author.to_string();
        let known = state.queues.get(&self.queue).cloned();
        let mut queue = known.unwrap_or_else(|| Queue::new(self.queue.clone(), by, context.now));
        queue.priority = self.priority.unwrap_or(queue.priority);
        queue.weight = self.weight.unwrap_or(queue.weight);
        queue.limits = self.limits.unwrap_or(queue.limits);
        queue.user_limits = self.user_limits.unwrap_or(queue.user_limits);
        let detail = format!(
            "{}: priority {}, weight {}, at once {}; each user {}",
            queue.name, queue.priority, queue.weight, queue.limits, queue.user_limits
        );
        change(state, context, queue, detail)
    }
}

/// Gives a user a part other than 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeighUser {
    /// Who, without a node.
    pub user: String,
    /// The part among users of one queue.
    pub weight: u32,
}

impl WeighUser {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        if let Some(refused) = refuse_user(&self.user).or_else(|| refuse_weight(self.weight)) {
            return refused;
        }
        if self.weight == 1 {
            state.user_weights.remove(&self.user);
        } else {
            state.user_weights.insert(self.user.clone(), self.weight);
        }
        let detail = format!("{}: weight {}", self.user, self.weight);
        state.record(context, Action::UserWeighed, None, detail);
        context.events.push(Event::QueuesChanged);
        Outcome::Done
    }
}

fn refuse_weight(weight: u32) -> Option<Outcome> {
    (weight == 0 || weight > MAX_WEIGHT).then(|| {
        let message = format!("a weight is a number from 1 to {MAX_WEIGHT}");
        Outcome::refused(RefusalCode::Invalid, message)
    })
}

/// What cannot be anybody's name is a slip of whoever wrote it.
pub(super) fn refuse_user(user: &str) -> Option<Outcome> {
    let is_odd = |letter: char| letter.is_control() || letter.is_whitespace();
    (user.is_empty() || user.len() > MAX_USER_BYTES || user.contains(is_odd)).then(|| {
        let message = format!(
            "a user is named by 1 to {MAX_USER_BYTES} bytes without spaces, as before the last @ in `muster ls`"
        );
        Outcome::refused(RefusalCode::Invalid, message)
    })
}

fn change(
    state: &mut ClusterState,
    context: &mut Context<'_>,
    queue: Queue,
    detail: String,
) -> Outcome {
    state.queues.insert(queue.name.clone(), queue);
    state.reorder_waiting();
    state.record(context, Action::QueueChanged, None, detail);
    context.events.push(Event::QueuesChanged);
    Outcome::Done
}

pub(super) fn unknown_queue(queue: &QueueName) -> Outcome {
    let message = format!("there is no queue {queue}: `muster queue ls` lists them");
    Outcome::refused(RefusalCode::UnknownQueue, message)
}
