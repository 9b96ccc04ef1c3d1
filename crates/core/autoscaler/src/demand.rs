//! Waiting experiments that no node has room for.

use std::collections::BTreeSet;

use membership::View;
use scheduler::{SchedulerConfig, could_ever_run, offers, place_next};
use state_machine::ClusterState;
use types::{ExperimentId, ResourceRequest, Timestamp};

/// A waiting experiment that cannot be placed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// Which.
    pub experiment: ExperimentId,
    /// What it needs.
    pub resources: ResourceRequest,
    /// Since when it waits.
    pub since: Timestamp,
    /// The cluster could run it, empty: more of the same machines would help, or time.
    pub possible_here: bool,
}

/// Everything that waits and would still wait after the scheduler placed all that fits, first in line first.
#[must_use]
pub fn demand(state: &ClusterState, view: &View, now: Timestamp) -> Vec<Unmet> {
    let config = SchedulerConfig {
        max_placements_per_round: usize::MAX,
        ..SchedulerConfig::default()
    };
    let placed: BTreeSet<_> = place_next(state, view, now, &config)
        .into_iter()
        .map(|placement| placement.experiment)
        .collect();
    let offers = offers(state, view, now);
    let unmet = state
        .demand()
        .filter(|demand| !placed.contains(&demand.experiment));
    unmet
        .map(|demand| Unmet {
            possible_here: could_ever_run(&offers, &demand.resources),
            experiment: demand.experiment,
            resources: demand.resources,
            since: demand.since,
        })
        .collect()
}

/// One sentence for people about all of it.
#[must_use]
pub fn summary(unmet: &[Unmet], now: Timestamp) -> String {
    let Some(oldest) = unmet.iter().map(|unmet| unmet.since).min() else {
        return "nothing waits for room".to_owned();
    };
    let total = |of: fn(&ResourceRequest) -> u64| {
        let amounts = unmet.iter().map(|unmet| {
            let ranks = u64::from(unmet.resources.nodes);
            of(&unmet.resources).saturating_mul(ranks)
        });
        amounts.fold(0, u64::saturating_add)
    };
    let sum = ResourceRequest {
        cpu_milli: total(|request| request.cpu_milli),
        memory_bytes: total(|request| request.memory_bytes),
        gpu_milli: total(|request| request.gpu_milli),
        ..ResourceRequest::default()
    };
    let never = unmet.iter().filter(|unmet| !unmet.possible_here).count();
    let mut text = format!(
        "{} wait for {sum} in all, the oldest for {}",
        unmet.len(),
        now.since(oldest)
    );
    if never > 0 {
        text.push_str(&format!(
            "; {never} of them fit no node of this cluster, even an empty one"
        ));
    }
    text
}
