//! A model of Raft's log: terms, replicas that lag and diverge, disks that acknowledge late, voters that change one at
//! a time. What Raft promises is modelled (Ongaro, "Consensus: Bridging Theory and Practice", 2014, sections 3.4–3.6,
//! 4.1–4.3), not run: the simulation over real openraft is a package of its own.

use std::collections::BTreeMap;
use std::rc::Rc;

use state_machine::LogEntry;

/// Name of an entry: no other has it, and what comes before it in a log is always the same.
pub(crate) type EntryId = u64;

/// What an entry holds.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// A new leader's first entry.
    Blank,
    Command(Box<LogEntry>),
    /// The voters changed.
    Voters,
}

/// An entry that somebody appended.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) term: u64,
    pub(crate) payload: Payload,
    /// Who votes from this entry on.
    pub(crate) voters: Rc<Vec<usize>>,
}

/// One node's log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replica {
    pub(crate) entries: Vec<EntryId>,
    /// How many of them are on its disk.
    pub(crate) durable: usize,
}

/// All logs.
#[derive(Debug, Default)]
pub(crate) struct LogModel {
    slots: BTreeMap<EntryId, Slot>,
    next: EntryId,
    pub(crate) replicas: Vec<Replica>,
    /// What some leader has committed, in order: never changes again.
    pub(crate) committed: Vec<EntryId>,
}

impl LogModel {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            replicas: vec![Replica::default(); hosts],
            ..Self::default()
        }
    }

    pub(crate) fn slot(&self, id: EntryId) -> &Slot {
        &self.slots[&id]
    }

    /// Appends to the leader's log, in memory only.
    pub(crate) fn append(
        &mut self,
        leader: usize,
        term: u64,
        payload: Payload,
        voters: Rc<Vec<usize>>,
    ) -> EntryId {
        self.next += 1;
        let id = self.next;
        let slot = Slot {
            term,
            payload,
            voters,
        };
        self.slots.insert(id, slot);
        self.replicas[leader].entries.push(id);
        id
    }

    /// Who votes, by the newest entry of the node's log.
    pub(crate) fn voters_of(&self, node: usize) -> Rc<Vec<usize>> {
        match self.replicas[node].entries.last() {
            Some(id) => Rc::clone(&self.slot(*id).voters),
            None => Rc::new(Vec::new()),
        }
    }

    /// No change of voters in the node's log waits to be committed. Only a leader's log surely holds all that is
    /// committed.
    pub(crate) fn voters_are_settled(&self, leader: usize) -> bool {
        let open = self.replicas[leader].entries.iter();
        let mut open = open.skip(self.committed.len());
        !open.any(|id| matches!(self.slot(*id).payload, Payload::Voters))
    }

    /// The follower takes the leader's log up to `length` over and has it on disk.
    pub(crate) fn follow(&mut self, leader: usize, follower: usize, length: usize) {
        let from: Vec<EntryId> = {
            let (leading, following) = (&self.replicas[leader], &self.replicas[follower]);
            let length = length.min(leading.entries.len());
            let mut same = length.min(following.entries.len());
            // Equal entries have equal pasts: the newest equal one is all that has to be found.
            while same > 0 && leading.entries[same - 1] != following.entries[same - 1] {
                same -= 1;
            }
            if same == length {
                Vec::new() // Has all of it already; what it has more may be of this leader too.
            } else {
                let new = leading.entries[same..length].to_vec();
                self.replicas[follower].entries.truncate(same);
                new
            }
        };
        let follower = &mut self.replicas[follower];
        follower.entries.extend(from);
        follower.durable = follower
            .durable
            .min(follower.entries.len())
            .max(length.min(follower.entries.len()));
    }

    /// A process dies: what was in memory only is gone.
    pub(crate) fn crash(&mut self, node: usize) {
        let replica = &mut self.replicas[node];
        let durable = replica.durable;
        replica.entries.truncate(durable);
    }

    /// A disk that lied: the last entries that it acknowledged are gone too.
    pub(crate) fn forget(&mut self, node: usize, entries: usize) {
        let replica = &mut self.replicas[node];
        replica.durable = replica.durable.saturating_sub(entries);
        self.crash(node);
    }

    /// Term and length of a log, for the vote: the greater is the more up to date.
    pub(crate) fn rank(&self, node: usize) -> (u64, usize) {
        let entries = &self.replicas[node].entries;
        let term = entries.last().map_or(0, |id| self.slot(*id).term);
        (term, entries.len())
    }

    /// How much of the leader's log a majority of its voters has on disk, as far as entries of its own term go.
    pub(crate) fn majority(&self, leader: usize, term: u64) -> usize {
        let voters = self.voters_of(leader);
        let log = &self.replicas[leader].entries;
        let mut lengths: Vec<_> = voters
            .iter()
            .map(|voter| self.shared(leader, *voter))
            .collect();
        lengths.sort_unstable_by(|one, other| other.cmp(one));
        let length = lengths.get(lengths.len() / 2).copied().unwrap_or(0);
        match length.checked_sub(1).map(|last| self.slot(log[last]).term) {
            Some(newest) if newest == term => length,
            Some(_) | None => 0,
        }
    }

    /// How much of the leader's log a node has on disk.
    pub(crate) fn shared(&self, leader: usize, node: usize) -> usize {
        let (leading, following) = (&self.replicas[leader], &self.replicas[node]);
        let mut same = following.durable.min(leading.entries.len());
        while same > 0 && leading.entries[same - 1] != following.entries[same - 1] {
            same -= 1;
        }
        same
    }

    /// How many of the committed entries a node's log begins with.
    pub(crate) fn committed_in(&self, node: usize) -> usize {
        let entries = &self.replicas[node].entries;
        let mut same = entries.len().min(self.committed.len());
        while same > 0 && entries[same - 1] != self.committed[same - 1] {
            same -= 1;
        }
        same
    }
}
