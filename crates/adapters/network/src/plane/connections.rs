//! Connections to members: dialled, made, proven, lost.

use std::time::Duration;

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionError, ConnectionId, DialError as SwarmDialError};
use libp2p::{Multiaddr, PeerId, identify, ping};
use tokio::time::Instant;

use super::{Command, Plane};
use crate::admission::PlaneKind;
use crate::dialer::{DialError, ForCall, Waiting};
use crate::event::Event;
use crate::identity::node_id;

/// Two pings without answer: libp2p's own count would take twice as long.
const SILENCE: Duration = Duration::from_secs(12);

impl Plane {
    /// A call needs a connection to a member.
    pub(super) fn connect(&mut self, peer: PeerId, done: Waiting) {
        if self.links.is_connected(&peer) {
            return drop(done.send(Ok(())));
        }
        match self.dialer.for_call(&peer, Instant::now()) {
            ForCall::Refused => drop(done.send(Err(DialError::Refused))),
            ForCall::Failed(error) => drop(done.send(Err(DialError::Failed(error)))),
            ForCall::Wait => self.dialer.wait(&peer, done),
            ForCall::Dial => {
                self.dialer.wait(&peer, done);
                self.dial(peer);
            }
        }
    }

    pub(super) fn dial_due(&mut self) {
        for peer in self.dialer.due(Instant::now()) {
            if self.links.is_connected(&peer) {
                self.dialer.connected(&peer);
            } else {
                self.dial(peer);
            }
        }
    }

    /// Dials TCP first: it is faster on a LAN, and a peer that dies closes it at once. QUIC and
    /// what mDNS saw come in after the first failure. Never from the listening port, which libp2p
    /// does by default: two nodes that dial each other at once would meet in one TCP connection.
    fn dial(&mut self, peer: PeerId) {
        let failures = self.dialer.dialing(&peer);
        let known = self.admission.addresses(&peer, self.kind);
        let tcp: Vec<_> = known.iter().filter(|a| is_tcp(a)).cloned().collect();
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always);
        let options = if failures == 0 && !tcp.is_empty() {
            options.addresses(tcp).allocate_new_port().build()
        } else {
            let seen = match self.kind {
                PlaneKind::Control => self.sightings.addresses(&peer),
                PlaneKind::Bulk => Vec::new(), // It is of control that multicast DNS tells.
            };
            let options = options.addresses(known.into_iter().chain(seen).collect());
            let options = options.extend_addresses_through_behaviour();
            options.allocate_new_port().build()
        };
        let id = options.connection_id();
        self.state.dials.insert(id, peer);
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_failed(id, &error);
        }
    }

    pub(super) fn on_connected(&mut self, peer: PeerId, id: ConnectionId, address: &Multiaddr) {
        let dialled = self.state.dials.remove(&id).is_some();
        self.on_join_dialled(peer, id);
        if self.swarm.behaviour().gate.is_admitted(id) {
            tracing::debug!(plane = self.kind.name(), peer_id = %peer, %address, "connected");
            self.links.connected(peer, id, address.clone());
            self.dialer.connected(&peer);
            if self.kind == PlaneKind::Bulk {
                self.dialer.came_up(&peer);
                if dialled {
                    self.link_control(peer);
                }
            }
        } else if dialled {
            let error = "it is no longer a member".to_owned();
            self.dialer.failed(&peer, error, Instant::now());
        }
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, error: &SwarmDialError) {
        let text = describe(error);
        self.on_join_dial_failed(id, &text);
        let Some(peer) = self.state.dials.remove(&id) else {
            return;
        };
        if self.links.is_connected(&peer) {
            return self.dialer.connected(&peer);
        }
        tracing::debug!(plane = self.kind.name(), peer_id = %peer, error = text, "dial failed");
        self.dialer.failed(&peer, text, Instant::now());
    }

    pub(super) fn on_disconnected(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        cause: Option<&ConnectionError>,
    ) {
        self.state.closing.remove(&id);
        let Some(link) = self.links.disconnected(&peer, id) else {
            return;
        };
        tracing::debug!(plane = self.kind.name(), peer_id = %peer, ?cause, "disconnected");
        // Closed by the other end, which never answered as a member does.
        let refused = self.kind == PlaneKind::Control && !link.up && cause.is_some();
        if refused {
            self.dialer.refused(&peer, Instant::now());
        } else {
            self.dialer.lost(&peer, Instant::now());
        }
        if link.up {
            let node = node_id(&peer);
            self.outbox.push(Event::PeerDown { node });
        }
    }

    /// A member identified itself, so it takes this node for a member: only then is it up.
    pub(super) fn on_identify(&mut self, event: &identify::Event) {
        let identify::Event::Received {
            peer_id: peer,
            connection_id,
            info,
        } = event
        else {
            return;
        };
        self.close_of_the_dead(*peer, *connection_id, &info.agent_version);
        if self.links.came_up(peer) {
            self.dialer.came_up(peer);
            let node = node_id(peer);
            self.outbox.push(Event::PeerUp { node });
            self.send_report(*peer);
        }
    }

    /// Closes what the member's process before this one left open: nothing else tells of its end on QUIC, and calls
    /// would be sent there until its pings are missed. Seldom for the same member: of two copies under one key each would
    /// cut off the other for ever.
    fn close_of_the_dead(&mut self, peer: PeerId, id: ConnectionId, life: &str) {
        let Some((of_the_dead, made)) = self.links.lives(&peer, id, life) else {
            return;
        };
        let again = &mut self.state.started_again;
        again.retain(|_, at| at.elapsed() < SILENCE);
        if of_the_dead.is_empty() || again.contains_key(&peer) {
            return;
        }
        again.insert(peer, Instant::now());
        tracing::info!(peer_id = %peer, "started again, closing the connections of its last process");
        for id in of_the_dead {
            self.swarm.close_connection(id);
        }
        self.close_bulk(Command::DisconnectOlder { peer, than: made });
    }

    fn close_bulk(&self, command: Command) {
        if let Some(bulk) = &self.bulk
            && let Err(error) = bulk.try_send(command)
        {
            tracing::debug!(%error, "bulk connections left to their own timeouts");
        }
    }

    pub(super) fn on_ping(&mut self, event: &ping::Event) {
        match &event.result {
            Ok(round_trip) => self
                .links
                .answered(&event.peer, event.connection, *round_trip),
            Err(error) => tracing::debug!(peer_id = %event.peer, %error, "ping failed"),
        }
    }

    /// Closes connections that fell silent: TCP would wait for minutes, and calls with it.
    pub(super) fn close_silent(&mut self) {
        for (peer, id) in self.links.silent_for(SILENCE) {
            tracing::info!(peer_id = %peer, "no ping answered, closing the connection");
            self.swarm.close_connection(id);
            self.close_bulk(Command::Disconnect(peer));
        }
    }

    pub(super) fn disconnect(&mut self, peer: PeerId) {
        if self.swarm.disconnect_peer_id(peer).is_err() {
            tracing::trace!(peer_id = %peer, "not connected");
        }
    }

    pub(super) fn disconnect_older(&mut self, peer: PeerId, than: std::time::Instant) {
        for id in self.links.made_before(&peer, than) {
            self.swarm.close_connection(id);
        }
    }
}

fn is_tcp(address: &Multiaddr) -> bool {
    let is_tcp = |part| matches!(part, libp2p::multiaddr::Protocol::Tcp(_));
    address.iter().any(is_tcp)
}

/// A dial error in a person's words, one part per address.
fn describe(error: &SwarmDialError) -> String {
    match error {
        SwarmDialError::NoAddresses => "no address of it is known".to_owned(),
        SwarmDialError::LocalPeerId { address } => format!("{address} is this node itself"),
        SwarmDialError::WrongPeerId { obtained, address } => {
            format!("{address} is another node, {obtained}")
        }
        SwarmDialError::Transport(errors) => {
            let errors = errors.iter().map(|(address, error)| {
                let mut text = format!("{address}: {}", innermost(error));
                text.truncate(300);
                text
            });
            errors.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
