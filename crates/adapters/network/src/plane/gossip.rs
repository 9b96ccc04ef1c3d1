//! Node reports: gossiped, signed by their author, and sent directly to whoever connects.

use bytes::Bytes;
use libp2p::PeerId;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, PublishError};

use super::Plane;
use crate::event::Event;
use crate::identity::node_id;
use crate::protocol::{MAX_REPORT_BYTES, REPORT_TOPIC};
use crate::wire::Request;

impl Plane {
    pub(super) fn publish(&mut self, report: Bytes) {
        self.state.report = Some(report.clone());
        let Some(gossip) = self.swarm.behaviour_mut().gate.inner.gossip.as_mut() else {
            return;
        };
        match gossip.publish(IdentTopic::new(REPORT_TOPIC), report) {
            // The same words again: whoever connects gets them directly.
            Ok(_) | Err(PublishError::Duplicate) => {}
            // Nobody is known to listen. gossipsub tells its topics on the first connection of a peer alone: who still
            // holds a dead connection to the process before this one has not told them to this one.
            Err(PublishError::NoPeersSubscribedToTopic) => {
                for peer in self.links.up_peers() {
                    self.send_report(peer);
                }
            }
            Err(error) => tracing::debug!(%error, "report not gossiped, the next one follows"),
        }
    }

    pub(super) fn subscribe(&mut self, subscribed: bool) {
        let Some(gossip) = self.swarm.behaviour_mut().gate.inner.gossip.as_mut() else {
            return;
        };
        let topic = IdentTopic::new(REPORT_TOPIC);
        if !subscribed {
            gossip.unsubscribe(&topic);
        } else if let Err(error) = gossip.subscribe(&topic) {
            tracing::error!(%error, "subscribing to reports failed");
        }
    }

    /// Sends the last report to a member that just came up, so that it need not wait for the next.
    pub(super) fn send_report(&mut self, peer: PeerId) {
        if let Some(report) = self.state.report.clone() {
            self.ask(peer, Request::Report(report), None);
        }
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        let gossipsub::Event::Message {
            propagation_source,
            message_id,
            message,
        } = event
        else {
            return;
        };
        let acceptance = match message.source {
            Some(author) => self.take_report(author, message.data.into()),
            None => MessageAcceptance::Reject,
        };
        if let Some(gossip) = self.swarm.behaviour_mut().gate.inner.gossip.as_mut() {
            gossip.report_message_validation_result(&message_id, &propagation_source, acceptance);
        }
    }

    /// Tells the owner, if the author is a member and keeps to the limit.
    pub(super) fn take_report(&mut self, author: PeerId, bytes: Bytes) -> MessageAcceptance {
        if bytes.len() > MAX_REPORT_BYTES {
            return MessageAcceptance::Reject;
        }
        if !self.admission.is_member(&author) {
            // Perhaps a member of a list that has not reached this node yet: no fault of the sender.
            return MessageAcceptance::Ignore;
        }
        let from = node_id(&author);
        self.outbox.push(Event::Report { from, bytes });
        MessageAcceptance::Accept
    }
}
