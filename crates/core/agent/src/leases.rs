//! The leader's side of leases: how long each attempt may still be running.
//!
//! A node counts from when it sent its request, the leader from its answer, plus 1 % for the difference of the clocks'
//! speeds, plus a margin; so on any pair of clocks within 1 % the node's process tree is gone before the leader
//! gives the attempt up (invariant 11; Gray and Cheriton, "Leases", SOSP 1989, section 2).

use std::collections::{BTreeMap, BTreeSet};

use state_machine::ClusterState;
use types::{AttemptToken, DurationMs, Policy, Timestamp};

/// Lease of young work: how long a lost node delays it.
pub const SHORT_LEASE: DurationMs = DurationMs::from_secs(5);
/// Lease of long work, so that a rebooting switch does not end it.
pub const LONG_LEASE: DurationMs = DurationMs::from_secs(300);
/// Work that is worth the long lease.
pub const LONG_WORK: DurationMs = DurationMs::from_secs(600);
/// Shortest lease that a submitter gets: below, one lost packet and an election end the attempt.
pub const MIN_LEASE: DurationMs = DurationMs::from_secs(2);
/// Added by the leader to each lease: the time between its reading of the clock and its answer, generously.
pub const LEADER_MARGIN: DurationMs = DurationMs(100);

/// Length of the lease by the submitter's word, or else by how long the attempt has run: the leader commits an
/// `ExtendLease` when this is more than the attempt's.
#[must_use]
pub fn lease_length(
    policy: &Policy,
    running_since: Option<Timestamp>,
    now: Timestamp,
) -> DurationMs {
    if policy.lease_ms.0 > 0 {
        policy.lease_ms.max(MIN_LEASE)
    } else if running_since.is_some_and(|since| now.since(since) >= LONG_WORK) {
        LONG_LEASE
    } else {
        SHORT_LEASE
    }
}

/// Longest lease that a leader may have granted for anything that is not over, also one of which this state does not
/// know: an attempt that was placed, started and ran long after it.
#[must_use]
pub fn longest_lease(state: &ClusterState) -> DurationMs {
    let live = state.experiments().filter(|one| one.is_live());
    let longest = live.map(|experiment| {
        let asked = experiment.spec.policy.lease_ms;
        let by_rule = if asked.0 > 0 {
            asked.max(MIN_LEASE)
        } else {
            LONG_LEASE
        };
        let current = experiment.current_attempt();
        current.map_or(by_rule, |attempt| by_rule.max(attempt.lease_ms))
    });
    longest.max().unwrap_or(DurationMs(0))
}

/// A rank of an attempt, by its number: each is on a node of its own, which renews its lease.
pub type Leased = (AttemptToken, u32);

/// For each rank of each active attempt, the time until which its node may be running it. Lives on the leader only, on
/// the leader's own clock since boot in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct LeaseTable {
    ends: BTreeMap<Leased, u64>,
    by_end: BTreeSet<(u64, Leased)>,
    /// Length that each is held for: a longer one in the state may have been granted by a leader before.
    lengths: BTreeMap<Leased, DurationMs>,
}

impl LeaseTable {
    /// A table that holds nothing; a new leader calls [`LeaseTable::hold_all`] before it does anything else.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything and holds the lease of each active attempt for its full length from `now_ms`: at election,
    /// since nobody knows what the leader before has granted.
    pub fn hold_all(&mut self, state: &ClusterState, now_ms: u64) {
        *self = Self::default();
        self.refresh(state, now_ms);
    }

    /// Follows the state: holds what was placed since, or has got a longer lease, for its full length from now, and
    /// drops what is over. Call after each change of attempts. A new leader may see a longer lease only now, though one
    /// before it has granted it already.
    pub fn refresh(&mut self, state: &ClusterState, now_ms: u64) {
        let active: BTreeMap<_, _> = state
            .active()
            .flat_map(|(_, attempt)| {
                let open = attempt.open_ranks();
                open.map(|(rank, _)| ((attempt.token, rank), attempt.lease_ms))
            })
            .collect();
        self.ends.retain(|leased, end| {
            let keep = active.contains_key(leased);
            if !keep {
                self.by_end.remove(&(*end, *leased));
            }
            keep
        });
        self.lengths.retain(|leased, _| active.contains_key(leased));
        for (leased, length) in active {
            if self
                .lengths
                .get(&leased)
                .is_none_or(|known| *known < length)
            {
                self.lengths.insert(leased, length);
                let held = self.ends.get(&leased).copied().unwrap_or(0);
                self.set(leased, held.max(end_of(length, now_ms)));
            }
        }
    }

    /// Grants the lease from `now_ms`, the time of the answer. False: the attempt is not current, or its lease has run
    /// out and it is being given up; the caller answers with a refusal.
    ///
    /// Only after a read that was confirmed by a majority and begun after the request came.
    pub fn grant(&mut self, leased: Leased, length: DurationMs, now_ms: u64) -> bool {
        match self.ends.get(&leased) {
            Some(end) if *end > now_ms => {
                let end = (*end).max(end_of(length, now_ms));
                self.set(leased, end);
                true
            }
            Some(_) | None => false,
        }
    }

    /// What has a lease that is over: to be given up by `LoseAttempt`. Named again at each call until
    /// [`LeaseTable::refresh`] sees them gone.
    #[must_use]
    pub fn expired(&self, now_ms: u64) -> Vec<Leased> {
        let over = self.by_end.iter().take_while(|(end, _)| *end <= now_ms);
        over.map(|(_, leased)| *leased).collect()
    }

    /// When the next lease ends.
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.by_end.first().map(|(end, _)| *end)
    }

    /// Ends a hold at once, on proof of the end (a new boot id of its node, the holder's word): it is named by
    /// [`LeaseTable::expired`] from now on and gets no grant.
    pub fn expire(&mut self, leased: Leased) {
        if self.ends.contains_key(&leased) {
            self.set(leased, 0);
        }
    }

    /// Until when it may be running.
    #[must_use]
    pub fn held_until(&self, leased: &Leased) -> Option<u64> {
        self.ends.get(leased).copied()
    }

    fn set(&mut self, leased: Leased, end: u64) {
        if let Some(old) = self.ends.insert(leased, end) {
            self.by_end.remove(&(old, leased));
        }
        self.by_end.insert((end, leased));
    }
}

/// One per cent more than the length and the margin, rounded up.
fn end_of(length: DurationMs, now_ms: u64) -> u64 {
    let drift = length.0.div_ceil(100);
    now_ms
        .saturating_add(length.0)
        .saturating_add(drift)
        .saturating_add(LEADER_MARGIN.0)
}
