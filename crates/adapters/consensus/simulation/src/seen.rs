//! What the invariants are told: one event for each thing that a node, a client or a machine did.

use std::collections::BTreeSet;

use openraft::EntryPayload;
use state_machine::{Applied, ClusterState, LogEntry, Outcome};
use types::{AttemptToken, RequestId};

use crate::raft_types::RaftEntry;
use crate::random::mix;

/// Voter sets (two while a change is under way) and learners of a membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members {
    pub(crate) voters: Vec<BTreeSet<u64>>,
    pub(crate) learners: BTreeSet<u64>,
}

impl Members {
    /// Of an entry, if it is a membership.
    pub(crate) fn of(entry: &RaftEntry) -> Option<Self> {
        match &entry.payload {
            EntryPayload::Membership(membership) => Some(Self {
                voters: membership.get_joint_config().clone(),
                learners: membership.learner_ids().collect(),
            }),
            EntryPayload::Blank | EntryPayload::Normal(_) => None,
        }
    }
}

/// An applied entry.
pub(crate) struct AppliedEntry<'a> {
    pub(crate) node: u64,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) digest: u64,
    /// None: blank or a membership.
    pub(crate) command: Option<(&'a LogEntry, &'a Applied)>,
    pub(crate) members: Option<Members>,
    /// After it.
    pub(crate) state: &'a ClusterState,
    /// Nodes on whose disks it is durable, and the voter sets that may have committed it.
    pub(crate) durable_on: BTreeSet<u64>,
    pub(crate) quorums: Vec<Vec<BTreeSet<u64>>>,
}

/// Something that happened.
pub(crate) enum Seen<'a> {
    /// A vote is stored; `leads`: a majority granted it.
    Voted {
        node: u64,
        term: u64,
        candidate: u64,
        leads: bool,
    },
    /// An entry entered a log; `before`: term and index of the one that it follows.
    Appended {
        node: u64,
        term: u64,
        index: u64,
        digest: u64,
        before: Option<(u64, u64)>,
        members: Option<Members>,
    },
    /// Entries from `next` on left a log.
    Truncated { node: u64, next: u64 },
    /// Entries up to `upto` left a log; `snapshot`: last index of the durable snapshot.
    Purged {
        node: u64,
        upto: u64,
        snapshot: Option<u64>,
    },
    /// An entry was applied.
    Applied(Box<AppliedEntry<'a>>),
    /// A snapshot became a node's state.
    Restored {
        node: u64,
        term: u64,
        index: u64,
        state: &'a ClusterState,
    },
    /// A node process starts on a disk: what was durable before, what it finds.
    Opened {
        node: u64,
        durable: Option<u64>,
        found: Option<u64>,
        durable_term: u64,
        found_term: u64,
    },
    /// A client got an answer to a write.
    Acknowledged {
        request: RequestId,
        index: u64,
        outcome: &'a Outcome,
    },
    /// A client got an answer to a read that it began when `floor` was the highest index that anybody had been shown.
    Read { floor: u64, index: u64 },
    /// A lease reached the node that asked for it.
    Granted { node: u64, token: AttemptToken },
    /// A process began.
    Started { node: u64, token: AttemptToken },
    /// A process tree is gone.
    Ended { node: u64, token: AttemptToken },
    /// A leader proposes to give an attempt up.
    GivenUp { token: AttemptToken },
    /// An agent stops a process because it takes it for stale.
    StoppedAsStale { node: u64, token: AttemptToken },
}

/// A digest of an entry's content.
pub(crate) fn payload_digest(entry: &RaftEntry) -> u64 {
    match &entry.payload {
        EntryPayload::Blank => 1,
        EntryPayload::Normal(proposal) => digest(&proposal.0),
        EntryPayload::Membership(membership) => digest(format!("{membership:?}").as_bytes()),
    }
}

/// 64 bits of BLAKE3.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    let (first, _) = hash.as_bytes().split_at(8);
    u64::from_le_bytes(first.try_into().expect("eight bytes"))
}

/// The running hash of a history: the same seed must give the same.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trace {
    pub(crate) hash: u64,
    pub(crate) events: u64,
}

impl Trace {
    pub(crate) fn add(&mut self, words: &[u64]) {
        self.events += 1;
        for word in words {
            self.hash = mix(self.hash.rotate_left(5) ^ mix(*word));
        }
    }
}

fn token_word(token: &AttemptToken) -> u64 {
    digest(token.to_string().as_bytes())
}

impl Seen<'_> {
    /// For the trace.
    pub(crate) fn words(&self) -> Vec<u64> {
        match self {
            Self::Voted {
                node,
                term,
                candidate,
                leads,
            } => vec![1, *node, *term, *candidate, u64::from(*leads)],
            Self::Appended {
                node,
                term,
                index,
                digest,
                ..
            } => vec![2, *node, *term, *index, *digest],
            Self::Truncated { node, next } => vec![3, *node, *next],
            Self::Purged { node, upto, .. } => vec![4, *node, *upto],
            Self::Applied(entry) => vec![5, entry.node, entry.term, entry.index, entry.digest],
            Self::Restored {
                node, term, index, ..
            } => vec![6, *node, *term, *index],
            Self::Opened {
                node,
                found,
                found_term,
                ..
            } => vec![7, *node, found.unwrap_or(0), *found_term],
            Self::Acknowledged { request, index, .. } => vec![8, request.sequence, *index],
            Self::Read { floor, index } => vec![9, *floor, *index],
            Self::Granted { node, token } => vec![10, *node, token_word(token)],
            Self::Started { node, token } => vec![11, *node, token_word(token)],
            Self::Ended { node, token } => vec![12, *node, token_word(token)],
            Self::GivenUp { token } => vec![13, token_word(token)],
            Self::StoppedAsStale { node, token } => vec![14, *node, token_word(token)],
        }
    }

    /// For people who watch a replay.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Voted {
                node,
                term,
                candidate,
                leads: true,
            } => format!("n{node} follows n{candidate}, leader of term {term}"),
            Self::Voted {
                node,
                term,
                candidate,
                leads: false,
            } => format!("n{node} votes for n{candidate} in term {term}"),
            Self::Appended {
                node, term, index, ..
            } => format!("n{node} appends {term}.{index}"),
            Self::Truncated { node, next } => format!("n{node} drops what is from {next} on"),
            Self::Purged { node, upto, .. } => format!("n{node} purges up to {upto}"),
            Self::Applied(entry) => {
                let what = match (&entry.command, &entry.members) {
                    (Some((command, applied)), _) => {
                        let command = format!("{:?}", command.command);
                        let name: String = command
                            .chars()
                            .take_while(|c| c.is_alphanumeric())
                            .collect();
                        format!("{name} -> {:?}", applied.outcome)
                    }
                    (None, Some(members)) => format!("{members:?}"),
                    (None, None) => "blank".to_owned(),
                };
                format!(
                    "n{} applies {}.{}: {what}",
                    entry.node, entry.term, entry.index
                )
            }
            Self::Restored {
                node, term, index, ..
            } => format!("n{node} restores the snapshot at {term}.{index}"),
            Self::Opened { node, found, .. } => format!("n{node} opens its log up to {found:?}"),
            Self::Acknowledged {
                request,
                index,
                outcome,
            } => format!("client told {} at {index}: {outcome:?}", request.sequence),
            Self::Read { floor, index } => format!("client reads at {index}, at least {floor}"),
            Self::Granted { node, token } => format!("n{node} holds a lease of {token}"),
            Self::Started { node, token } => format!("n{node} starts {token}"),
            Self::Ended { node, token } => format!("n{node} ended {token}"),
            Self::GivenUp { token } => format!("leader gives up {token}"),
            Self::StoppedAsStale { node, token } => format!("n{node} stops {token} as stale"),
        }
    }
}
