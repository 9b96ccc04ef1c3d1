//! Why an experiment waits, node by node.

use membership::{Health, View};
use state_machine::{ClusterState, Consumer, Experiment, ExperimentPhase, class};
use types::{NodeId, Timestamp};

use crate::backfill::{Ends, NEVER, shadow_of_rank};
use crate::fit::{Who, shortfalls};
use crate::line::Aging;
use crate::offer::{NodeOffer, offers};
use crate::place::SchedulerConfig;
use crate::round::{Round, over_limit};
use crate::shares::Shares;
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
    /// What keeps the request off it, as the decision saw it; none: it fits.
    pub short: Vec<Shortfall>,
    /// The same in words.
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
    /// By what rule it has that place; empty: it does not wait.
    pub rule: String,
    /// When it is expected to start, and what that is based on; empty: it does not wait.
    pub estimate: String,
}

/// Explains where `experiment` stands at `now`: the round of [`crate::place_next`] up to it, then what each node says.
#[must_use]
pub fn explain(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    experiment: &Experiment,
    config: &SchedulerConfig,
) -> Explanation {
    let mut round = Round::new(state, offers(state, view, now), config);
    let mut line = round.line();
    let shares = line.shares.clone();
    let waits = matches!(experiment.phase, ExperimentPhase::Queued { .. });
    let mut before = 0;
    while let Some(other) = line.next().filter(|_| waits) {
        if other.id == experiment.id {
            break;
        }
        // Who is held or at a limit takes nothing from those behind.
        if !round.may_run(other, &line.shares) {
            continue;
        }
        before += 1;
        match round.place(other) {
            Some(_) => line.placed(other),
            None => round.keep_nodes_for(other),
        }
    }
    let nodes: Vec<_> = (0..round.packing.offers().len())
        .map(|at| node_explanation(state, &round, at, experiment))
        .collect();
    let large = |(node, offer): &(&NodeExplanation, &NodeOffer)| {
        offer.health != Health::Unknown && !matches!(node.verdict, Verdict::Impossible(_))
    };
    let large = nodes
        .iter()
        .zip(round.packing.offers())
        .filter(large)
        .count();
    let possible_ever = large >= experiment.spec.resources.nodes as usize;
    let over = over_limit(state, &line.shares, experiment).filter(|_| waits);
    let estimate = match (&over, state.held(experiment)) {
        _ if !waits => String::new(),
        (_, Some(_)) => "not before it may go on".to_owned(),
        (Some(_), None) => "not before others of the queue end".to_owned(),
        (None, None) => estimate(&round, state, experiment),
    };
    let over = over.map(|over| over.to_string());
    Explanation {
        summary: summary(state, experiment, &nodes, large, (before, over)),
        rule: if waits {
            rule(state, &shares, round.aging(), experiment)
        } else {
            String::new()
        },
        estimate,
        nodes,
        possible_ever,
        position: if waits { before + 1 } else { 0 },
    }
}

fn node_explanation(
    state: &ClusterState,
    round: &Round<'_>,
    at: usize,
    experiment: &Experiment,
) -> NodeExplanation {
    let offer = &round.packing.offers()[at];
    let mut short = shortfalls(offer, who(round, experiment));
    if short.is_empty()
        && let Some(kept) = round.kept_for(at)
        && !round.is_allowed(at, experiment)
    {
        short.push(Shortfall::KeptFor(kept.experiment));
    }
    NodeExplanation {
        node: offer.node.clone(),
        name: offer.name.clone(),
        verdict: verdict(state, offer, &short),
        short,
    }
}

fn who<'a>(round: &Round<'_>, experiment: &'a Experiment) -> Who<'a> {
    Who {
        request: &experiment.spec.resources,
        user: &experiment.author.user,
        now: round.now,
    }
}

/// Why it stands where it stands.
fn rule(state: &ClusterState, shares: &Shares, aging: Aging, experiment: &Experiment) -> String {
    if aging.is_aged(experiment) {
        return format!(
            "class {}; it has waited for over {}: before all shares of its class, the oldest first",
            class(experiment),
            aging.serve_after
        );
    }
    let consumer = Consumer::of(experiment);
    let percent = |millionths: u64| format!("{}.{}", millionths / 10_000, millionths / 1_000 % 10);
    let queue_weight = state
        .queue(&experiment.queue)
        .map_or(1, |queue| queue.weight);
    let user_weight = state.user_weight(&consumer.user);
    let [of_queue, of_user] = shares.now_and_lately(&consumer);
    let mut text = format!(
        "class {}; queue {} has {} % of the cluster now and had {} % lately (weight {queue_weight}), {} {} % and {} % (weight {user_weight}): less is served first",
        class(experiment),
        experiment.queue,
        percent(of_queue.0),
        percent(of_queue.1),
        consumer.user,
        percent(of_user.0),
        percent(of_user.1),
    );
    match experiment.rank {
        0 => {}
        rank if rank < 0 => text.push_str("; a person put it in front"),
        _ => text.push_str("; a person put it behind"),
    }
    text + &format!("; then by priority ({}) and age", experiment.priority)
}

/// When it is expected to start, and why.
fn estimate(round: &Round<'_>, state: &ClusterState, experiment: &Experiment) -> String {
    let ends = Ends::of(state);
    let who = who(round, experiment);
    let open = round.packing.offers().iter();
    let shadows = open.filter_map(|offer| {
        let (shadow, _) = shadow_of_rank(offer, &ends, who)?;
        Some((shadow.unwrap_or(NEVER), offer))
    });
    let mut shadows: Vec<_> = shadows.collect();
    shadows.sort_by_key(|(shadow, _)| *shadow);
    shadows.truncate(who.request.nodes as usize);
    let all = shadows.len() == who.request.nodes as usize;
    let Some((at, last)) = shadows.last().filter(|_| all) else {
        return "not before a node changes".to_owned();
    };
    let names: Vec<_> = shadows.iter().map(|(_, one)| one.name.as_str()).collect();
    let names = names.join(", ");
    if *at == NEVER {
        "not known: what it waits for has no --time and no earlier run".to_owned()
    } else if *at <= round.now {
        format!("as soon as those before it are served, on {names}")
    } else {
        format!(
            "in {} on {names}, if those before it do not take that room: what runs there ends by then, by {}",
            at.since(round.now),
            basis(state, &last.node)
        )
    }
}

/// How it is known when what runs on a node ends.
fn basis(state: &ClusterState, node: &NodeId) -> &'static str {
    let attempts = state.booking(node).attempts;
    let running = attempts
        .iter()
        .filter_map(|token| state.experiment(token.experiment));
    let limited: Vec<_> = running
        .map(|one| one.spec.policy.time_limit_ms.0 > 0)
        .collect();
    match (limited.contains(&true), limited.contains(&false)) {
        (_, false) => "its --time",
        (false, true) => "how long earlier runs of it took",
        (true, true) => "its --time or how long earlier runs of it took",
    }
}

fn verdict(state: &ClusterState, offer: &NodeOffer, short: &[Shortfall]) -> Verdict {
    if short.is_empty() {
        return Verdict::Fits;
    }
    let lasting: Vec<_> = short.iter().filter(|short| short.is_lasting()).collect();
    if !lasting.is_empty() {
        return Verdict::Impossible(lasting.iter().map(ToString::to_string).collect());
    }
    let holders = holders(state, &offer.node);
    let text = |short: &Shortfall| match short {
        Shortfall::Cpu(_)
        | Shortfall::Memory(_)
        | Shortfall::Disk(_)
        | Shortfall::Gpu(_)
        | Shortfall::TakenAlone
        | Shortfall::NotEmpty { .. } => {
            format!("{short}{holders}")
        }
        Shortfall::TakesNoWork
        | Shortfall::Draining
        | Shortfall::Refuses(_)
        | Shortfall::Silent
        | Shortfall::NeverReported
        | Shortfall::Reserved { .. }
        | Shortfall::KeptFor(_)
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
    large: usize,
    (before, over): (usize, Option<String>),
) -> String {
    match &experiment.phase {
        ExperimentPhase::Ended { cause, .. } => return format!("it does not wait: {cause}"),
        ExperimentPhase::Active => {
            let attempt = experiment.current_attempt();
            let ranks = attempt.into_iter().flat_map(|attempt| &attempt.ranks);
            let names = ranks.map(|rank| {
                let node = state.node(&rank.placement.node);
                node.map_or(rank.placement.node.short(), |node| &node.facts.name)
            });
            let names = names.collect::<Vec<_>>().join(", ");
            let why = attempt.map_or("", |attempt| &attempt.reason);
            return format!("it does not wait: placed on {names} ({why})");
        }
        ExperimentPhase::Queued { .. } => {}
    }
    if let Some(why) = state.held(experiment) {
        return format!("it waits: {why}");
    }
    if let Some(over) = over {
        return format!("it waits: {over}");
    }
    let request = &experiment.spec.resources;
    let ahead = match before {
        0 => "nobody is before it".to_owned(),
        1 => "1 is before it".to_owned(),
        several => format!("{several} are before it"),
    };
    let fitting = nodes
        .iter()
        .filter(|node| node.verdict == Verdict::Fits)
        .count();
    let silent = |node: &NodeExplanation| node.short.contains(&Shortfall::NeverReported);
    let needed = request.nodes as usize;
    let all = nodes.len();
    if fitting >= needed && needed == 1 {
        format!("fits {fitting} of {all} nodes now; {ahead}")
    } else if fitting >= needed {
        format!("fits {fitting} of {all} nodes now, and needs {needed}; {ahead}")
    } else if large >= needed && needed == 1 {
        format!("waits for room for {request}; {ahead}")
    } else if large >= needed {
        format!(
            "waits for room for {request} at once: {fitting} of the {needed} have room now; {ahead}"
        )
    } else if nodes.iter().any(silent) {
        format!(
            "waits for {request}; no node that has reported could ever run it, but some have not reported yet"
        )
    } else if needed == 1 {
        format!(
            "no node of this cluster could ever run it: it asks for {request}; add such a node, or stop it and ask for less"
        )
    } else {
        format!(
            "this cluster could never run it: it asks for {request}, all at once, and {large} of its {all} nodes could run a part of it; add such nodes, or stop it and ask for fewer"
        )
    }
}
