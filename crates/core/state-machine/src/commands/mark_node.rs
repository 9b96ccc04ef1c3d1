//! What people say about a machine: labels, and whose it is for a time.

use serde::{Deserialize, Serialize};
use types::{NodeId, Timestamp};

use crate::commands::nodes::unknown;
use crate::commands::shape_queue::refuse_user;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::NodeRecord;
use crate::standing::Reserved;
use crate::state::{ClusterState, Context};

/// Most labels that people give one machine.
const MAX_LABELS: usize = 32;
/// Longest name or value of a label.
const MAX_LABEL_BYTES: usize = 128;

/// Gives labels to a machine, or takes them off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelNode {
    /// Which.
    pub node: NodeId,
    /// Names with values; none: the machine does not carry it, whatever its configuration says.
    pub labels: Vec<(String, Option<String>)>,
}

impl LabelNode {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(record) = state.nodes.get(&self.node).cloned() else {
            return unknown(&self.node);
        };
        if self.labels.is_empty() {
            return Outcome::Done; // Somebody only wants to know what there is.
        }
        let mut standing = state.standing(&self.node);
        for (name, value) in &self.labels {
            let is_own = record.facts.labels.iter().any(|(own, _)| own == name);
            standing.labels.retain(|(said, _)| said != name);
            // Taking off what its own configuration does not give needs no word.
            if value.is_some() || is_own {
                standing.labels.push((name.clone(), value.clone()));
            }
        }
        if let Some(refused) = refuse_labels(&standing.labels) {
            return refused;
        }
        let labels = standing.labels_over(&record.facts.labels);
        let all: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let detail = format!("{}: {}", record.facts.name, all.join(" "));
        state.record(context, Action::NodeLabelled, None, detail);
        state.stand(context, NodeRecord { labels, ..record }, standing)
    }
}

fn refuse_labels(labels: &[(String, Option<String>)]) -> Option<Outcome> {
    let bad = |text: &str| text.len() > MAX_LABEL_BYTES || text.chars().any(char::is_control);
    let wrong = labels.len() > MAX_LABELS
        || labels.iter().any(|(name, value)| {
            name.is_empty() || name.contains('=') || bad(name) || value.as_deref().is_some_and(&bad)
        });
    wrong.then(|| {
        let message = format!(
            "a machine has at most {MAX_LABELS} labels NAME=VALUE of at most {MAX_LABEL_BYTES} bytes, without control characters"
        );
        Outcome::refused(RefusalCode::Invalid, message)
    })
}

/// Gives a machine to one person for a time, or to all again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveNode {
    /// Which.
    pub node: NodeId,
    /// The user without a node, and until when; none: it is everybody's.
    pub reserved: Option<(String, Timestamp)>,
}

impl ReserveNode {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(record) = state.nodes.get(&self.node).cloned() else {
            return unknown(&self.node);
        };
        let mut standing = state.standing(&self.node);
        let name = &record.facts.name;
        let detail = match &self.reserved {
            Some((user, until)) => {
                if let Some(refused) = refuse_user(user) {
                    return refused;
                }
                if *until <= context.now {
                    let message = "a reservation is for a time to come: --time 4h";
                    return Outcome::refused(RefusalCode::Invalid, message);
                }
                format!("{name} for {user} for {}", until.since(context.now))
            }
            None => format!("{name} for everybody"),
        };
        standing.reserved = self.reserved.clone().map(|(user, until)| Reserved {
            user,
            until,
            by: context.author.to_string(),
        });
        state.record(context, Action::NodeReserved, None, detail);
        state.stand(context, record, standing)
    }
}

impl ClusterState {
    /// Whose a machine is just now, if somebody's.
    #[must_use]
    pub fn reserved(&self, node: &NodeId) -> Option<&Reserved> {
        let reserved = self.standings.get(node)?.reserved.as_ref()?;
        (reserved.until > self.time).then_some(reserved)
    }
}
