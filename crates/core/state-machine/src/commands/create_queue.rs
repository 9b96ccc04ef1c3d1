//! Queues.

use serde::{Deserialize, Serialize};
use types::QueueName;

use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::queue::Queue;
use crate::state::{ClusterState, Context};

/// Makes a queue. Made again as it is, nothing changes; another priority is refused, since whoever makes a queue may not
/// know that others use it.
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
        let known = state.queues.get(&self.name);
        if let Some(known) = known.filter(|known| known.priority != self.priority) {
            let message = format!(
                "queue {} exists already, with priority {}; to change it: muster queue set {} --priority {}",
                self.name, known.priority, self.name, self.priority
            );
            return Outcome::refused(RefusalCode::NameTaken, message);
        }
        let new = || Queue {
            priority: self.priority,
            ..Queue::new(self.name.clone(), by, context.now)
        };
        let queue = known.cloned().unwrap_or_else(new);
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
