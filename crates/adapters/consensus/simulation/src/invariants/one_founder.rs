//! Invariant 7: one node makes the cluster, the first; nobody elects itself later. So the membership at index 0 is the
//! founder's alone on every node, and whoever leads was made a voter by a membership.

use std::collections::BTreeSet;

use crate::seen::Seen;

#[derive(Default)]
pub(crate) struct OneFounder {
    ever_voters: BTreeSet<u64>,
}

impl OneFounder {
    pub(crate) fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Appended {
                node,
                index,
                members: Some(members),
                ..
            } => {
                if *index == 0 && members.voters != [BTreeSet::from([0])] {
                    return Err(format!(
                        "invariant 7: n{node} founds a cluster of {:?}",
                        members.voters
                    ));
                }
                self.ever_voters.extend(members.voters.iter().flatten());
                Ok(())
            }
            Seen::Voted {
                candidate,
                leads: true,
                term,
                ..
            } if !self.ever_voters.contains(candidate) => Err(format!(
                "invariant 7: n{candidate} leads term {term} and was never made a voter"
            )),
            _ => Ok(()),
        }
    }
}
