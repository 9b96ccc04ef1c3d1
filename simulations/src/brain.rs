//! What a leader does besides consensus: it holds and grants leases, places what waits, lengthens leases of long work
//! and gives up what is over. Knows nothing of the log: a state in, proposals out.

use std::collections::{BTreeMap, BTreeSet};

use agent::leases::{LeaseTable, Leased, lease_length};
use membership::View;
use scheduler::{SchedulerConfig, place_next};
use state_machine::{ClusterState, Command, ExtendLease, LoseAttempt};
use types::{AttemptToken, Cause, CauseKind, NodeId, Timestamp};

use crate::host::LeaseAnswers;

/// Bugs on purpose.
#[derive(Clone, Copy, Debug, Default)]
pub struct BrainBugs {
    /// A new leader does not hold the leases that the one before granted.
    pub no_hold: bool,
}

/// What a proposal is about; hand it to [`Brain::settled`] when its fate is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A placement.
    Place,
    /// The end of a rank whose lease is over, or a longer lease.
    Rank(Leased),
}

/// The leader's soft state.
#[derive(Debug, Default)]
pub struct Brain {
    table: LeaseTable,
    /// Placements that are proposed and not applied.
    placing: usize,
    /// Ranks about which something is proposed and not applied.
    in_flight: BTreeSet<Leased>,
}

impl Brain {
    /// At election: holds every lease for its full length from `clock`, the leader's clock since boot.
    #[must_use]
    pub fn elected(state: &ClusterState, clock: u64, bugs: BrainBugs) -> Self {
        let mut brain = Self::default();
        brain.table.hold_all(state, clock);
        if bugs.no_hold {
            for (_, attempt) in state.active() {
                for (rank, _) in attempt.open_ranks() {
                    brain.table.expire((attempt.token, rank));
                }
            }
        }
        brain
    }

    /// Whatever state, leases and view call for now. `wall` is the leader's wall clock.
    pub fn drive(
        &mut self,
        state: &ClusterState,
        view: &View,
        (clock, wall): (u64, Timestamp),
    ) -> Vec<(Command, Purpose)> {
        self.table.refresh(state, clock);
        let mut proposals = Vec::new();
        for leased in self.table.expired(clock) {
            if self.in_flight.insert(leased) {
                proposals.push((lose(leased), Purpose::Rank(leased)));
            }
        }
        for extend in extensions(state, wall) {
            let leased = (extend.token, 0);
            if self.in_flight.insert(leased) {
                proposals.push((Command::ExtendLease(extend), Purpose::Rank(leased)));
            }
        }
        if self.placing == 0 {
            let config = SchedulerConfig::default();
            for placement in place_next(state, view, Timestamp(clock), &config) {
                self.placing += 1;
                proposals.push((Command::PlaceAttempt(placement), Purpose::Place));
            }
        }
        proposals
    }

    /// A proposal was applied, refused or lost.
    pub fn settled(&mut self, purpose: &Purpose) {
        match purpose {
            Purpose::Place => self.placing = self.placing.saturating_sub(1),
            Purpose::Rank(leased) => drop(self.in_flight.remove(leased)),
        }
    }

    /// Answers `node` after a read that a majority has confirmed.
    pub fn grant(
        &mut self,
        state: &ClusterState,
        node: &NodeId,
        tokens: &[AttemptToken],
        clock: u64,
    ) -> LeaseAnswers {
        self.table.refresh(state, clock);
        let wanted = state.wanted_set(node).attempts;
        let lengths: BTreeMap<_, _> = wanted
            .iter()
            .map(|wanted| (wanted.token, (wanted.rank, wanted.lease_ms)))
            .collect();
        let answer = |token: &AttemptToken| {
            let granted = lengths
                .get(token)
                .filter(|(rank, length)| self.table.grant((*token, *rank), *length, clock));
            let answer = granted
                .map(|(_, length)| *length)
                .ok_or_else(|| "not current".to_owned());
            (*token, answer)
        };
        tokens.iter().map(answer).collect()
    }

    /// When the next lease ends, on the leader's clock.
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.table.next_expiry()
    }
}

fn lose((token, rank): Leased) -> Command {
    Command::LoseAttempt(LoseAttempt {
        token,
        rank,
        cause: Cause::new(CauseKind::NodeLost, vec!["its lease ran out".to_owned()]),
        segments: Vec::new(),
    })
}

/// Leases that have become too short for the work that they guard.
fn extensions(state: &ClusterState, now: Timestamp) -> Vec<ExtendLease> {
    let mut found = Vec::new();
    for (experiment, attempt) in state.active() {
        let since = attempt.ranks.first().and_then(|rank| rank.started_at);
        let length = lease_length(&experiment.spec.policy, since, now);
        if length > attempt.lease_ms {
            let reason = "10 min of work".to_owned();
            found.push(ExtendLease {
                token: attempt.token,
                lease_ms: length,
                reason,
            });
        }
    }
    found
}
