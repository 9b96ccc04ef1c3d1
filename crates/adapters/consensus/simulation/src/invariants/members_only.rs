//! Invariant 8: only admitted nodes hold a vote or a replica. Voters and learners of each membership are members of the
//! state that it was applied to.

use std::collections::BTreeSet;

use crate::names::name;
use crate::seen::Seen;

pub(crate) fn see(seen: &Seen<'_>) -> Result<(), String> {
    let Seen::Applied(entry) = seen else {
        return Ok(());
    };
    let Some(members) = &entry.members else {
        return Ok(());
    };
    if entry.state.cluster().is_none() {
        return Ok(()); // The founder's own, before the first entry.
    }
    let all: BTreeSet<u64> = members
        .voters
        .iter()
        .flatten()
        .chain(&members.learners)
        .copied()
        .collect();
    let stranger = all
        .into_iter()
        .find(|node| entry.state.node(&name(*node)).is_none());
    stranger.map_or(Ok(()), |node| {
        Err(format!(
            "invariant 8: n{node} has a replica at {} and is no member",
            entry.index
        ))
    })
}
