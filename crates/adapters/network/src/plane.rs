//! The task that owns one swarm: one loop, one line per kind of thing that can happen.

mod connections;
mod discovery;
mod gossip;
mod idle;
mod joins;
mod refusals;
mod requests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use libp2p::core::transport::ListenerId;
use libp2p::request_response::OutboundFailure;
use libp2p::swarm::{ConnectionId, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, PlaneKind};
use crate::dialer::{Dialer, Waiting};
use crate::finder::Found;
use crate::gate::{GateEvent, Source};
use crate::links::Links;
use crate::outbox::Outbox;
use crate::swarm::{Behaviour, BehaviourEvent, MembersEvent};
use crate::wire::{Outcome, Request};

pub(crate) use discovery::Sightings;
use joins::Joins;
use refusals::Refusals;
use requests::Requests;

/// Why a connection was not let in.
const NOT_LET_IN: &str = "too many connections, or one for members only";

/// What handles ask of a swarm.
pub(crate) enum Command {
    /// Connect to a member.
    Connect { peer: PeerId, done: Waiting },
    /// The admission table was replaced.
    MembersChanged {
        newer: bool,
        done: oneshot::Sender<()>,
    },
    /// Ask a connected member.
    Rpc {
        peer: PeerId,
        request: Bytes,
        done: oneshot::Sender<Result<Outcome, OutboundFailure>>,
    },
    /// Ask anyone to join.
    Join(JoinAttempt),
    /// Gossip a report, and remember it for members that connect.
    Publish(Bytes),
    /// Close all connections to a peer that fell silent.
    Disconnect(PeerId),
    /// Close those that a peer's last process made, before it made the first one of its new process.
    DisconnectOlder {
        peer: PeerId,
        than: std::time::Instant,
    },
    /// Which links are there without being used.
    Keep {
        only: Option<HashSet<PeerId>>,
        idle: Option<Duration>,
    },
    /// Take part in the reports, or only send.
    Subscribe(bool),
}

/// A join request to one node at any of some addresses.
pub(crate) struct JoinAttempt {
    pub(crate) peer: Option<PeerId>,
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) request: Bytes,
    pub(crate) done: oneshot::Sender<Result<(PeerId, Outcome), JoinFailure>>,
}

/// Why there was no answer.
pub(crate) struct JoinFailure {
    pub(crate) reason: String,
    /// There was a connection, which ended: worth another try.
    pub(crate) lost: bool,
}

/// Where a plane listens; complete once each listener has an address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listening {
    pub(crate) waiting_for: Vec<ListenerId>,
    pub(crate) addresses: Vec<Multiaddr>,
}

/// The swarm and all that its task keeps.
pub(crate) struct Plane {
    pub(crate) kind: PlaneKind,
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) links: Arc<Links>,
    pub(crate) sightings: Arc<Sightings>,
    /// What multicast DNS hears; closed on bulk, and where it is off.
    pub(crate) found: mpsc::Receiver<Found>,
    pub(crate) listening: watch::Sender<Listening>,
    pub(crate) outbox: Outbox,
    pub(crate) dialer: Dialer,
    pub(crate) stop: CancellationToken,
    /// To the bulk plane, from control.
    pub(crate) bulk: Option<mpsc::Sender<Command>>,
    /// To the control plane, from bulk.
    pub(crate) control: Option<mpsc::Sender<Command>>,
    /// The links of the bulk plane, on either.
    pub(crate) bulk_links: Arc<Links>,
    pub(crate) pulse: Interval,
    pub(crate) state: State,
}

/// What only the loop and its parts look at.
#[derive(Default)]
pub(crate) struct State {
    /// Dials to members under way.
    dials: HashMap<ConnectionId, PeerId>,
    requests: Requests,
    /// After how long an unused link that is not kept is closed; none: all are kept.
    idle: Option<Duration>,
    /// Connections that this end is closing because nobody used them: a request that still came is not read.
    closing: HashSet<ConnectionId>,
    joins: Joins,
    refusals: Refusals,
    /// Members whose earlier connections were closed for those of a new process, and when.
    started_again: HashMap<PeerId, Instant>,
    /// The last report of this node.
    report: Option<Bytes>,
}

impl Plane {
    /// Runs until stopped. Dropping the swarm closes all connections.
    pub(crate) async fn run(mut self) {
        loop {
            let due = self.dialer.next_due();
            let due_at = due.unwrap_or_else(Instant::now);
            let requests = &mut self.state.requests;
            tokio::select! {
                () = self.stop.cancelled() => return,
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(answered) = requests.answers.next() => self.send_answer(answered),
                Some(found) = self.found.recv() => self.on_found(found),
                () = self.outbox.deliver(), if !self.outbox.is_empty() => {}
                _ = self.pulse.tick() => self.on_pulse(),
                () = sleep_until(due_at), if due.is_some() => self.dial_due(),
            }
        }
    }

    fn on_pulse(&mut self) {
        if self.kind == PlaneKind::Control {
            self.close_silent();
            self.close_unused();
        }
        self.tell_refusals();
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Connect { peer, done } => self.connect(peer, done),
            Command::MembersChanged { newer, done } => {
                let members = self.admission.members();
                self.dialer.set_members(&members, newer, Instant::now());
                self.swarm.behaviour_mut().gate.recheck();
                if done.send(()).is_err() {
                    tracing::debug!("nobody waits for the new members to be in force");
                }
            }
            Command::Rpc {
                peer,
                request,
                done,
            } => self.ask_connected(peer, Request::Call(request), done),
            Command::Keep { only, idle } => self.keep(only, idle),
            Command::Join(attempt) => self.ask_to_join(attempt),
            Command::Disconnect(peer) => self.disconnect(peer),
            Command::DisconnectOlder { peer, than } => self.disconnect_older(peer, than),
            Command::Publish(report) => self.publish(report),
            Command::Subscribe(subscribed) => self.subscribe(subscribed),
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.on_connected(peer_id, connection_id, endpoint.get_remote_address()),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => self.on_disconnected(peer_id, connection_id, cause.as_ref()),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => self.on_dial_failed(connection_id, &error),
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => self.on_listening(listener_id, address),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.listening.send_modify(|now| {
                now.addresses.retain(|other| *other != address);
            }),
            SwarmEvent::ListenerClosed {
                listener_id,
                reason,
                ..
            } => {
                let plane = self.kind.name();
                match reason {
                    // As when the node ends.
                    Ok(()) => tracing::debug!(plane, "listener closed"),
                    Err(error) => tracing::error!(plane, %error, "listener failed for good"),
                }
                self.listening
                    .send_modify(|now| now.waiting_for.retain(|id| *id != listener_id));
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(plane = self.kind.name(), %error, "listener failed");
            }
            SwarmEvent::IncomingConnectionError {
                error,
                send_back_addr,
                peer_id,
                ..
            } => {
                tracing::trace!(plane = self.kind.name(), %error, "incoming connection failed");
                if let ListenError::Denied { .. } = error {
                    let source = Source::of_address(&send_back_addr);
                    self.refuse_stranger(peer_id, source, NOT_LET_IN);
                }
            }
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Limits(never) => match never {},
            BehaviourEvent::Join(event) => self.on_join_event(event),
            BehaviourEvent::Gate(GateEvent::Refused {
                peer,
                address,
                reason,
            }) => {
                tracing::debug!(peer_id = %peer, %address, reason, "not known as a member: connection closed");
                self.refuse_stranger(Some(peer), Source::of_address(&address), &reason);
            }
            BehaviourEvent::Gate(GateEvent::Inner(event)) => match event {
                MembersEvent::Streams(()) => {}
                MembersEvent::Rpc(event) => self.on_rpc_event(event),
                MembersEvent::Gossip(event) => self.on_gossip(event),
                MembersEvent::Identify(event) => self.on_identify(&event),
                MembersEvent::Ping(event) => self.on_ping(&event),
            },
        }
    }

    fn on_listening(&self, listener: ListenerId, address: Multiaddr) {
        tracing::info!(plane = self.kind.name(), %address, "listening");
        let own = *self.swarm.local_peer_id();
        let address = address
            .with_p2p(own)
            .unwrap_or_else(|already_named| already_named);
        self.listening.send_modify(|now| {
            now.waiting_for.retain(|id| *id != listener);
            now.addresses.push(address);
        });
    }
}
