//! Which members are connected on a plane right now.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::bulk_socket::host_of;

/// Written by the swarm task, read by handles.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Mutex<HashMap<PeerId, Link>>,
}

/// The connections to one member.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    /// Those that the gate admitted.
    pub(crate) connections: Vec<Connection>,
    /// It identified itself: it takes this node for a member too.
    pub(crate) up: bool,
    /// Of the last ping.
    pub(crate) round_trip: Option<Duration>,
    /// Of the fastest ping: the path's own time, without queues and busy processors.
    shortest: Option<Duration>,
}

/// One connection to a member.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) address: Multiaddr,
    made: Instant,
    /// When it was made, or its last ping was answered.
    heard: Instant,
    /// Of the process at the other end, once it said so.
    life: Option<String>,
}

impl Links {
    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.lock().contains_key(peer)
    }

    pub(crate) fn get(&self, peer: &PeerId) -> Option<Link> {
        self.lock().get(peer).cloned()
    }

    /// Members that are up.
    pub(crate) fn up_peers(&self) -> Vec<PeerId> {
        let links = self.lock();
        let up = links.iter().filter(|(_, link)| link.up);
        up.map(|(peer, _)| *peer).collect()
    }

    pub(crate) fn connected(&self, peer: PeerId, id: ConnectionId, address: Multiaddr) {
        let mut links = self.lock();
        let made = Instant::now();
        let link = links.entry(peer).or_default();
        link.connections.push(Connection {
            id,
            address,
            made,
            heard: made,
            life: None,
        });
    }

    /// Notes that the peer answered as a member; true the first time of this link.
    pub(crate) fn came_up(&self, peer: &PeerId) -> bool {
        let mut links = self.lock();
        links
            .get_mut(peer)
            .is_some_and(|link| !std::mem::replace(&mut link.up, true))
    }

    /// Notes which process is at the other end of a connection. Returns the earlier connections that another one
    /// made, which has ended then, though nothing closed them; and when this one was made.
    pub(crate) fn lives(
        &self,
        peer: &PeerId,
        id: ConnectionId,
        life: &str,
    ) -> Option<(Vec<ConnectionId>, Instant)> {
        let mut links = self.lock();
        let connections = &mut links.get_mut(peer)?.connections;
        // In the order in which they were made.
        let at = connections.iter().position(|one| one.id == id)?;
        connections[at].life = Some(life.to_owned());
        let of_another = |one: &&Connection| one.life.as_deref().is_some_and(|said| said != life);
        let earlier = connections[..at].iter().filter(of_another);
        Some((earlier.map(|one| one.id).collect(), connections[at].made))
    }

    /// Connections to a peer that were made before then.
    pub(crate) fn made_before(&self, peer: &PeerId, then: Instant) -> Vec<ConnectionId> {
        let links = self.lock();
        let connections = links.get(peer).map_or(&[][..], |link| &link.connections);
        let before = connections.iter().filter(|one| one.made < then);
        before.map(|one| one.id).collect()
    }

    /// A ping was answered.
    pub(crate) fn answered(&self, peer: &PeerId, id: ConnectionId, round_trip: Duration) {
        if let Some(link) = self.lock().get_mut(peer) {
            link.round_trip = Some(round_trip);
            let before = link.shortest.unwrap_or(round_trip);
            link.shortest = Some(before.min(round_trip));
            for connection in &mut link.connections {
                if connection.id == id {
                    connection.heard = Instant::now();
                }
            }
        }
    }

    /// The shortest round trip to a host that a member is connected from or at.
    pub(crate) fn shortest_round_trip(&self, host: IpAddr) -> Option<Duration> {
        let links = self.lock();
        let at_host = links.values().filter(|link| {
            let mut connections = link.connections.iter();
            connections.any(|connection| host_of(&connection.address) == Some(host))
        });
        at_host.filter_map(|link| link.shortest).min()
    }

    /// Connections on which no ping was answered for so long.
    pub(crate) fn silent_for(&self, silence: Duration) -> Vec<(PeerId, ConnectionId)> {
        let links = self.lock();
        let all = links.iter().flat_map(|(peer, link)| {
            let connections = link.connections.iter();
            connections.map(|connection| (*peer, connection))
        });
        all.filter(|(_, connection)| connection.heard.elapsed() >= silence)
            .map(|(peer, connection)| (peer, connection.id))
            .collect()
    }

    /// Forgets a connection; the link, if it was the last.
    pub(crate) fn disconnected(&self, peer: &PeerId, id: ConnectionId) -> Option<Link> {
        let mut links = self.lock();
        let link = links.get_mut(peer)?;
        link.connections.retain(|connection| connection.id != id);
        if link.connections.is_empty() {
            return links.remove(peer);
        }
        None
    }

    // Each change is one assignment, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
