//! What people decide about a member: drained, in use again, given a role.

use serde::{Deserialize, Serialize};
use types::{Cause, CauseKind, NodeId};

use crate::commands::nodes::unknown;
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{Attempt, NodeRecord, Yield};
use crate::standing::{Drain, NodeStanding, Pin, PinnedRole, fleeting_label};
use crate::state::{ClusterState, Context};

/// Lets a node get empty: nothing new is placed on it, and it gives its vote back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainNode {
    /// Which.
    pub node: NodeId,
    /// What runs there is stopped and placed again elsewhere, instead of being waited for.
    pub evacuate: bool,
    /// Why, for people; may be empty.
    pub reason: String,
}

impl DrainNode {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(record) = state.nodes.get(&self.node).cloned() else {
            return unknown(&self.node);
        };
        let mut standing = state.standing(&self.node);
        let known = standing.drain.as_ref();
        if known.is_some_and(|drain| drain.evacuate || !self.evacuate) {
            return Outcome::Done; // As it is already; who asked first is kept.
        }
        standing.drain = Some(Drain {
            by: context.author.to_string(),
            at: context.now,
            reason: self.reason.clone(),
            evacuate: self.evacuate,
        });
        let mut detail = record.facts.name.clone();
        if self.evacuate {
            detail += ", what runs there is moved";
        }
        if !self.reason.is_empty() {
            detail = format!("{detail}: {}", self.reason);
        }
        state.record(context, Action::NodeDrained, None, detail);
        if self.evacuate {
            let attempts = state.booking(&self.node).attempts;
            let changed = attempts.iter().map(|token| Event::AttemptChanged(*token));
            context.events.extend(changed);
        }
        let draining = true;
        state.stand(context, NodeRecord { draining, ..record }, standing)
    }
}

/// Takes a node into use again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndrainNode {
    /// Which.
    pub node: NodeId,
}

impl UndrainNode {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(record) = state.nodes.get(&self.node).cloned() else {
            return unknown(&self.node);
        };
        let mut standing = state.standing(&self.node);
        if standing.drain.take().is_none() && !record.draining {
            return Outcome::Done;
        }
        state.record(
            context,
            Action::NodeUndrained,
            None,
            record.facts.name.clone(),
        );
        let draining = false;
        state.stand(context, NodeRecord { draining, ..record }, standing)
    }
}

/// Gives a node a role, or leaves its role to the rule again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRole {
    /// Which.
    pub node: NodeId,
    /// None: by rule.
    pub role: Option<PinnedRole>,
}

impl PinRole {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(record) = state.nodes.get(&self.node).cloned() else {
            return unknown(&self.node);
        };
        let mut standing = state.standing(&self.node);
        let name = &record.facts.name;
        if standing.pin.as_ref().map(|pin| pin.role) == self.role {
            return Outcome::Done;
        }
        if self.role == Some(PinnedRole::Voter)
            && let Some(why) = cannot_vote(&record)
        {
            let message = format!("{name} cannot be made a voter: {why}");
            return Outcome::refused(RefusalCode::Invalid, message);
        }
        standing.pin = self.role.map(|role| Pin {
            role,
            by: context.author.to_string(),
            at: context.now,
        });
        let detail = match self.role {
            Some(PinnedRole::Voter) => format!("{name} votes before others"),
            Some(PinnedRole::Worker) => format!("{name} does not vote"),
            None => format!("{name} votes by the rule again"),
        };
        state.record(context, Action::RolePinned, None, detail);
        state.stand(context, record, standing)
    }
}

fn cannot_vote(record: &NodeRecord) -> Option<String> {
    if !record.facts.may_vote {
        return Some("its settings say that it may not vote (may_vote, --no-work)".to_owned());
    }
    if record.draining {
        return Some("it is being drained: `muster node undrain` it first".to_owned());
    }
    let label = fleeting_label(&record.labels)?;
    Some(format!(
        "by its label {label} it may go at any time, and would take its vote along"
    ))
}

impl ClusterState {
    /// What people have decided about a member.
    #[must_use]
    pub fn standing(&self, node: &NodeId) -> NodeStanding {
        self.standings.get(node).cloned().unwrap_or_default()
    }

    /// Who wants what runs on this node to go elsewhere.
    pub(crate) fn evacuated_by(&self, node: &NodeId) -> Option<&str> {
        let drain = self.standings.get(node)?.drain.as_ref()?;
        drain.evacuate.then_some(drain.by.as_str())
    }

    /// A stop that nobody asked for but who empties the node is a move, and one to make room for another experiment is
    /// a preemption: they say nothing about the experiment.
    pub(crate) fn as_move(&self, attempt: &Attempt, yields: Option<&Yield>, cause: Cause) -> Cause {
        let stopped = matches!(cause.kind, CauseKind::Stopped { .. });
        if let Some(other) = yields.filter(|_| stopped) {
            let by = other.to.to_string();
            return Cause::new(CauseKind::Preempted { by }, cause.evidence);
        }
        let mut nodes = attempt.ranks.iter().map(|rank| &rank.placement.node);
        match nodes.find_map(|node| self.evacuated_by(node)) {
            Some(by) if stopped => {
                let by = by.to_owned();
                Cause::new(CauseKind::Moved { by }, cause.evidence)
            }
            Some(_) | None => cause,
        }
    }

    pub(super) fn stand(
        &mut self,
        context: &mut Context<'_>,
        record: NodeRecord,
        standing: NodeStanding,
    ) -> Outcome {
        let node = record.node.clone();
        if standing == NodeStanding::default() {
            self.standings.remove(&node);
        } else {
            self.standings.insert(node.clone(), standing);
        }
        self.nodes.insert(node, record);
        // Not a new version of the member list: whom to let in and where to find it is as before.
        context.events.push(Event::MembersChanged);
        Outcome::Done
    }
}
