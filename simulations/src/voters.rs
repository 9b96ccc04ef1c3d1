//! Who votes, by the same rule as on real nodes. A change of several voters is made one by one.

use std::collections::BTreeSet;
use std::rc::Rc;

use membership::{Change, Progress, Replicas, candidates, choose_voters, next_change};
use types::{NodeId, Timestamp};

use crate::invariants::Fact;
use crate::log::Payload;
use crate::world::{Event, Plant, World};

/// Time between two looks at who votes.
const MEMBERSHIP_MS: u64 = 2_000;
/// Who lacks no more entries than this is caught up.
const NEARLY: usize = 5;
/// Most voters, also between two steps.
const MOST_VOTERS: usize = 5;

impl World {
    pub(crate) fn review_voters(&mut self, term: u64) {
        let Some(leader) = self.leader.as_ref().filter(|leader| leader.term == term) else {
            return;
        };
        let (ready, node) = (leader.ready, leader.node);
        self.after(MEMBERSHIP_MS, Event::Membership { term });
        let hasty = self.plant == Plant::TwoChangesAtOnce;
        if !ready || !(hasty || self.log.voters_are_settled(node)) {
            return;
        }
        match self.change_of_voters(node) {
            Some(Change::AddLearner(id)) => self.stand_by(&id, true),
            Some(Change::Release(id)) => self.stand_by(&id, false),
            Some(Change::HandOver(heir)) => self.hand_over(&heir),
            Some(Change::SetVoters(wanted)) => while self.step_toward(node, &wanted) && hasty {},
            None => {}
        }
        self.replicate();
    }

    fn change_of_voters(&self, node: usize) -> Option<Change> {
        let leader = self.leader.as_ref()?;
        let id = |number: &usize| self.hosts[*number].id.clone();
        let voters: BTreeSet<NodeId> = self.log.voters_of(node).iter().map(id).collect();
        let standby = leader.standby.iter().map(id);
        let now = Replicas {
            learners: standby.filter(|node| !voters.contains(node)).collect(),
            voters,
            leader: Some(id(&node)),
        };
        let clock = Timestamp(self.hosts[node].clock(self.now));
        let members = candidates(&self.state, &self.views[node], clock, leader.since);
        let plan = choose_voters(&members, &now);
        let length = self.log.replicas[node].entries.len();
        let caught_up = |other: &usize| self.log.shared(node, *other) + NEARLY >= length;
        let all = 0..self.hosts.len();
        let progress = Progress {
            is_joint: false,
            caught_up: all.filter(caught_up).map(|number| id(&number)).collect(),
        };
        next_change(&members, &plan, &now, &progress)
    }

    fn stand_by(&mut self, id: &NodeId, stands: bool) {
        let number = self.hosts.iter().position(|host| host.id == *id);
        if let (Some(number), Some(leader)) = (number, &mut self.leader) {
            if stands {
                leader.standby.insert(number);
            } else {
                leader.standby.remove(&number);
            }
        }
    }

    /// The leader steps down for another; whoever has the newest log is elected.
    fn hand_over(&mut self, heir: &NodeId) {
        let number = self.hosts.iter().position(|host| host.id == *heir);
        self.heir = number;
        self.depose();
    }

    /// Adds or drops one voter; never so that they are six. False: nothing is left to do.
    fn step_toward(&mut self, node: usize, wanted: &BTreeSet<NodeId>) -> bool {
        let current = self.log.voters_of(node);
        let wants = |number: &usize| wanted.contains(&self.hosts[*number].id);
        let mut voters = current.as_ref().clone();
        let new = (0..self.hosts.len()).find(|one| wants(one) && !current.contains(one));
        let old = current.iter().copied().find(|one| !wants(one));
        match (new, old) {
            (_, Some(old)) if current.len() == MOST_VOTERS => voters.retain(|one| *one != old),
            (Some(new), _) => voters.push(new),
            (None, Some(old)) => voters.retain(|one| *one != old),
            (None, None) => return false,
        }
        self.note(&Fact::Voters {
            before: &current,
            after: &voters,
            settled: self.log.voters_are_settled(node),
        });
        let Some(leader) = &mut self.leader else {
            return false;
        };
        leader.standby.extend(current.iter().copied());
        let term = leader.term;
        let voters = Rc::new(voters);
        self.log.append(node, term, Payload::Voters, voters);
        true
    }
}
