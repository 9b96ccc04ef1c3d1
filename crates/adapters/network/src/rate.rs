//! Token buckets: for bytes sent on the bulk plane, and for join requests.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Grants up to `rate` per second on average, and `burst` at once.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: u64,
    burst: u64,
    available: u64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: u64, burst: u64, now: Instant) -> Self {
        Self {
            rate: rate.max(1),
            burst: burst.max(1),
            available: burst.max(1),
            filled: now,
        }
    }

    /// Takes as many as there are, at most `want`; if there is none, how long until the next.
    pub(crate) fn take(&mut self, want: u64, now: Instant) -> Result<u64, Duration> {
        self.take_at_least(1, want, now)
    }

    /// The same, but no crumbs: if there are fewer than `least`, how long until there are.
    pub(crate) fn take_at_least(
        &mut self,
        least: u64,
        want: u64,
        now: Instant,
    ) -> Result<u64, Duration> {
        self.fill(now);
        let least = least.min(want).min(self.burst);
        if self.available < least {
            let nanos = u128::from(least - self.available) * 1_000_000_000 / u128::from(self.rate);
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
            return Err(Duration::from_nanos(nanos.saturating_add(1)));
        }
        let granted = want.min(self.available);
        self.available -= granted;
        Ok(granted)
    }

    /// Gives back what was taken and not used.
    pub(crate) fn give_back(&mut self, unused: u64) {
        self.available = (self.available + unused).min(self.burst);
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.available == self.burst
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled);
        let new = elapsed.as_nanos() * u128::from(self.rate) / 1_000_000_000;
        if new > 0 {
            let new = u64::try_from(new).unwrap_or(u64::MAX);
            self.available = self.available.saturating_add(new).min(self.burst);
            self.filled = now;
        }
    }
}

/// Join requests per second of one source (keys are free, addresses are not): a node tries four times a second.
const JOINS_PER_SOURCE: u64 = 5;
/// At once of one source: a rack behind one address.
const JOIN_BURST_PER_SOURCE: u64 = 30;
/// Of all peers: a rack that is switched on joins within seconds.
const JOINS: u64 = 20;
/// At once of all peers.
const JOIN_BURST: u64 = 100;
/// Sources remembered; beyond, new ones share the global bucket only after old ones filled up again.
const JOIN_SOURCES: usize = 1024;

/// Limits join requests per source and in all.
#[derive(Debug)]
pub(crate) struct JoinLimit<P> {
    all: Bucket,
    peers: HashMap<P, Bucket>,
}

impl<P: Eq + Hash> JoinLimit<P> {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            all: Bucket::new(JOINS, JOIN_BURST, now),
            peers: HashMap::new(),
        }
    }

    /// Whether a request of `peer` may pass now.
    pub(crate) fn admit(&mut self, peer: P, now: Instant) -> bool {
        if self.peers.len() >= JOIN_SOURCES {
            self.peers.retain(|_, bucket| !bucket.is_full(now));
        }
        if self.peers.len() >= JOIN_SOURCES && !self.peers.contains_key(&peer) {
            return false;
        }
        let bucket = self
            .peers
            .entry(peer)
            .or_insert_with(|| Bucket::new(JOINS_PER_SOURCE, JOIN_BURST_PER_SOURCE, now));
        bucket.take(1, now).is_ok() && self.all.take(1, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_grants_its_burst_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, 500, start);
        assert_eq!(bucket.take(800, start), Ok(500));
        let wait = bucket.take(1, start).unwrap_err();
        assert_eq!(bucket.take(1, start + wait), Ok(1));
        assert_eq!(bucket.take(800, start + Duration::from_millis(101)), Ok(99));
        bucket.give_back(10);
        assert_eq!(bucket.take(800, start + Duration::from_millis(101)), Ok(10));
        assert_eq!(bucket.take(9999, start + Duration::from_secs(60)), Ok(500));
    }

    #[test]
    fn a_bucket_gives_no_crumbs_and_says_how_long_until_enough() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, 500, start);
        assert_eq!(bucket.take_at_least(100, 450, start), Ok(450));
        let wait = bucket.take_at_least(100, 800, start).unwrap_err();
        assert!(
            wait >= Duration::from_millis(50) && wait < Duration::from_millis(51),
            "{wait:?}"
        );
        assert_eq!(bucket.take_at_least(100, 800, start + wait), Ok(100));
        // Who wants less, or a bucket that never holds so much, is served with that.
        let later = start + wait + Duration::from_millis(3);
        assert_eq!(bucket.take_at_least(100, 3, later), Ok(3));
        let full = start + Duration::from_secs(60);
        assert_eq!(bucket.take_at_least(9999, 9999, full), Ok(500));
    }

    #[test]
    fn one_peer_cannot_use_up_the_joins_of_others() {
        let start = Instant::now();
        let mut limit = JoinLimit::new(start);
        let passed = (0..1000).filter(|_| limit.admit(1, start)).count();
        assert_eq!(passed as u64, JOIN_BURST_PER_SOURCE);
        assert!(limit.admit(2, start));
        assert!(limit.admit(1, start + Duration::from_secs(1)));
    }

    #[test]
    fn many_peers_are_bounded_together_and_in_memory() {
        let start = Instant::now();
        let mut limit = JoinLimit::new(start);
        let passed = (0..5000).filter(|peer| limit.admit(*peer, start)).count();
        assert_eq!(passed as u64, JOIN_BURST);
        assert!(limit.peers.len() <= JOIN_SOURCES);
        assert!(limit.admit(9999, start + Duration::from_secs(10)));
    }
}
