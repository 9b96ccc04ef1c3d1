//! Where a history of the cluster ends and another one begins: restore from a backup, recovery from a lost majority
//! (invariant 19).
//!
//! No log holds this change, since there is nobody to agree with: it is made offline on a copy of the state, and that
//! copy is the snapshot from which the new history starts.

use std::collections::BTreeSet;

use types::{
    Author, Cause, CauseKind, ClusterId, DurationMs, Incarnation, LogIndex, NodeFacts, NodeId,
    Timestamp,
};

use crate::archive::{self, ArchiveFile};
use crate::ledger::Action;
use crate::records::{AttemptEnd, Experiment, NodeRecord, PlacementHold};
use crate::standing::Departure;
use crate::state::{ClusterState, Context};

/// Log indexes that one history may use. The index at which a history starts is a multiple of it, so that every index
/// of an older one is lower, however much of that was lost: members, wanted sets and clients that remember an index
/// never take the old for the newer. At 10,000 entries a second it lasts three years.
pub const HISTORY_STRIDE: u64 = 1_000_000_000_000;

/// Whom the new history knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// Nobody but the founder: a restored copy. What ran is over for it.
    FounderAlone,
    /// All members but these, which held replicas of the old history. What ran may still run.
    AllBut(BTreeSet<NodeId>),
}

/// How a new history begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHistory {
    /// Its number, higher than that of the state.
    pub incarnation: Incarnation,
    /// The one node that votes.
    pub founder: NodeId,
    /// What it is; a founder that is a member already keeps its facts.
    pub facts: NodeFacts,
    /// Id and public key if it is to be another cluster.
    pub cluster: Option<(ClusterId, Vec<u8>)>,
    /// Who stays.
    pub survivors: Survivors,
    /// Longest lease that the old history may have granted.
    pub hold: DurationMs,
    /// Wall clock.
    pub now: Timestamp,
    /// Why, for the ledger and for people.
    pub reason: String,
}

impl ClusterState {
    /// Index at which a history starts.
    #[must_use]
    pub fn history_start(incarnation: Incarnation) -> LogIndex {
        LogIndex(
            incarnation
                .0
                .saturating_sub(1)
                .saturating_mul(HISTORY_STRIDE),
        )
    }

    /// Begins a new history with this state. The files must be stored beside it.
    ///
    /// # Errors
    /// The number is not higher than the current one, or the old history reaches into the new one's indexes.
    pub fn begin_history(&mut self, new: &NewHistory) -> Result<Vec<ArchiveFile>, String> {
        let start = Self::history_start(new.incarnation);
        if new.incarnation <= self.incarnation || start <= self.applied {
            return Err(format!(
                "a new history needs a number above {}: its first index {start} must be above {}",
                self.incarnation.0, self.applied
            ));
        }
        let old = self.incarnation;
        self.time = self.time.max(new.now);
        let author = Author::node(new.founder.clone());
        let mut context = Context {
            index: start,
            now: self.time,
            author: &author,
            request: None,
            events: Vec::new(),
        };
        self.incarnation = new.incarnation;
        self.members_version = start.0;
        if let Some((cluster, public_key)) = &new.cluster {
            self.cluster = Some(*cluster);
            self.cluster_public_key.clone_from(public_key);
            // Whoever may do something in the original may not therefore do it in a copy.
            self.user_tokens.clear();
            self.user_token_terms.clear();
        }
        // One that was used up or revoked in the lost part would be good again.
        self.join_tokens.clear();
        let detail = format!("{} after {}: {}", new.incarnation.0, old.0, new.reason);
        self.record(&context, Action::HistoryBegun, None, detail);
        self.keep_survivors(new, &mut context);
        self.placement_hold = Some(PlacementHold {
            submitted_until: self.applied,
            length: new.hold,
        });
        self.applied = start;
        Ok(archive::seal(self).into_iter().collect())
    }

    fn keep_survivors(&mut self, new: &NewHistory, context: &mut Context<'_>) {
        let leaves: Vec<NodeId> = match &new.survivors {
            Survivors::FounderAlone => self.nodes.keys().cloned().collect(),
            Survivors::AllBut(gone) => gone.iter().cloned().collect(),
        };
        if new.survivors == Survivors::FounderAlone {
            self.lose_everything(new, context);
        }
        for node in leaves.iter().filter(|node| **node != new.founder) {
            if let Some(record) = self.nodes.remove(node) {
                self.standings.remove(node);
                let detail = format!("{} ({node}): {}", record.facts.name, new.reason);
                let departure = Departure {
                    name: record.facts.name,
                    by: context.author.to_string(),
                    at: context.now,
                    reason: new.reason.clone(),
                };
                self.departures.insert(node.clone(), departure);
                self.record(context, Action::NodeRemoved, None, detail);
            }
        }
        if !self.nodes.contains_key(&new.founder) {
            let record = NodeRecord {
                node: new.founder.clone(),
                facts: new.facts.clone(),
                admitted_at: context.now,
                admitted_by: context.author.to_string(),
                draining: false,
                labels: new.facts.labels.clone(),
            };
            self.nodes.insert(new.founder.clone(), record);
            let detail = format!("{} ({})", new.facts.name, new.founder);
            self.record(context, Action::NodeAdmitted, None, detail);
        }
    }

    /// Ends all attempts: no machine of the old history belongs to the new one.
    fn lose_everything(&mut self, new: &NewHistory, context: &mut Context<'_>) {
        let active: Vec<_> = self
            .active()
            .map(|(experiment, _)| experiment.as_ref().clone())
            .collect();
        for mut experiment in active {
            let ranks = experiment.attempts.last_mut();
            for rank in ranks.into_iter().flat_map(|attempt| &mut attempt.ranks) {
                rank.ended = true;
            }
            let evidence = vec![
                new.reason.clone(),
                "whether it went on in the history before is not known here".to_owned(),
            ];
            let cause = Cause::new(CauseKind::HistoryReplaced, evidence);
            let end = AttemptEnd::lost(cause, context.now);
            self.end_attempt(context, experiment, end);
        }
    }

    /// Why the history before keeps an experiment from being placed, if it does.
    pub(crate) fn held_by_history(&self, experiment: &Experiment) -> Option<String> {
        let hold = self.placement_hold.as_ref()?;
        (experiment.submitted_index <= hold.submitted_until).then(|| {
            format!(
                "history {} of the cluster has begun: in the one before it may have been started on a lease of up to {}, which must be over first",
                self.incarnation.0, hold.length
            )
        })
    }

    /// What waits until no lease of the history before can be left.
    #[must_use]
    pub fn placement_hold(&self) -> Option<&PlacementHold> {
        self.placement_hold.as_ref()
    }
}
