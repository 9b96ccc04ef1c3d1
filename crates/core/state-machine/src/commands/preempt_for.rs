//! The leader's decision that running attempts make room for an experiment.

use serde::{Deserialize, Serialize};
use types::{AttemptToken, DurationMs, ExperimentId, LogIndex, RankPlacement};

use crate::commands::place_attempt::open;
use crate::commands::unknown_experiment;
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{Experiment, ExperimentPhase, KeptPlace, Yield};
use crate::state::{ClusterState, Context};

/// How long a freed place is kept for whom it was freed, beyond the grace of its victims: starting takes a second.
const KEPT_FOR: DurationMs = DurationMs::from_secs(120);

/// Ends attempts so that an experiment gets their place, and keeps that place for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreemptFor {
    /// Who gets the place.
    pub beneficiary: ExperimentId,
    /// State that the decision was computed from.
    pub computed_at: LogIndex,
    /// The place of each rank, all of which get free or none.
    pub places: Vec<RankPlacement>,
    /// Who makes room.
    pub victims: Vec<AttemptToken>,
    /// Why, for people.
    pub reason: String,
}

impl PreemptFor {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let id = self.beneficiary;
        let Some(beneficiary) = state.experiments.get(&id) else {
            return unknown_experiment(id);
        };
        if !matches!(beneficiary.phase, ExperimentPhase::Queued { .. })
            || state.kept.contains_key(&id)
        {
            let message = format!("{id} does not wait, or a place is being freed for it already");
            return Outcome::refused(RefusalCode::NotWaiting, message);
        }
        if self.places.len() != beneficiary.spec.resources.nodes as usize {
            let message = format!("a place for {id} has one node for each rank");
            return Outcome::refused(RefusalCode::Invalid, message);
        }
        if let Some(why) = self.cannot_use(state, beneficiary) {
            return Outcome::refused(RefusalCode::DoesNotFit, why);
        }
        let mut longest = DurationMs(0);
        let mut yielding = Vec::new();
        for token in &self.victims {
            let current = state.experiments.get(&token.experiment).filter(|victim| {
                let attempt = victim
                    .current_attempt()
                    .filter(|attempt| attempt.token == *token);
                let there = attempt.is_some_and(|attempt| {
                    let mut places = self.places.iter();
                    places.any(|place| attempt.rank_on(&place.node).is_some())
                });
                there && victim.yields.is_none() && victim.id != id
            });
            let Some(victim) = current else {
                let message = format!("{token} does not run there any more");
                return Outcome::refused(RefusalCode::Stale, message);
            };
            longest = longest.max(victim.spec.policy.stop_grace_ms);
            let mut victim = victim.as_ref().clone();
            victim.yields = Some(Yield {
                to: id,
                at: context.now,
            });
            yielding.push(victim);
        }
        if yielding.is_empty() {
            return Outcome::refused(RefusalCode::Invalid, "nobody is named who makes room");
        }
        for victim in yielding {
            let detail = format!("makes room for {id}: {}", self.reason);
            state.record(context, Action::AttemptPreempted, Some(victim.id), detail);
            state.put(victim);
        }
        let until = context
            .now
            .0
            .saturating_add(longest.0)
            .saturating_add(KEPT_FOR.0);
        let kept = KeptPlace {
            places: self.places.clone(),
            victims: self.victims.clone(),
            until: types::Timestamp(until),
        };
        state.kept.insert(id, kept);
        let changed = self
            .victims
            .iter()
            .map(|token| Event::AttemptChanged(*token));
        context.events.extend(changed);
        Outcome::Done
    }
}

impl PreemptFor {
    /// Why the beneficiary could not have the places if they were free, if so: then nobody is to go for it.
    fn cannot_use(&self, state: &ClusterState, beneficiary: &Experiment) -> Option<String> {
        if let Some(why) = state.held(beneficiary) {
            return Some(why);
        }
        if let Some(over) = state.over_limit(beneficiary) {
            return Some(over.to_string());
        }
        let user = &beneficiary.author.user;
        let mut nodes = self.places.iter().map(|place| &place.node);
        nodes.find_map(|node| open(state, node, user).err())
    }
}
