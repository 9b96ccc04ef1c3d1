//! Invariant 9: 1, 3 or 5 voters, one change at a time, at most two learners stand by. A membership with two voter sets
//! (joint consensus, Raft (Ongaro, 2014) §4.3) is left before the next change begins.

use crate::seen::{Members, Seen};

/// Learners in one membership: two that stand by, and those that a change of voters just released or is about to add.
const MAX_LEARNERS: usize = 7;

#[derive(Default)]
pub(crate) struct VotersByRule {
    /// Of the highest index.
    newest: Option<(u64, Members)>,
}

impl VotersByRule {
    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Applied(entry) = seen else {
            return Ok(());
        };
        let Some(members) = &entry.members else {
            return Ok(());
        };
        let at = entry.index;
        if self.newest.as_ref().is_some_and(|(known, _)| *known >= at) {
            return Ok(());
        }
        for set in &members.voters {
            if ![1, 3, 5].contains(&set.len()) {
                return Err(format!(
                    "invariant 9: {} voters at {at}: {set:?}",
                    set.len()
                ));
            }
        }
        if members.voters.len() > 2 || members.learners.len() > MAX_LEARNERS {
            return Err(format!("invariant 9: {members:?} at {at}"));
        }
        if let Some((_, before)) = &self.newest
            && before.voters.len() == 2
            && (members.voters.len() != 1 || members.voters[0] != before.voters[1])
        {
            return Err(format!(
                "invariant 9: {members:?} at {at} follows the open change {before:?}"
            ));
        }
        self.newest = Some((at, members.clone()));
        Ok(())
    }
}
