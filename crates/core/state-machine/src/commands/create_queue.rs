//! Queues.

use serde::{Deserialize, Serialize};
use types::QueueName;

use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::Outcome;
use crate::queue::Queue;
use crate::state::{ClusterState, Context};

/// Makes a queue, or changes the priority of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateQueue {
    /// Its name.
    pub name: QueueName,
    /// Higher is served first.
    pub priority: i32,
}

impl CreateQueue {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let by = context.author.to_string();
        let queue = match state.queues.get(&self.name) {
            Some(known) => Queue {
                priority: self.priority,
                ..known.clone()
            },
            None => Queue {
                priority: self.priority,
                ..Queue::new(self.name.clone(), by, context.now)
            },
        };
        state.queues.insert(self.name.clone(), queue);
        state.reorder_waiting();
        state.record(
            context,
            Action::QueueChanged,
            None,
            format!("{}: priority {}", self.name, self.priority),
        );
        context.events.push(Event::QueuesChanged);
        Outcome::Done
    }
}
