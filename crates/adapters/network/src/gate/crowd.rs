//! Who crowds before the gate: handshakes under way and strangers, counted by where they come from.
//!
//! One machine that opens thousands of connections must not keep others out. So what is not a member's address gets a
//! part of the places only, and each source a part of that part.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;

/// Handshakes under way from addresses where no member is known: half of what the swarm takes.
const MAX_PENDING_UNKNOWN: usize = 64;
/// Of one of these sources.
const MAX_PENDING_PER_SOURCE: usize = 16;
/// Connections of strangers at once on control: a rack that joins together.
const MAX_STRANGERS: usize = 64;
/// Of one source: a rack behind one address, in turns.
const MAX_STRANGERS_PER_SOURCE: usize = 16;

/// Where a connection comes from: an address, or for IPv6 the network of 64 bits that one machine can have for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self(ip.into()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
        }
    }

    /// The source in an address; none where it has no IP, as in memory.
    pub(crate) fn of_address(address: &Multiaddr) -> Option<Self> {
        match address.iter().next()? {
            Protocol::Ip4(ip) => Some(Self::of(ip.into())),
            Protocol::Ip6(ip) => Some(Self::of(ip.into())),
            _ => None,
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The counts.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    pending: HashMap<ConnectionId, Source>,
    strangers: HashMap<ConnectionId, Option<Source>>,
}

impl Crowd {
    /// Whether a handshake from an address where no member is known may begin.
    pub(super) fn begin(&mut self, id: ConnectionId, source: Source) -> bool {
        let same = self.pending.values().filter(|other| **other == source);
        let full = self.pending.len() >= MAX_PENDING_UNKNOWN;
        if full || same.count() >= MAX_PENDING_PER_SOURCE {
            return false;
        }
        self.pending.insert(id, source);
        true
    }

    /// The handshake is over, however it went.
    pub(super) fn end(&mut self, id: ConnectionId) {
        self.pending.remove(&id);
    }

    /// Whether a stranger that dialled us may stay for now.
    pub(super) fn enter(&mut self, id: ConnectionId, source: Option<Source>) -> bool {
        let same = self.strangers.values().filter(|other| **other == source);
        let full = self.strangers.len() >= MAX_STRANGERS;
        if full || same.count() >= MAX_STRANGERS_PER_SOURCE {
            return false;
        }
        self.strangers.insert(id, source);
        true
    }

    /// A connection is gone.
    pub(super) fn leave(&mut self, id: ConnectionId) {
        self.strangers.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn one_source_gets_a_part_and_all_unknown_ones_half() {
        let mut crowd = Crowd::default();
        let flood = (0..10_000).filter(|number| crowd.begin(id(*number), source("192.0.2.1")));
        assert_eq!(flood.count(), MAX_PENDING_PER_SOURCE);
        assert!(crowd.begin(id(20_000), source("192.0.2.2")), "another one");
        let many = (0_u8..=255).map(|last| source(&format!("198.51.100.{last}")));
        let many = (30_000..)
            .zip(many)
            .filter(|(number, source)| crowd.begin(id(*number), *source));
        let total = many.count() + MAX_PENDING_PER_SOURCE + 1;
        assert_eq!(total, MAX_PENDING_UNKNOWN);
        crowd.end(id(20_000));
        assert!(crowd.begin(id(40_000), source("203.0.113.1")));
    }

    #[test]
    fn strangers_are_bounded_by_source_and_in_all() {
        let mut crowd = Crowd::default();
        let one = Some(source("192.0.2.1"));
        let stayed = (0..100)
            .filter(|number| crowd.enter(id(*number), one))
            .count();
        assert_eq!(stayed, MAX_STRANGERS_PER_SOURCE);
        crowd.leave(id(0));
        assert!(crowd.enter(id(1_000), one));
        let others = (2_000..3_000_usize).filter(|number| {
            let source = source(&format!("10.0.{}.{}", number / 256, number % 256));
            crowd.enter(id(*number), Some(source))
        });
        assert_eq!(others.count() + MAX_STRANGERS_PER_SOURCE, MAX_STRANGERS);
    }

    #[test]
    fn a_network_of_one_machine_is_one_source() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        let address: Multiaddr = "/ip4/192.0.2.1/udp/9/quic-v1".parse().unwrap();
        assert_eq!(Source::of_address(&address), Some(source("192.0.2.1")));
    }
}
