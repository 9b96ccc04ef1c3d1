//! What mDNS saw on the local network.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libp2p::{Multiaddr, PeerId, mdns};
use tokio::time::Instant;

use super::Plane;
use crate::event::{Discovered, Event};
use crate::identity::node_id;

/// Nodes remembered: anyone on the LAN can claim to be many.
const MAX_SIGHTINGS: usize = 256;
/// Addresses remembered of one.
const MAX_ADDRESSES: usize = 16;

/// The nodes seen and not yet expired.
#[derive(Debug, Default)]
pub(crate) struct Sightings {
    seen: Mutex<BTreeMap<PeerId, Vec<Multiaddr>>>,
}

impl Sightings {
    pub(crate) fn list(&self) -> Vec<Discovered> {
        let seen = self.lock();
        let discovered = seen.iter().map(|(peer, addresses)| Discovered {
            node: node_id(peer),
            addresses: addresses.iter().map(ToString::to_string).collect(),
        });
        discovered.collect()
    }

    /// Adds an address; all of that node, if it is new.
    fn add(&self, peer: PeerId, address: Multiaddr) -> Option<Vec<String>> {
        let mut seen = self.lock();
        if seen.len() >= MAX_SIGHTINGS && !seen.contains_key(&peer) {
            return None;
        }
        let addresses = seen.entry(peer).or_default();
        if addresses.len() >= MAX_ADDRESSES || addresses.contains(&address) {
            return None;
        }
        addresses.push(address);
        Some(addresses.iter().map(ToString::to_string).collect())
    }

    fn remove(&self, peer: &PeerId, address: &Multiaddr) {
        let mut seen = self.lock();
        if let Some(addresses) = seen.get_mut(peer) {
            addresses.retain(|other| other != address);
            if addresses.is_empty() {
                seen.remove(peer);
            }
        }
    }

    // Each change leaves the map whole, so a panic elsewhere does no harm.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Vec<Multiaddr>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plane {
    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        match event {
            mdns::Event::Discovered(found) => {
                for (peer, address) in found {
                    if let Some(addresses) = self.sightings.add(peer, address) {
                        let node = node_id(&peer);
                        self.outbox.push(Event::Discovered { node, addresses });
                        self.dialer.seen(&peer, Instant::now());
                    }
                }
            }
            mdns::Event::Expired(gone) => {
                for (peer, address) in gone {
                    self.sightings.remove(&peer, &address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sightings_are_bounded_and_expire() {
        let sightings = Sightings::default();
        let address: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        let peers: Vec<_> = (0..MAX_SIGHTINGS + 5).map(|_| PeerId::random()).collect();
        let new = |peer: &&PeerId| sightings.add(**peer, address.clone()).is_some();
        assert_eq!(peers.iter().filter(new).count(), MAX_SIGHTINGS);
        assert!(sightings.add(peers[0], address.clone()).is_none());
        sightings.remove(&peers[0], &address);
        assert_eq!(sightings.list().len(), MAX_SIGHTINGS - 1);
    }
}
