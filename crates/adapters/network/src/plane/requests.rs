//! Requests between members, and the answers to all requests.

use std::collections::HashMap;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use libp2p::request_response::{
    Event as RequestEvent, InboundRequestId, Message, OutboundFailure, OutboundRequestId,
    ResponseChannel,
};
use tokio::sync::oneshot;

use super::Plane;
use crate::event::{Event, Reply};
use crate::identity::node_id;
use crate::protocol::{MAX_REQUESTS_IN_FLIGHT, MAX_RPC_ANSWER_BYTES};
use crate::wire::{Failure, Outcome, Request};

pub(super) type Waiting = oneshot::Sender<Result<Outcome, OutboundFailure>>;

/// Requests under way, in both directions.
#[derive(Default)]
pub(crate) struct Requests {
    asked: HashMap<OutboundRequestId, (PeerId, Waiting)>,
    /// Requests of others that this node has not answered yet.
    answering: HashMap<InboundRequestId, PeerId>,
    /// Answers that the owner is working on.
    pub(super) answers: FuturesUnordered<BoxFuture<'static, Answered>>,
}

/// An answer of the owner, and where it goes.
pub(super) struct Answered {
    pub(super) protocol: Asked,
    pub(super) channel: ResponseChannel<Outcome>,
    pub(super) outcome: Outcome,
}

/// The protocol that a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Rpc,
    Join,
}

impl Requests {
    /// Whether a request of either end waits for its answer.
    pub(super) fn is_open(&self, peer: &PeerId) -> bool {
        let asked = self.asked.values();
        let mut asked = asked.filter(|(_, waiting)| !waiting.is_closed());
        asked.any(|(other, _)| other == peer) || self.answering.values().any(|other| other == peer)
    }

    /// A reply for the owner, if there is room for one more; its answer will be in `answers`.
    pub(super) fn expect(
        &mut self,
        protocol: Asked,
        channel: ResponseChannel<Outcome>,
        limit: usize,
    ) -> Result<Reply, ResponseChannel<Outcome>> {
        if self.answers.len() >= MAX_REQUESTS_IN_FLIGHT {
            return Err(channel);
        }
        let (sender, receiver) = oneshot::channel();
        let answered = receiver.map(move |outcome| Answered {
            protocol,
            channel,
            outcome: outcome.unwrap_or(Outcome::Failed(Failure::NotAnswered)),
        });
        self.answers.push(answered.boxed());
        Ok(Reply::request(sender, limit))
    }
}

impl Plane {
    /// Sends a request to a member; `done` hears the answer.
    pub(super) fn ask(&mut self, peer: PeerId, request: Request, done: Option<Waiting>) {
        let Some(rpc) = self.swarm.behaviour_mut().gate.inner.rpc.as_mut() else {
            return;
        };
        let id = rpc.send_request(&peer, request);
        let asked = &mut self.state.requests.asked;
        // Callers that gave up need no answer.
        asked.retain(|_, (_, waiting)| !waiting.is_closed());
        if let Some(done) = done {
            asked.insert(id, (peer, done));
            self.links.sent(&peer);
        }
    }

    pub(super) fn on_rpc_event(&mut self, event: RequestEvent<Request, Outcome>) {
        match event {
            RequestEvent::Message {
                peer,
                connection_id,
                message,
            } => match message {
                Message::Request { .. } if self.state.closing.contains(&connection_id) => {
                    tracing::debug!(peer_id = %peer, "came over a connection that closes, not read");
                }
                Message::Request {
                    request_id,
                    request,
                    channel,
                } => {
                    // A report comes by itself and is no use of the link.
                    if matches!(request, Request::Call(_)) {
                        self.links.received(&peer);
                        self.state.requests.answering.insert(request_id, peer);
                    }
                    self.on_request(peer, request, channel);
                }
                Message::Response {
                    request_id,
                    response,
                } => {
                    self.links.received(&peer);
                    self.on_answer(request_id, Ok(response));
                }
            },
            RequestEvent::OutboundFailure {
                request_id, error, ..
            } => self.on_answer(request_id, Err(error)),
            RequestEvent::InboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                self.state.requests.answering.remove(&request_id);
                tracing::debug!(peer_id = %peer, %error, "answer not delivered");
            }
            RequestEvent::ResponseSent {
                peer, request_id, ..
            } => {
                if self.state.requests.answering.remove(&request_id).is_some() {
                    self.links.sent(&peer);
                }
            }
        }
    }

    fn on_request(&mut self, peer: PeerId, request: Request, channel: ResponseChannel<Outcome>) {
        let protocol = Asked::Rpc;
        let request = match request {
            Request::Call(request) if self.admission.is_member(&peer) => request,
            other => {
                let outcome = match other {
                    Request::Call(_) => Outcome::Failed(Failure::NotMember),
                    Request::Report(report) => {
                        // Nobody waits to hear whether the report was of use.
                        self.take_report(peer, report);
                        Outcome::Answer(bytes::Bytes::new())
                    }
                };
                return self.send_answer(Answered {
                    protocol,
                    channel,
                    outcome,
                });
            }
        };
        let requests = &mut self.state.requests;
        match requests.expect(protocol, channel, MAX_RPC_ANSWER_BYTES) {
            Ok(reply) => self.outbox.push(Event::Rpc {
                from: node_id(&peer),
                request,
                reply,
            }),
            Err(channel) => self.send_answer(Answered {
                protocol,
                channel,
                outcome: Outcome::Failed(Failure::Busy),
            }),
        }
    }

    fn on_answer(&mut self, id: OutboundRequestId, result: Result<Outcome, OutboundFailure>) {
        match self.state.requests.asked.remove(&id) {
            // A caller whose deadline passed is gone.
            Some((_, waiting)) => drop(waiting.send(result)),
            None => {
                if let Err(error) = result {
                    tracing::debug!(%error, "report not delivered");
                }
            }
        }
    }

    pub(super) fn send_answer(&mut self, answered: Answered) {
        let behaviour = self.swarm.behaviour_mut();
        let requests = match answered.protocol {
            Asked::Rpc => behaviour.gate.inner.rpc.as_mut(),
            Asked::Join => behaviour.join.as_mut(),
        };
        let sent = requests.map(|r| r.send_response(answered.channel, answered.outcome));
        if let Some(Err(_outcome)) = sent {
            tracing::debug!(protocol = ?answered.protocol, "asker is gone");
        }
    }
}
