//! Questions about the state.

use std::sync::Arc;

use types::{
    ClusterId, ExperimentId, Incarnation, LogIndex, Member, MemberList, NodeId, QueueName,
    RequestId, ResourceRequest, Timestamp, TokenId, WantedAttempt, WantedSet,
};

use crate::archive::ArchiveRef;
use crate::ledger::LedgerEntry;
use crate::outcome::Outcome;
use crate::queue::Queue;
use crate::records::{
    Attempt, Booking, Experiment, JoinToken, NodeRecord, UserToken, UserTokenTerms,
};
use crate::standing::{self, Departure, ResolveNodeError};
use crate::state::{Band, ClusterState};

/// A text that names no experiment, or several.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// None.
    #[error("no experiment has the id, id prefix or name {text:?}: `muster ls --all` lists them")]
    Unknown {
        /// What was asked for.
        text: String,
    },
    /// Several ids start so.
    #[error("{text:?} is the start of several ids ({}): write more of it", candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// At most eight of them.
        candidates: Vec<ExperimentId>,
    },
}

/// What waits, for the autoscaler and for `why`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Which experiment.
    pub experiment: ExperimentId,
    /// What it needs.
    pub resources: ResourceRequest,
    /// How long it has waited already, since then.
    pub since: Timestamp,
}

impl ClusterState {
    /// The cluster's id, once founded.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// Public key whose hash is the cluster's id.
    #[must_use]
    pub fn cluster_public_key(&self) -> &[u8] {
        &self.cluster_public_key
    }

    /// History of the cluster.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Timing profile: `lan` or `wan`.
    #[must_use]
    pub fn timing(&self) -> &str {
        &self.timing
    }

    /// Last applied log entry.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// State time: the latest leader's clock seen in the log.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Log index of the last change of members or their facts.
    #[must_use]
    pub fn members_version(&self) -> u64 {
        self.members_version
    }

    /// What became of a request, while it is remembered.
    #[must_use]
    pub fn outcome_of(&self, request: &RequestId) -> Option<&Outcome> {
        self.requests.get(request)
    }

    /// All members.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// One member.
    #[must_use]
    pub fn node(&self, node: &NodeId) -> Option<&NodeRecord> {
        self.nodes.get(node)
    }

    /// A machine that was taken out.
    #[must_use]
    pub fn departure(&self, node: &NodeId) -> Option<&Departure> {
        self.departures.get(node)
    }

    /// Finds a member by name, id, or a unique start of either.
    ///
    /// # Errors
    /// Nothing fits, or several are called so.
    pub fn resolve_node(&self, text: &str) -> Result<NodeId, ResolveNodeError> {
        let nodes: Vec<_> = self.nodes.values().collect();
        standing::resolve(&nodes, self.departures.iter(), text)
    }

    /// The member list to be signed; `has_state` tells who votes or learns.
    #[must_use]
    pub fn member_list(&self, has_state: impl Fn(&NodeId) -> bool) -> Option<MemberList> {
        let member = |record: &NodeRecord| Member {
            node: record.node.clone(),
            facts: record.facts.clone(),
            has_state: has_state(&record.node),
        };
        Some(MemberList {
            cluster: self.cluster?,
            incarnation: self.incarnation,
            version: self.members_version,
            timing: self.timing.clone(),
            members: self.nodes.values().map(member).collect(),
        })
    }

    /// A join token.
    #[must_use]
    pub fn join_token(&self, id: &TokenId) -> Option<&JoinToken> {
        self.join_tokens.get(id)
    }

    /// All join tokens that were not used up.
    pub fn join_tokens(&self) -> impl Iterator<Item = &JoinToken> {
        self.join_tokens.values()
    }

    /// A user token.
    #[must_use]
    pub fn user_token(&self, id: &TokenId) -> Option<&UserToken> {
        self.user_tokens.get(id)
    }

    /// What a user token is bound to.
    #[must_use]
    pub fn user_token_terms(&self, id: &TokenId) -> UserTokenTerms {
        self.user_token_terms.get(id).cloned().unwrap_or_default()
    }

    /// All user tokens.
    pub fn user_tokens(&self) -> impl Iterator<Item = &UserToken> {
        self.user_tokens.values()
    }

    /// All queues.
    pub fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.queues.values()
    }

    /// One queue.
    #[must_use]
    pub fn queue(&self, name: &QueueName) -> Option<&Queue> {
        self.queues.get(name)
    }

    /// One experiment of the hot state.
    #[must_use]
    pub fn experiment(&self, id: ExperimentId) -> Option<&Arc<Experiment>> {
        self.experiments.get(&id)
    }

    /// All experiments of the hot state, newest submission last per id order.
    pub fn experiments(&self) -> impl Iterator<Item = &Arc<Experiment>> {
        self.experiments.values()
    }

    /// Waiting experiments, the one to serve first in front.
    pub fn waiting(&self) -> impl Iterator<Item = &Arc<Experiment>> {
        self.waiting
            .iter()
            .filter_map(|key| self.experiments.get(&key.id))
    }

    /// The same with the band of each.
    pub fn waiting_by_band(&self) -> impl Iterator<Item = (Band, &Arc<Experiment>)> {
        let keys = self.waiting.iter();
        keys.filter_map(|key| Some((key.band, self.experiments.get(&key.id)?)))
    }

    /// How many wait.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Placed attempts that are not over.
    pub fn active(&self) -> impl Iterator<Item = (&Arc<Experiment>, &Attempt)> {
        let experiments = self.active.iter().filter_map(|id| self.experiments.get(id));
        experiments.filter_map(|experiment| {
            experiment
                .current_attempt()
                .map(|attempt| (experiment, attempt))
        })
    }

    /// What is booked on a node.
    #[must_use]
    pub fn booking(&self, node: &NodeId) -> Booking {
        self.bookings.get(node).cloned().unwrap_or_default()
    }

    /// What `node` should be running.
    #[must_use]
    pub fn wanted_set(&self, node: &NodeId) -> WantedSet {
        let tokens = self
            .bookings
            .get(node)
            .map(|booking| booking.attempts.clone())
            .unwrap_or_default();
        let attempts = tokens.iter().filter_map(|token| {
            let experiment = self.experiments.get(&token.experiment)?;
            let attempt = experiment
                .current_attempt()
                .filter(|attempt| attempt.token == *token)?;
            let rank = attempt.rank_on(node)?;
            Some(WantedAttempt {
                token: *token,
                rank,
                gang: if attempt.is_gang() {
                    let ranks = attempt.ranks.iter();
                    ranks.map(|rank| rank.placement.node.clone()).collect()
                } else {
                    Vec::new()
                },
                spec: experiment.spec.as_ref().clone(),
                submitted_by: experiment.author.to_string(),
                resources: attempt.rank(rank)?.placement.resources.clone(),
                mirror: attempt.mirror_of(rank).cloned(),
                lease_ms: attempt.lease_ms,
                stop_requested_by: self.stop_of(experiment, attempt),
            })
        });
        let attempts = attempts.collect();
        WantedSet {
            incarnation: self.incarnation,
            index: self.applied,
            attempts,
        }
    }

    /// What the queue asks for, first in line first.
    pub fn demand(&self) -> impl Iterator<Item = Demand> {
        self.waiting().map(|experiment| Demand {
            experiment: experiment.id,
            resources: experiment.spec.resources.clone(),
            since: experiment.submitted_at,
        })
    }

    /// Finds an experiment by id, unique start of an id, or name (the newest of that name).
    ///
    /// # Errors
    /// Nothing fits, or several ids start so.
    pub fn resolve(&self, text: &str) -> Result<ExperimentId, ResolveError> {
        let unknown = || ResolveError::Unknown {
            text: text.to_owned(),
        };
        if let Some(id) = self.newest_named(text) {
            return Ok(id);
        }
        let low = format!("{text:0<8}").parse::<ExperimentId>();
        let high = format!("{text:z<8}").parse::<ExperimentId>();
        let (Ok(low), Ok(high)) = (low, high) else {
            return Err(unknown());
        };
        if text.is_empty() {
            return Err(unknown());
        }
        let candidates: Vec<_> = self
            .experiments
            .range(low..=high)
            .map(|(id, _)| *id)
            .take(8)
            .collect();
        match candidates.as_slice() {
            [] => Err(unknown()),
            [only] => Ok(*only),
            _ => Err(ResolveError::Ambiguous {
                text: text.to_owned(),
                candidates,
            }),
        }
    }

    /// Experiments of exactly this name, oldest first.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Arc<Experiment>> {
        let low = (Arc::from(name), LogIndex(0), ExperimentId::from_bits(0));
        let name: Arc<str> = name.into();
        self.names
            .range(low..)
            .take_while(move |(found, _, _)| *found == name)
            .filter_map(|(_, _, id)| self.experiments.get(id))
    }

    fn newest_named(&self, name: &str) -> Option<ExperimentId> {
        self.named(name).last().map(|experiment| experiment.id)
    }

    /// Ledger entries that were not sealed yet, oldest first.
    pub fn ledger(&self) -> impl DoubleEndedIterator<Item = &LedgerEntry> {
        self.ledger.iter()
    }

    /// Hash of the newest ledger entry and how many there are in all.
    #[must_use]
    pub fn ledger_head(&self) -> ([u8; 32], u64) {
        (self.ledger_head, self.ledger_length)
    }
    /// Number of the oldest ledger entry that was not sealed.
    #[must_use]
    pub fn first_hot_sequence(&self) -> u64 {
        self.ledger_length - self.ledger.len() as u64
    }

    /// The sealed ledger files, oldest first; each holds [`ARCHIVE_ENTRIES`](crate::ARCHIVE_ENTRIES) entries.
    pub fn ledger_archives(
        &self,
    ) -> impl DoubleEndedIterator<Item = &ArchiveRef> + ExactSizeIterator {
        self.ledger_archives.iter()
    }
}
