//! What must hold after every command; tests and the simulator call it, a replica may.

use std::collections::BTreeSet;

use imbl::OrdMap;

use crate::ledger::verify_chain;
use crate::records::{Attempt, Booking, ExperimentPhase, RankRecord};
use crate::state::ClusterState;

/// Checks the state against itself.
///
/// # Errors
/// The first thing that does not hold, in words.
pub fn check_invariants(state: &ClusterState) -> Result<(), String> {
    let rebuilt: ClusterState = types::codec::decode(&types::codec::encode(state), usize::MAX)
        .map_err(|error| format!("the snapshot of the state does not decode: {error}"))?;
    same("bookings", &rebuilt.bookings, &state.bookings)?;
    same("waiting order", &rebuilt.waiting, &state.waiting)?;
    same("active set", &rebuilt.active, &state.active)?;
    same("names", &rebuilt.names, &state.names)?;
    same("holdings", &rebuilt.holdings, &state.holdings)?;
    for (id, kept) in &state.kept {
        let waits = state
            .experiments
            .get(id)
            .is_some_and(|one| matches!(one.phase, ExperimentPhase::Queued { .. }));
        if !waits {
            return Err(format!("{kept:?} is kept for {id}, which does not wait"));
        }
    }
    check_groups(state)?;
    for experiment in state.experiments() {
        let id = experiment.id;
        let open = experiment
            .attempts
            .iter()
            .filter(|attempt| attempt.end.is_none())
            .count();
        let expected = usize::from(matches!(experiment.phase, ExperimentPhase::Active));
        if open != expected {
            return Err(format!(
                "{id} is {:?} with {open} open attempts",
                experiment.phase
            ));
        }
        for (number, attempt) in experiment.attempts.iter().enumerate() {
            if attempt.token.attempt as usize != number + 1 || attempt.token.experiment != id {
                return Err(format!("{id}: attempt {number} carries {}", attempt.token));
            }
            ranks_agree(attempt)?;
        }
        if let ExperimentPhase::Ended { cause, .. } = &experiment.phase
            && cause.evidence.is_empty()
            && !cause.is_success()
        {
            return Err(format!("{id} ended without evidence: {cause}"));
        }
    }
    let first = state.ledger.front();
    if let Some(first) = first {
        let rest = state.ledger.iter().skip(1);
        let head = verify_chain(first.hash, rest)
            .map_err(|sequence| format!("ledger breaks at {sequence}"))?;
        if head != state.ledger_head {
            return Err("the ledger's head is not the hash of its last entry".to_owned());
        }
    }
    booked_within_capacity(&state.bookings)
}

/// Its ranks are on nodes of their own, and it is over when all of them are.
fn ranks_agree(attempt: &Attempt) -> Result<(), String> {
    let token = attempt.token;
    let nodes: BTreeSet<_> = attempt
        .ranks
        .iter()
        .map(|rank| &rank.placement.node)
        .collect();
    if nodes.len() != attempt.ranks.len() {
        return Err(format!("{token} has two ranks on one node"));
    }
    let open = attempt.open_ranks().count();
    if attempt.end.is_some() == (open > 0) {
        return Err(format!(
            "{token} has {open} open ranks and ended: {:?}",
            attempt.end
        ));
    }
    let told = |rank: &RankRecord| rank.end.is_none() || (rank.ended && attempt.is_gang());
    if !attempt.ranks.iter().all(told) {
        return Err(format!(
            "{token}: a rank has an end of its own that it should not have"
        ));
    }
    Ok(())
}

/// Whatever names a group is in it, and a group of which nothing is left is forgotten.
fn check_groups(state: &ClusterState) -> Result<(), String> {
    for experiment in state.experiments() {
        let Some(place) = experiment.group else {
            continue;
        };
        let group = state.groups.get(&place.group);
        let member = group.and_then(|group| group.members.get(place.number as usize - 1));
        if member != Some(&experiment.id) {
            return Err(format!("{} is not in its place {place:?}", experiment.id));
        }
    }
    for group in state.groups.values() {
        let mut members = group.members.iter();
        if !members.any(|id| state.experiments.contains_key(id)) {
            return Err(format!("nothing is left of {group:?}"));
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, rebuilt: &T, kept: &T) -> Result<(), String> {
    if rebuilt == kept {
        Ok(())
    } else {
        Err(format!("{what}: kept {kept:?}, rebuilt {rebuilt:?}"))
    }
}

fn booked_within_capacity(bookings: &OrdMap<types::NodeId, Booking>) -> Result<(), String> {
    for (node, booking) in bookings {
        if let Some((index, share)) = booking.gpus.iter().find(|(_, share)| share.0 > 1_000) {
            return Err(format!("gpu {index} of {node} is booked {}/1000", share.0));
        }
    }
    Ok(())
}
