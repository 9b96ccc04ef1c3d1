//! How many connections each machine has: one must not take all places.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections of one other machine at a time: an office behind one address, and a quarter of the door.
pub(crate) const MAX_CONNECTIONS_PER_SOURCE: usize = 64;

/// The counts. Loopback is not counted: there all users of the machine have one address, and the Unix socket is theirs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A place of a source; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    sources: Sources,
    source: IpAddr,
}

impl Sources {
    /// A place for a connection from `ip`: none where it has all of its own already, `Some(None)` where none is needed.
    pub(crate) fn enter(&self, ip: IpAddr) -> Option<Option<Place>> {
        let source = source_of(ip);
        if source.is_loopback() {
            return Some(None);
        }
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= MAX_CONNECTIONS_PER_SOURCE {
            return None;
        }
        *count += 1;
        Some(Some(Place {
            sources: self.clone(),
            source,
        }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self
            .sources
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// An address, or for IPv6 the network of 64 bits that one machine can have for itself.
pub(crate) fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_has_a_bounded_number_of_places_and_gets_them_back() {
        let sources = Sources::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut held: Vec<_> = (0..MAX_CONNECTIONS_PER_SOURCE)
            .map(|_| sources.enter(ip("192.0.2.1")).unwrap())
            .collect();
        assert!(sources.enter(ip("192.0.2.1")).is_none());
        assert!(sources.enter(ip("::ffff:192.0.2.1")).is_none());
        assert!(sources.enter(ip("192.0.2.2")).is_some());
        held.pop();
        assert!(sources.enter(ip("192.0.2.1")).is_some());
        drop(held);
        assert!(sources.0.lock().unwrap().is_empty());
        assert_eq!(source_of(ip("2001:db8::1")), source_of(ip("2001:db8::2")));
        assert!(sources.enter(ip("127.0.0.1")).unwrap().is_none());
    }
}
