//! Events on their way to the owner: the swarm task never waits for it.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::Event;
use crate::protocol::OUTBOX_QUEUE;

/// A bounded queue before the bounded channel.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<Event>,
    events: mpsc::Sender<Event>,
}

impl Outbox {
    pub(crate) fn new(events: mpsc::Sender<Event>) -> Self {
        Self {
            queue: VecDeque::new(),
            events,
        }
    }

    /// Queues an event. Reports, sightings and refusals are dropped if the owner is far behind:
    /// newer ones follow. The rest is bounded by its own limits.
    pub(crate) fn push(&mut self, event: Event) {
        let soft = matches!(
            event,
            Event::Report { .. } | Event::Discovered { .. } | Event::StrangersRefused { .. }
        );
        if self.queue.len() >= OUTBOX_QUEUE / 2 && soft {
            tracing::debug!("owner is behind, event dropped");
            return;
        }
        if self.queue.len() >= OUTBOX_QUEUE {
            tracing::warn!("owner is far behind, oldest event dropped");
            self.queue.pop_front();
        }
        self.queue.push_back(event);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Hands over the oldest event once the owner has room. May be cancelled.
    pub(crate) async fn deliver(&mut self) {
        match self.events.reserve().await {
            Ok(place) => {
                if let Some(event) = self.queue.pop_front() {
                    place.send(event);
                }
            }
            // The owner is gone: nobody wants them.
            Err(_closed) => self.queue.clear(),
        }
    }
}
