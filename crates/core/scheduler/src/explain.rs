//! Why an experiment waits, node by node.

use membership::{Health, View};
use state_machine::{ClusterState, Experiment, ExperimentPhase};
use types::{NodeId, Timestamp};

use crate::fit::shortfalls;
use crate::offer::{NodeOffer, offers};
use crate::shortfall::Shortfall;

/// Attempts that are named as holders of a node; the rest is counted.
const MAX_NAMED_HOLDERS: usize = 3;

/// What one node says to the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fits now.
    Fits,
    /// It would fit if these were otherwise.
    Short(Vec<String>),
    /// It never fits this node.
    Impossible(Vec<String>),
}

/// One node's part of the explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeExplanation {
    /// Who.
    pub node: NodeId,
    /// Host name.
    pub name: String,
    /// What it says.
    pub verdict: Verdict,
}

/// Why an experiment waits, or where it is if it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// One sentence.
    pub summary: String,
    /// Every member.
    pub nodes: Vec<NodeExplanation>,
    /// Some node could run it, empty.
    pub possible_ever: bool,
    /// Place in the line from 1; 0: it does not wait.
    pub position: usize,
}

/// Explains where `experiment` stands at `now`.
#[must_use]
pub fn explain(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    experiment: &Experiment,
) -> Explanation {
    let offers = offers(state, view, now);
    let nodes: Vec<_> = offers
        .iter()
        .map(|offer| NodeExplanation {
            node: offer.node.clone(),
            name: offer.name.clone(),
            verdict: verdict(state, offer, experiment),
        })
        .collect();
    let possible_ever = nodes.iter().zip(&offers).any(|(node, offer)| {
        offer.health != Health::Unknown && !matches!(node.verdict, Verdict::Impossible(_))
    });
    let place = state.waiting().position(|other| other.id == experiment.id);
    let position = place.map_or(0, |before| before + 1);
    let summary = summary(state, experiment, &nodes, possible_ever, position);
    Explanation {
        summary,
        nodes,
        possible_ever,
        position,
    }
}

fn verdict(state: &ClusterState, offer: &NodeOffer, experiment: &Experiment) -> Verdict {
    let short = shortfalls(offer, &experiment.spec.resources);
    if short.is_empty() {
        return Verdict::Fits;
    }
    let lasting: Vec<_> = short.iter().filter(|short| short.is_lasting()).collect();
    if !lasting.is_empty() {
        return Verdict::Impossible(lasting.iter().map(ToString::to_string).collect());
    }
    let holders = holders(state, &offer.node);
    let text = |short: &Shortfall| match short {
        Shortfall::Cpu(_) | Shortfall::Memory(_) | Shortfall::Disk(_) | Shortfall::Gpu(_) => {
            format!("{short}{holders}")
        }
        Shortfall::TakesNoWork
        | Shortfall::Draining
        | Shortfall::Refuses(_)
        | Shortfall::Silent
        | Shortfall::NeverReported
        | Shortfall::Label { .. } => short.to_string(),
    };
    Verdict::Short(short.iter().map(text).collect())
}

/// ` (booked by k3f9x2ma)`, or nothing.
fn holders(state: &ClusterState, node: &NodeId) -> String {
    let attempts = state.booking(node).attempts;
    let named: Vec<_> = attempts
        .iter()
        .take(MAX_NAMED_HOLDERS)
        .map(|token| token.experiment.to_string())
        .collect();
    match attempts.len().saturating_sub(named.len()) {
        _ if named.is_empty() => String::new(),
        0 => format!(" (booked by {})", named.join(", ")),
        more => format!(" (booked by {} and {more} more)", named.join(", ")),
    }
}

fn summary(
    state: &ClusterState,
    experiment: &Experiment,
    nodes: &[NodeExplanation],
    possible_ever: bool,
    position: usize,
) -> String {
    match &experiment.phase {
        ExperimentPhase::Ended { cause, .. } => return format!("it does not wait: {cause}"),
        ExperimentPhase::Active => {
            let attempt = experiment.current_attempt();
            let on = attempt.and_then(|attempt| attempt.ranks.first());
            let name = on.map_or("a node", |rank| {
                let node = state.node(&rank.placement.node);
                node.map_or(rank.placement.node.short(), |node| &node.facts.name)
            });
            let why = attempt.map_or("", |attempt| &attempt.reason);
            return format!("it does not wait: placed on {name} ({why})");
        }
        ExperimentPhase::Queued { .. } => {}
    }
    if let Some(why) = state.held(experiment) {
        return format!("it waits: {why}");
    }
    let request = &experiment.spec.resources;
    let ahead = position.saturating_sub(1);
    let fitting = nodes
        .iter()
        .filter(|node| node.verdict == Verdict::Fits)
        .count();
    let silent = |node: &NodeExplanation| matches!(&node.verdict, Verdict::Short(lines) if lines.contains(&Shortfall::NeverReported.to_string()));
    if fitting > 0 {
        format!(
            "fits {fitting} of {} nodes now, {ahead} are before it",
            nodes.len()
        )
    } else if possible_ever {
        format!("waits for room for {request}; {ahead} are before it")
    } else if nodes.iter().any(silent) {
        format!(
            "waits for {request}; no node that has reported could ever run it, but some have not reported yet"
        )
    } else {
        format!(
            "no node of this cluster could ever run it: it asks for {request}; add such a node, or stop it and ask for less"
        )
    }
}
