//! Which members are connected on a plane right now.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::bulk_socket::host_of;
use crate::kept::LINK_IDLE;

/// Part of the idle time, in percent, after which the other end, whose clock runs apart, may be about to close.
const REST_PERCENT: u64 = 75;

/// Written by the swarm task, read by handles.
#[derive(Debug)]
pub(crate) struct Links {
    links: Mutex<HashMap<PeerId, Link>>,
    /// Milliseconds without use after which the other end may just be closing a link.
    rest_ms: AtomicU64,
}

impl Default for Links {
    fn default() -> Self {
        let links = Self {
            links: Mutex::default(),
            rest_ms: AtomicU64::default(),
        };
        links.close_after(LINK_IDLE);
        links
    }
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
    /// The last call or request either way, or when it was made.
    used: Option<Instant>,
    /// It was used after a rest, and nothing has come from the other end since.
    awoken: bool,
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

impl Link {
    fn unused(&self) -> Duration {
        self.used.map_or(Duration::ZERO, |used| used.elapsed())
    }
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
        link.used = Some(made);
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

    /// How long links that are not kept may go unused, here and at the other end.
    pub(crate) fn close_after(&self, idle: Duration) {
        let rest = idle.as_millis() * u128::from(REST_PERCENT) / 100;
        let rest = u64::try_from(rest).unwrap_or(u64::MAX);
        self.rest_ms.store(rest, Ordering::Relaxed);
    }

    /// This end uses the link.
    pub(crate) fn sent(&self, peer: &PeerId) {
        let rest = Duration::from_millis(self.rest_ms.load(Ordering::Relaxed));
        if let Some(link) = self.lock().get_mut(peer) {
            link.awoken |= link.unused() >= rest;
            link.used = Some(Instant::now());
        }
    }

    /// The other end uses the link, or answers.
    pub(crate) fn received(&self, peer: &PeerId) {
        if let Some(link) = self.lock().get_mut(peer) {
            link.awoken = false;
            link.used = Some(Instant::now());
        }
    }

    /// Whether the other end may just be closing the link because it was not used: then what was sent on it and not
    /// answered was not read.
    pub(crate) fn is_resting(&self, peer: &PeerId) -> bool {
        let rest = Duration::from_millis(self.rest_ms.load(Ordering::Relaxed));
        let links = self.lock();
        links
            .get(peer)
            .is_some_and(|link| link.awoken || link.unused() >= rest)
    }

    /// Links that nobody used for so long.
    pub(crate) fn unused_for(&self, idle: Duration) -> Vec<PeerId> {
        let links = self.lock();
        let unused = links.iter().filter(|(_, link)| link.unused() >= idle);
        unused.map(|(peer, _)| *peer).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_rests_until_something_comes_over_it_again() {
        let (links, peer) = (Links::default(), PeerId::random());
        let address: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        assert!(!links.is_resting(&peer), "there is none");
        links.connected(peer, ConnectionId::new_unchecked(1), address);
        assert!(!links.is_resting(&peer), "it was made just now");
        assert!(links.unused_for(LINK_IDLE).is_empty());

        links.close_after(Duration::ZERO);
        assert!(links.is_resting(&peer));
        assert_eq!(links.unused_for(Duration::ZERO), [peer]);
        links.sent(&peer);
        links.close_after(LINK_IDLE);
        assert!(links.is_resting(&peer), "nothing proves that it was read");
        links.sent(&peer);
        assert!(links.is_resting(&peer), "nor does a second call");
        links.received(&peer);
        assert!(!links.is_resting(&peer));
        links.sent(&peer);
        assert!(!links.is_resting(&peer), "it is in use");
    }
}
