//! Members: in, changed, out.

use serde::{Deserialize, Serialize};
use types::{NodeFacts, NodeId, TokenId};

use crate::commands::evict_node::{refuse_last, take_out};
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::NodeRecord;
use crate::state::{ClusterState, Context};

/// Lets a node in; the leader has checked its proof of the token's secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmitNode {
    /// Token that it proved to know.
    pub token: TokenId,
    /// Who.
    pub node: NodeId,
    /// What it is.
    pub facts: NodeFacts,
}

impl AdmitNode {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        if let Some(was) = state.departures.get(&self.node) {
            let message = format!(
                "this identity ({}) was removed from the cluster by {} and never comes back: `muster up --rejoin <token>` joins this machine under a new one",
                was.name, was.by
            );
            return Outcome::refused(RefusalCode::Removed, message);
        }
        let Some(mut token) = state.join_tokens.get(&self.token).cloned() else {
            let message = format!(
                "no token {}: ask for a new one (`muster token new`)",
                self.token
            );
            return Outcome::refused(RefusalCode::UnknownToken, message);
        };
        if token.expires_at <= context.now {
            let message = format!(
                "token {} has expired: ask for a new one (`muster token new`)",
                self.token
            );
            return Outcome::refused(RefusalCode::TokenExpired, message);
        }
        if let Some(known) = state.nodes.get(&self.node) {
            // A repeat of an admission whose answer was lost: no second use is counted.
            let known = NodeRecord {
                facts: self.facts.clone(),
                labels: state.standing(&self.node).labels_over(&self.facts.labels),
                ..known.clone()
            };
            return store(state, context, known);
        }
        if token.uses_left == 0 {
            let message = format!(
                "token {} is used up: ask for a new one (`muster token new --uses N`)",
                self.token
            );
            return Outcome::refused(RefusalCode::TokenUsedUp, message);
        }
        token.uses_left -= 1;
        let node = NodeRecord {
            node: self.node.clone(),
            facts: self.facts.clone(),
            admitted_at: context.now,
            admitted_by: token.created_by.clone(),
            draining: false,
            labels: self.facts.labels.clone(),
        };
        state.join_tokens.insert(self.token.clone(), token);
        let detail = format!(
            "{} ({}) by token {}",
            self.facts.name, self.node, self.token
        );
        state.record(context, Action::NodeAdmitted, None, detail);
        store(state, context, node)
    }
}

/// Replaces a node's facts; only the node itself sends it (the leader checks the connection).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateNode {
    /// Who.
    pub node: NodeId,
    /// What it is now.
    pub facts: NodeFacts,
}

impl UpdateNode {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(known) = state.nodes.get(&self.node) else {
            return unknown(&self.node);
        };
        if known.facts == self.facts {
            return Outcome::Done;
        }
        let known = NodeRecord {
            facts: self.facts.clone(),
            labels: state.standing(&self.node).labels_over(&self.facts.labels),
            ..known.clone()
        };
        store(state, context, known)
    }
}

/// Takes a node out of the cluster. Refused while it runs something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveNode {
    /// Who.
    pub node: NodeId,
    /// Why, for the ledger.
    pub reason: String,
}

impl RemoveNode {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(record) = state.nodes.get(&self.node).cloned() else {
            return unknown(&self.node);
        };
        if let Some(booking) = state.bookings.get(&self.node) {
            let message = format!(
                "{} still runs {} attempts: `muster node drain` it first, or remove it with --now; with --is-dead if the machine will never run again",
                record.facts.name,
                booking.attempts.len()
            );
            return Outcome::refused(RefusalCode::NotAllowed, message);
        }
        if let Some(refused) = refuse_last(state, &record) {
            return refused;
        }
        take_out(state, context, record, &self.reason);
        Outcome::Done
    }
}

fn store(state: &mut ClusterState, context: &mut Context<'_>, node: NodeRecord) -> Outcome {
    state.nodes.insert(node.node.clone(), node);
    state.members_version = context.index.0;
    context.events.push(Event::MembersChanged);
    Outcome::Done
}

pub(crate) fn unknown(node: &NodeId) -> Outcome {
    Outcome::refused(
        RefusalCode::UnknownNode,
        format!("{node} is not a member: `muster nodes` lists them"),
    )
}
