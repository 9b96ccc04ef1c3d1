//! Members as those who may be asked to vote.

use state_machine::{ClusterState, NodeRecord, PinnedRole, Steadiness, fleeting_label};
use types::{NodeId, Timestamp};

use crate::timing::Timing;
use crate::view::{Health, View};

/// A member that may be asked to vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub node: NodeId,
    /// Why it may not vote, in words; none: it may.
    pub barred: Option<String>,
    /// A person wants it to vote.
    pub pinned: bool,
    /// How far its machine can be counted on to stay.
    pub steadiness: Steadiness,
    /// What fails together; see [`failure_domain`].
    pub failure_domain: String,
    /// When it was admitted: the older, the steadier.
    pub admitted_at: Timestamp,
    /// Whether it is there.
    pub presence: Presence,
}

/// Whether a member is there, as far as votes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// There, without a break, for so long that it may take the place of a worse placed voter.
    Settled,
    /// There.
    Here,
    /// Silent, but not for long: it keeps what it has and gets nothing.
    Silent,
    /// Silent for longer than a voter may be.
    Gone,
}

impl Presence {
    pub(crate) fn is_here(self) -> bool {
        matches!(self, Self::Settled | Self::Here)
    }
}

/// The label `failure-domain` of a node, or else the node itself: it fails alone.
#[must_use]
pub fn failure_domain(node: &NodeId, labels: &[(String, String)]) -> String {
    let label = labels.iter().find(|(name, _)| name == "failure-domain");
    label.map_or_else(|| node.to_string(), |(_, value)| value.clone())
}

/// All members as candidates. `watching_since`: when the owner of the view began to look, so that who never reported is
/// given as long as who fell silent then.
#[must_use]
pub fn candidates(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    watching_since: Timestamp,
) -> Vec<Candidate> {
    let timing = Timing::named(state.timing());
    let candidate = |record: &NodeRecord| Candidate {
        node: record.node.clone(),
        barred: barred(state, record),
        pinned: pin(state, record) == Some(PinnedRole::Voter),
        steadiness: Steadiness::of(&record.labels),
        failure_domain: failure_domain(&record.node, &record.labels),
        admitted_at: record.admitted_at,
        presence: presence(view, record, now, watching_since, &timing),
    };
    let mut members: Vec<_> = state.nodes().map(candidate).collect();
    bar_the_fleeting(state, &mut members);
    members
}

fn pin(state: &ClusterState, record: &NodeRecord) -> Option<PinnedRole> {
    state.standing(&record.node).pin.map(|pin| pin.role)
}

fn barred(state: &ClusterState, record: &NodeRecord) -> Option<String> {
    let standing = state.standing(&record.node);
    if !record.facts.may_vote {
        Some("its settings say that it may not vote".to_owned())
    } else if let Some(drain) = standing.drain {
        Some(format!("{} drains it", drain.by))
    } else if record.draining {
        Some("it is drained".to_owned())
    } else {
        let pin = standing.pin.filter(|pin| pin.role == PinnedRole::Worker)?;
        Some(format!("{} wants it so", pin.by))
    }
}

/// Machines that come and go do not vote while any other can.
fn bar_the_fleeting(state: &ClusterState, members: &mut [Candidate]) {
    let steady =
        |member: &Candidate| member.barred.is_none() && member.steadiness != Steadiness::Fleeting;
    if !members.iter().any(steady) {
        return;
    }
    let fleeting = members
        .iter_mut()
        .filter(|member| member.barred.is_none() && member.steadiness == Steadiness::Fleeting);
    for member in fleeting {
        let record = state.node(&member.node);
        let label = record.and_then(|record| fleeting_label(&record.labels));
        let label = label.unwrap_or_default();
        member.barred = Some(format!("it may go at any time (label {label})"));
    }
}

fn presence(
    view: &View,
    record: &NodeRecord,
    now: Timestamp,
    watching_since: Timestamp,
    timing: &Timing,
) -> Presence {
    let node = &record.node;
    if view.health(node, now) == Health::Live {
        let there_since = view.there_since(node).unwrap_or(now);
        return if now.since(there_since) >= timing.settled_after {
            Presence::Settled
        } else {
            Presence::Here
        };
    }
    let heard = view.heard_at(node).unwrap_or(watching_since);
    if now.since(heard.max(watching_since)) >= timing.replace_voter_after {
        Presence::Gone
    } else {
        Presence::Silent
    }
}
