//! What must hold after every step: one file each, with its source.

mod committed_immutable;
mod confirmed_absence;
mod deterministic_apply;
mod durable_majority;
mod election_safety;
mod linearizable_reads;
mod log_matching;
mod members_only;
mod monotone;
mod one_attempt_at_a_time;
mod one_end;
mod one_founder;
mod repeated_requests;
mod small_entries;
mod snapshot_before_purge;
mod stored_records;
mod suspect_is_not_dead;
mod voters_by_rule;

use state_machine::ClusterState;

use crate::seen::Seen;

/// All of them, and the state that they agree on.
#[derive(Default)]
pub(crate) struct Invariants {
    /// State at the highest index that anybody has applied.
    pub(crate) reference: ClusterState,
    durable_majority: durable_majority::DurableMajority,
    deterministic_apply: deterministic_apply::DeterministicApply,
    repeated_requests: repeated_requests::RepeatedRequests,
    one_founder: one_founder::OneFounder,
    voters_by_rule: voters_by_rule::VotersByRule,
    one_attempt_at_a_time: one_attempt_at_a_time::OneAttemptAtATime,
    one_end: one_end::OneEnd,
    confirmed_absence: confirmed_absence::ConfirmedAbsence,
    election_safety: election_safety::ElectionSafety,
    log_matching: log_matching::LogMatching,
    committed_immutable: committed_immutable::CommittedImmutable,
    monotone: monotone::Monotone,
}

impl Invariants {
    /// Takes an event in.
    ///
    /// # Errors
    /// What does not hold, with the number or name of the invariant.
    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        self.durable_majority.see(seen)?;
        self.deterministic_apply.see(seen)?;
        stored_records::see(seen)?;
        self.repeated_requests.see(seen)?;
        linearizable_reads::see(seen)?;
        small_entries::see(seen)?;
        snapshot_before_purge::see(seen)?;
        self.one_founder.see(seen)?;
        members_only::see(seen)?;
        self.voters_by_rule.see(seen)?;
        suspect_is_not_dead::see(seen, &self.one_attempt_at_a_time)?;
        self.one_attempt_at_a_time.see(seen)?;
        self.one_end.see(seen)?;
        self.confirmed_absence.see(seen, &self.reference)?;
        self.election_safety.see(seen)?;
        self.log_matching.see(seen)?;
        self.committed_immutable.see(seen)?;
        self.monotone.see(seen)?;
        let state = match seen {
            Seen::Applied(entry) => entry.state,
            Seen::Restored { state, .. } => *state,
            _ => return Ok(()),
        };
        if state.applied() > self.reference.applied() {
            self.reference = state.clone();
        }
        Ok(())
    }

    /// An acknowledged write must be in the state at the end (invariant 1), once (invariant 4).
    pub(crate) fn check_end(&self, state: &ClusterState) -> Result<(), String> {
        self.repeated_requests.check_end(state)
    }
}
