//! What mDNS saw on the local network.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libp2p::{Multiaddr, PeerId, mdns};
use tokio::time::Instant;

use super::Plane;
use crate::event::{Discovered, Event};
use crate::finder::Found;
use crate::identity::node_id;

/// Nodes remembered: anyone on the LAN can claim to be many.
const MAX_SIGHTINGS: usize = 256;
/// Members remembered beyond that.
const MAX_MEMBER_SIGHTINGS: usize = 1_024;
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

    /// Where mDNS saw a node.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.lock().get(peer).cloned().unwrap_or_default()
    }

    /// Adds an address; all of that node, if it is new. Anyone can say anything of anybody: of one node only the newest
    /// addresses are kept, and for members there is always a place.
    fn add(&self, peer: PeerId, address: Multiaddr, is_member: bool) -> Option<Vec<String>> {
        let mut seen = self.lock();
        let most = MAX_SIGHTINGS + if is_member { MAX_MEMBER_SIGHTINGS } else { 0 };
        if seen.len() >= most && !seen.contains_key(&peer) {
            return None;
        }
        let addresses = seen.entry(peer).or_default();
        if addresses.contains(&address) {
            return None;
        }
        if addresses.len() >= MAX_ADDRESSES {
            addresses.remove(0);
        }
        addresses.push(address);
        Some(addresses.iter().map(ToString::to_string).collect())
    }

    fn clear(&self) {
        self.lock().clear();
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
    pub(super) fn on_found(&mut self, found: Found) {
        match found {
            Found::Event(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    let is_member = self.admission.is_member(&peer);
                    if let Some(addresses) = self.sightings.add(peer, address, is_member) {
                        let node = node_id(&peer);
                        self.outbox.push(Event::Discovered { node, addresses });
                        self.dialer.seen(&peer, Instant::now());
                    }
                }
            }
            Found::Event(mdns::Event::Expired(gone)) => {
                for (peer, address) in gone {
                    self.sightings.remove(&peer, &address);
                }
            }
            Found::Forgotten => self.sightings.clear(),
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
        let new = |peer: &&PeerId| sightings.add(**peer, address.clone(), false).is_some();
        assert_eq!(peers.iter().filter(new).count(), MAX_SIGHTINGS);
        assert!(sightings.add(peers[0], address.clone(), false).is_none());
        let member = PeerId::random();
        assert!(sightings.add(member, address.clone(), true).is_some());
        sightings.remove(&peers[0], &address);
        assert_eq!(sightings.list().len(), MAX_SIGHTINGS);
        sightings.clear();
        assert!(sightings.list().is_empty());
    }

    #[test]
    fn lies_about_a_node_do_not_keep_its_own_word_out() {
        let sightings = Sightings::default();
        let peer = PeerId::random();
        let at =
            |port: usize| -> Multiaddr { format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap() };
        for port in 1..=100 {
            sightings.add(peer, at(port), true);
        }
        let known = sightings.addresses(&peer);
        assert_eq!(known.len(), MAX_ADDRESSES);
        assert!(known.contains(&at(100)) && !known.contains(&at(1)));
    }
}
