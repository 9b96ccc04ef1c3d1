//! The ways out of the cluster for a node that runs something, is dead, or comes back under a new key.

use serde::{Deserialize, Serialize};
use types::{AttemptToken, Cause, CauseKind, NodeId, SegmentRef};

use crate::commands::nodes::{AdmitNode, unknown};
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{AttemptEnd, NodeRecord};
use crate::standing::Departure;
use crate::state::{ClusterState, Context};

/// Machines that are remembered after they were taken out: so many that one that slept for months is still told why it
/// is not let in. About 200 KiB.
const MAX_DEPARTURES: usize = 1_024;

/// What becomes of the attempts of a node that is taken out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvictedAttempts {
    /// The machine may be alive: they are given up when their leases are over (invariant 11).
    WhenLeasesEnd,
    /// A person vouches that the machine is dead: they are given up now, with what their mirrors have sealed.
    Now(Vec<(AttemptToken, Vec<SegmentRef>)>),
}

/// Takes a node out, whatever it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictNode {
    /// Who.
    pub node: NodeId,
    /// Why, for the ledger and the screen of the machine.
    pub reason: String,
    /// What it runs.
    pub attempts: EvictedAttempts,
}

impl EvictNode {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(record) = state.nodes.get(&self.node).cloned() else {
            return unknown(&self.node);
        };
        if let Some(refused) = refuse_last(state, &record) {
            return refused;
        }
        if let EvictedAttempts::Now(sealed) = &self.attempts {
            lose_all(state, context, &record, sealed);
        }
        take_out(state, context, record, &self.reason);
        Outcome::Done
    }
}

/// Admits a machine under a new key, and takes out its old identity in the same change; the leader has checked that the
/// machine holds the old key too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceNode {
    /// The new identity.
    pub admit: AdmitNode,
    /// The old one; its attempts end with their leases.
    pub old: NodeId,
}

impl ReplaceNode {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let admitted = self.admit.apply(state, context);
        if matches!(admitted, Outcome::Refused(_)) || self.old == self.admit.node {
            return admitted;
        }
        // Taken out already, or a repeat of this.
        if let Some(record) = state.nodes.get(&self.old).cloned() {
            let short = self.admit.node.short();
            let reason = format!("joined again as {} ({short})", self.admit.facts.name);
            take_out(state, context, record, &reason);
        }
        admitted
    }
}

pub(crate) fn refuse_last(state: &ClusterState, record: &NodeRecord) -> Option<Outcome> {
    (state.nodes.len() == 1).then(|| {
        let message = format!(
            "{} is the only machine of the cluster: without it there is none",
            record.facts.name
        );
        Outcome::refused(RefusalCode::NotAllowed, message)
    })
}

/// Takes the node out of all that names it: members, decisions about it, join tokens that came through it, mirrors.
pub(crate) fn take_out(
    state: &mut ClusterState,
    context: &mut Context<'_>,
    record: NodeRecord,
    reason: &str,
) {
    let node = record.node;
    state.nodes.remove(&node);
    state.standings.remove(&node);
    // Who has the machine may have copied what it printed.
    let vouched = format!("@{}", node.short());
    let tokens = state.join_tokens.values();
    let made_there = tokens.filter(|token| token.created_by.ends_with(&vouched));
    let dead: Vec<_> = made_there.map(|token| token.id.clone()).collect();
    for id in &dead {
        state.join_tokens.remove(id);
    }
    let mirrored: Vec<_> = state
        .active()
        .filter(|(_, attempt)| attempt.mirror.as_ref() == Some(&node))
        .map(|(experiment, attempt)| (experiment.as_ref().clone(), attempt.token))
        .collect();
    for (mut experiment, token) in mirrored {
        if let Some(attempt) = experiment.attempts.last_mut() {
            attempt.mirror = None;
        }
        state.put(experiment);
        context.events.push(Event::AttemptChanged(token));
    }
    let mut detail = format!("{} ({node})", record.facts.name);
    if !reason.is_empty() {
        detail = format!("{detail}: {reason}");
    }
    if !dead.is_empty() {
        detail = format!("{detail}; {} join tokens made there are ended", dead.len());
        context.events.push(Event::TokensChanged);
    }
    state.record(context, Action::NodeRemoved, None, detail);
    let departure = Departure {
        name: record.facts.name,
        by: context.author.to_string(),
        at: context.now,
        reason: reason.to_owned(),
    };
    state.departures.insert(node, departure);
    if state.departures.len() > MAX_DEPARTURES {
        let oldest = state.departures.iter().min_by_key(|(_, was)| was.at);
        if let Some(oldest) = oldest.map(|(node, _)| node.clone()) {
            state.departures.remove(&oldest);
        }
    }
    state.members_version = context.index.0;
    context.events.push(Event::MembersChanged);
}

/// Gives up every attempt of a dead machine.
fn lose_all(
    state: &mut ClusterState,
    context: &mut Context<'_>,
    record: &NodeRecord,
    sealed: &[(AttemptToken, Vec<SegmentRef>)],
) {
    for token in state.booking(&record.node).attempts {
        let experiment = state.experiments.get(&token.experiment);
        let Some(mut experiment) = experiment.map(|experiment| experiment.as_ref().clone()) else {
            continue;
        };
        let Some(attempt) = experiment.attempts.last_mut() else {
            continue;
        };
        let Some(rank) = attempt.rank_on(&record.node) else {
            continue;
        };
        let segments = sealed.iter().find(|(of, _)| *of == token);
        let segments = segments.map(|(_, segments)| segments.as_slice());
        attempt.add_segments(rank, segments.unwrap_or_default());
        let evidence = vec![
            format!("{} says that {} is dead", context.author, record.facts.name),
            format!(
                "{} segments of its output were saved by its mirror",
                segments.map_or(0, <[_]>::len)
            ),
        ];
        let end = AttemptEnd::lost(Cause::new(CauseKind::NodeLost, evidence), context.now);
        state.end_rank(context, experiment, rank, end);
    }
}
