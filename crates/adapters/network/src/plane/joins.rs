//! The join protocol, from both ends.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use libp2p::PeerId;
use libp2p::request_response::{
    Event as RequestEvent, InboundRequestId, Message, OutboundFailure, OutboundRequestId,
    ResponseChannel,
};
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use tokio::sync::oneshot;
use types::{JoinReply, codec};

use super::refusals::name_of;
use super::requests::{Answered, Asked};
use super::{JoinAttempt, JoinFailure, Plane};
use crate::event::Event;
use crate::gate::Source;
use crate::identity::node_id;
use crate::protocol::MAX_JOIN_ANSWER_BYTES;
use crate::rate::JoinLimit;
use crate::wire::{Failure, Outcome, Request};

type Done = oneshot::Sender<Result<(PeerId, Outcome), JoinFailure>>;

/// Join requests under way, in both directions.
pub(crate) struct Joins {
    dials: HashMap<ConnectionId, (Bytes, Done)>,
    asked: HashMap<OutboundRequestId, Done>,
    /// Requests of others whose answer is not on the wire yet.
    answering: HashMap<InboundRequestId, PeerId>,
    limit: JoinLimit<Option<Source>>,
}

impl Default for Joins {
    fn default() -> Self {
        Self {
            dials: HashMap::new(),
            asked: HashMap::new(),
            answering: HashMap::new(),
            limit: JoinLimit::new(Instant::now()),
        }
    }
}

impl Plane {
    /// Asks a node, dialling it unless it is connected.
    pub(super) fn ask_to_join(&mut self, attempt: JoinAttempt) {
        let JoinAttempt {
            peer,
            addresses,
            request,
            done,
        } = attempt;
        if let Some(peer) = peer.filter(|peer| self.swarm.is_connected(peer)) {
            return self.send_join(peer, request, done);
        }
        let options = match (peer, addresses.first()) {
            (Some(peer), _) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(
                    addresses
                        .into_iter()
                        .chain(self.sightings.addresses(&peer))
                        .collect(),
                )
                .extend_addresses_through_behaviour()
                .build(),
            (None, Some(address)) => DialOpts::unknown_peer_id().address(address.clone()).build(),
            // `targets` gives none without an address.
            (None, None) => return,
        };
        let id = options.connection_id();
        self.state.joins.dials.insert(id, (request, done));
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_failed(id, &error);
        }
    }

    fn send_join(&mut self, peer: PeerId, request: Bytes, done: Done) {
        let behaviour = self.swarm.behaviour_mut();
        let Some(join) = behaviour.join.as_mut() else {
            return;
        };
        let id = join.send_request(&peer, Request::Call(request));
        self.links.sent(&peer);
        behaviour.gate.hold(peer);
        self.state.joins.asked.insert(id, done);
    }

    pub(super) fn on_join_dialled(&mut self, peer: PeerId, id: ConnectionId) {
        if let Some((request, done)) = self.state.joins.dials.remove(&id) {
            self.send_join(peer, request, done);
        }
    }

    pub(super) fn on_join_dial_failed(&mut self, id: ConnectionId, error: &str) {
        if let Some((_, done)) = self.state.joins.dials.remove(&id) {
            // A caller whose deadline passed is gone.
            let reason = error.to_owned();
            drop(done.send(Err(JoinFailure {
                reason,
                lost: false,
            })));
        }
    }

    pub(super) fn on_join_event(&mut self, event: RequestEvent<Request, Outcome>) {
        match event {
            RequestEvent::Message {
                peer,
                connection_id,
                message,
            } => match message {
                Message::Request {
                    request_id,
                    request,
                    channel,
                } => self.on_join_request((peer, connection_id), request_id, request, channel),
                Message::Response {
                    request_id,
                    response,
                } => self.on_join_answer(peer, request_id, Ok((peer, response))),
            },
            RequestEvent::OutboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                let failure = JoinFailure {
                    reason: error.to_string(),
                    lost: matches!(error, OutboundFailure::ConnectionClosed),
                };
                self.on_join_answer(peer, request_id, Err(failure));
            }
            RequestEvent::InboundFailure { request_id, .. }
            | RequestEvent::ResponseSent { request_id, .. } => {
                if let Some(peer) = self.state.joins.answering.remove(&request_id) {
                    self.swarm.behaviour_mut().gate.release(peer);
                }
            }
        }
    }

    fn on_join_request(
        &mut self,
        (peer, connection): (PeerId, ConnectionId),
        id: InboundRequestId,
        request: Request,
        channel: ResponseChannel<Outcome>,
    ) {
        let protocol = Asked::Join;
        self.links.sent(&peer);
        self.state.joins.answering.insert(id, peer);
        self.swarm.behaviour_mut().gate.hold(peer);
        let at_once = |channel, outcome| Answered {
            protocol,
            channel,
            outcome,
        };
        let source = self.swarm.behaviour().gate.source_of(connection);
        if !self.state.joins.limit.admit(source, Instant::now()) {
            self.refuse_stranger(Some(peer), source, "asked to join too often");
            return self.send_answer(at_once(channel, Outcome::Answer(rate_limited())));
        }
        let Request::Call(request) = request else {
            return self.send_answer(at_once(channel, Outcome::Failed(Failure::NotMember)));
        };
        let requests = &mut self.state.requests;
        match requests.expect(protocol, channel, MAX_JOIN_ANSWER_BYTES) {
            Ok(reply) => self.outbox.push(Event::Join {
                from: node_id(&peer),
                source: name_of(source),
                request,
                reply,
            }),
            Err(channel) => self.send_answer(at_once(channel, Outcome::Failed(Failure::Busy))),
        }
    }

    fn on_join_answer(
        &mut self,
        peer: PeerId,
        id: OutboundRequestId,
        result: Result<(PeerId, Outcome), JoinFailure>,
    ) {
        if let Some(done) = self.state.joins.asked.remove(&id) {
            let over = self.swarm.behaviour_mut().gate.release(peer);
            if over && !self.admission.is_member(&peer) {
                // Who has been asked need not look after an idle stranger, and write it down.
                self.disconnect(peer);
            }
            // A caller whose deadline passed is gone.
            drop(done.send(result));
        }
    }
}

/// What a peer hears that asks too often.
fn rate_limited() -> Bytes {
    let reply = JoinReply::Refused {
        code: "rate-limited".to_owned(),
        message: "too many join requests; try again in a few seconds".to_owned(),
    };
    codec::encode(&reply).into()
}
