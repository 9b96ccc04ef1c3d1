//! Who may try a token: after some bad ones a source is locked out for a while, and so are all sources together.
//!
//! Secrets have 128 bits and more, so nobody guesses one; the lock-out keeps trials from costing the cluster anything, and
//! makes them known. Whoever holds a good token is not to suffer from a neighbour behind the same address: the door lets
//! through what has worked there before, see [`LockOut::has_worked`].

use std::collections::BTreeMap;

/// Bad tokens of one source until it is locked out: a person who mistypes tries less often.
pub(crate) const TRIES_PER_SOURCE: u32 = 10;
/// Bad tokens of all sources until all are locked out.
pub(crate) const TRIES_IN_ALL: u32 = 100;
/// Tries are counted over this time.
const WINDOW_MS: u64 = 60_000;
/// The first lock-out; each further one is twice as long.
pub(crate) const FIRST_LOCK_OUT_MS: u64 = 60_000;
/// The longest.
const LONGEST_LOCK_OUT_MS: u64 = 15 * 60_000;
/// Sources remembered; beyond, the one that was quiet longest is forgotten.
const MAX_SOURCES: usize = 1_024;
/// Good tokens remembered at a door.
const MAX_GOOD: usize = 1_024;

/// What is known of one source.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    tries: u32,
    window_began: u64,
    last_try: u64,
    locked_until: u64,
    lock_outs: u32,
}

impl Record {
    /// Counts a bad token; the length of the lock-out that it began.
    fn count(&mut self, limit: u32, now: u64) -> Option<u64> {
        if now.saturating_sub(self.window_began) >= WINDOW_MS {
            self.window_began = now;
            self.tries = 0;
        }
        self.last_try = now;
        self.tries += 1;
        if self.tries < limit || now < self.locked_until {
            return None;
        }
        let length = FIRST_LOCK_OUT_MS << self.lock_outs.min(8);
        let length = length.min(LONGEST_LOCK_OUT_MS);
        self.lock_outs += 1;
        self.tries = 0;
        self.locked_until = now + length;
        Some(length)
    }
}

/// A lock-out that began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Began {
    /// The source, or `all sources`.
    pub(crate) source: String,
    /// Bad tokens that led to it.
    pub(crate) tries: u32,
    /// How long it lasts.
    pub(crate) length_ms: u64,
}

/// The tries of one entrance. Times are milliseconds since boot.
#[derive(Debug, Default)]
pub(crate) struct LockOut {
    all: Record,
    sources: BTreeMap<String, Record>,
    /// Hashes of what was good here, by when it last was.
    good: BTreeMap<[u8; 32], u64>,
}

impl LockOut {
    /// How long `source` has still to wait before a token of it is looked at.
    pub(crate) fn wait_ms(&self, source: &str, now: u64) -> Option<u64> {
        let own = self
            .sources
            .get(source)
            .map_or(0, |record| record.locked_until);
        let until = own.max(self.all.locked_until);
        (now < until).then(|| until - now)
    }

    /// Takes note of a bad token.
    pub(crate) fn bad(&mut self, source: &str, now: u64) -> Vec<Began> {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(source) {
            let quiet = self
                .sources
                .iter()
                .min_by_key(|(_, record)| record.last_try);
            if let Some(quiet) = quiet.map(|(name, _)| name.clone()) {
                self.sources.remove(&quiet);
            }
        }
        let record = self.sources.entry(source.to_owned()).or_default();
        let own = record.count(TRIES_PER_SOURCE, now);
        let all = self.all.count(TRIES_IN_ALL, now);
        let began = |source: &str, tries, length: Option<u64>| {
            length.map(|length_ms| Began {
                source: source.to_owned(),
                tries,
                length_ms,
            })
        };
        let own = began(source, TRIES_PER_SOURCE, own);
        let all = began("all sources", TRIES_IN_ALL, all);
        own.into_iter().chain(all).collect()
    }

    /// Takes note of what was good: the source has somebody who belongs here.
    pub(crate) fn good(&mut self, key: [u8; 32], now: u64) {
        if self.good.len() >= MAX_GOOD && !self.good.contains_key(&key) {
            let oldest = self.good.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.good.remove(&oldest);
            }
        }
        self.good.insert(key, now);
    }

    /// Whether this very thing was good here before; it is still looked at whether it is good now.
    pub(crate) fn has_worked(&self, key: &[u8; 32]) -> bool {
        self.good.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(lock_out: &mut LockOut, source: &str, count: u32, now: u64) -> Vec<Began> {
        (0..count).flat_map(|_| lock_out.bad(source, now)).collect()
    }

    #[test]
    fn a_source_is_locked_out_after_its_tries_and_longer_each_time() {
        let mut lock_out = LockOut::default();
        assert!(tries(&mut lock_out, "a", TRIES_PER_SOURCE - 1, 0).is_empty());
        assert_eq!(lock_out.wait_ms("a", 0), None);
        let began = lock_out.bad("a", 0);
        assert_eq!(began.len(), 1);
        assert_eq!(began[0].length_ms, FIRST_LOCK_OUT_MS);
        assert_eq!(lock_out.wait_ms("a", 0), Some(FIRST_LOCK_OUT_MS));
        assert_eq!(lock_out.wait_ms("b", 0), None, "others are not");
        let later = FIRST_LOCK_OUT_MS;
        assert_eq!(lock_out.wait_ms("a", later), None);
        let began = tries(&mut lock_out, "a", TRIES_PER_SOURCE, later);
        assert_eq!(began[0].length_ms, 2 * FIRST_LOCK_OUT_MS);
        let mut now = later;
        for _ in 0..20 {
            now += LONGEST_LOCK_OUT_MS;
            let began = tries(&mut lock_out, "a", TRIES_PER_SOURCE, now);
            assert!(began[0].length_ms <= LONGEST_LOCK_OUT_MS);
        }
    }

    #[test]
    fn slow_tries_are_no_attack() {
        let mut lock_out = LockOut::default();
        for minute in 0..100 {
            assert!(tries(&mut lock_out, "a", 5, minute * WINDOW_MS).is_empty());
        }
    }

    #[test]
    fn many_sources_are_bounded_together_and_in_memory() {
        let mut lock_out = LockOut::default();
        let mut began = Vec::new();
        for source in 0..5_000 {
            began.extend(lock_out.bad(&source.to_string(), 0));
        }
        assert_eq!(began.len(), 1, "one word, however many knock");
        assert_eq!(began[0].source, "all sources");
        assert!(lock_out.wait_ms("never seen", 1).is_some());
        assert!(lock_out.sources.len() <= MAX_SOURCES);
    }

    #[test]
    fn what_has_worked_is_remembered_within_bounds() {
        let mut lock_out = LockOut::default();
        let key = |number: u64| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            key
        };
        for number in 0..2_000 {
            lock_out.good(key(number), number);
        }
        assert!(lock_out.has_worked(&key(1_999)) && !lock_out.has_worked(&key(0)));
        assert!(lock_out.good.len() <= MAX_GOOD);
    }
}
