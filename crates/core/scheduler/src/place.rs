//! The decision: who goes where.

use std::sync::Arc;

use membership::View;
use state_machine::{ClusterState, Consumer, ExperimentPhase, Holding, PlaceAttempt};
use types::{DurationMs, ExperimentId, ResourceRequest, Timestamp};

use crate::experience::Experience;
use crate::fit::could_ever_run;
use crate::misfits::asks_more;
use crate::offer::offers;
use crate::packing::Packing;
use crate::round::Round;

/// Requests that were found not to fit in this round and are compared with later ones; more differing shapes than
/// this are rare and only cost a walk over the nodes.
const MAX_REMEMBERED_MISFITS: usize = 32;
/// Times and bounds of the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Lease of a new attempt whose submitter asked for none; default 5 s.
    pub lease_ms: DurationMs,
    /// Most placements of one round, so that a round is one small batch of proposals; default 256.
    pub max_placements_per_round: usize,
    /// Age at which a waiting experiment keeps a node free for itself although nobody knows when it will be; default
    /// 10 min.
    pub reserve_after: DurationMs,
    /// Age at which a waiting experiment may take the place of others of its own class, when its user has less than a
    /// fair share and theirs have more; default 2 min.
    pub preempt_after: DurationMs,
    /// Age at which a waiting experiment goes before all shares of its band; default a day.
    pub serve_after: DurationMs,
    /// The leader's wall clock: what state time would be if something was applied now; state time when that is later.
    pub clock: Timestamp,
    /// What the state teaches; renewed now and then by who runs the scheduler.
    pub experience: Arc<Experience>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            lease_ms: DurationMs::from_secs(5),
            max_placements_per_round: 256,
            reserve_after: DurationMs::from_secs(600),
            preempt_after: DurationMs::from_secs(120),
            serve_after: DurationMs::from_secs(24 * 3_600),
            clock: Timestamp(0),
            experience: Arc::default(),
        }
    }
}

/// What earlier rounds have found out of the nodes; saves time, changes nothing.
#[derive(Debug, Default)]
pub struct Memory(Option<Packing>);

/// [`place_next_with`] for who does not decide again.
#[must_use]
pub fn place_next(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    config: &SchedulerConfig,
) -> Vec<PlaceAttempt> {
    place_next_with(state, view, now, config, &mut Memory::default())
}

/// Proposes placements, first in line first, each on top of the ones before it, so that all can be applied together.
///
/// The line is by bands, fair shares and age (`line`). Whoever does not fit and is first keeps the node that is
/// ready for it first; those behind it may use that node only as far as it is not delayed. A gang keeps as many as it needs. So do all that have waited for
/// [`SchedulerConfig::reserve_after`]; at most a quarter of the nodes (at least one, at most 16) are kept so.
///
/// **Nobody waits for ever** who fits some node that takes work, and whom neither a person nor a limit holds, as long as all
/// that runs ends. Nothing that comes later goes before one that has waited for [`SchedulerConfig::serve_after`], in its
/// band. Whoever is first in line starts by the time at which the node that is ready first would be ready if nothing else
/// was placed: what passes it ends before, or leaves it room. Where no durations are known it starts after what runs on one
/// node when it has waited for [`SchedulerConfig::reserve_after`]. So, if no attempt runs for longer than `d`, one that
/// waits behind `k` older ones of its band starts within `serve_after + 2 (k + 1) d`: twice, since a node whose times are
/// known may take the place of one of which nobody knew. Higher bands go first without end: that is what they are for.
/// (Property tests `starvation.rs`.)
///
/// `now` is read on the clock of the view (any monotonic one); ages of experiments are measured in state time.
pub fn place_next_with(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    config: &SchedulerConfig,
    memory: &mut Memory,
) -> Vec<PlaceAttempt> {
    let offers = offers(state, view, now);
    let packing = match memory.0.take() {
        Some(packing) => packing.renewed(offers, &config.experience),
        None => Packing::new(offers, Arc::clone(&config.experience)),
    };
    let mut round = Round::with(state, packing, config);
    let mut line = round.line();
    let mut placements = Vec::new();
    while placements.len() < config.max_placements_per_round && !round.is_closed() {
        let Some(experiment) = line.next() else {
            break;
        };
        if round.is_passed_over(experiment) || !round.may_run(experiment, &line.shares) {
            continue;
        }
        match round.place(experiment) {
            Some(placement) => {
                line.placed(experiment);
                placements.push(placement);
            }
            None => round.keep_nodes_for(experiment),
        }
    }
    memory.0 = Some(round.packing);
    placements
}

/// Proposes places for newly queued experiments alone. The same as [`place_next`] as long as nothing was freed since
/// its last round and nobody in front keeps a node free: then all others still do not fit, and need no look. That keeps
/// a submission cheap behind a queue of many thousands.
#[must_use]
pub fn place_new(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    config: &SchedulerConfig,
    new: &[ExperimentId],
) -> Vec<PlaceAttempt> {
    let mut round = Round::new(state, offers(state, view, now), config);
    let mut shares = round.shares();
    let mut placements = Vec::new();
    for experiment in new.iter().filter_map(|id| state.experiment(*id)) {
        let waits = matches!(experiment.phase, ExperimentPhase::Queued { .. });
        if !waits || !round.may_run(experiment, &shares) {
            continue;
        }
        if let Some(placement) = round.place(experiment) {
            let more = Holding::wanted(&experiment.spec.resources);
            shares.add(state, &Consumer::of(experiment), more);
            placements.push(placement);
        }
    }
    placements
}

/// Whether somebody who waits may keep a node free: then only [`place_next`] is right.
#[must_use]
pub fn keeps_nodes_free(
    state: &ClusterState,
    view: &View,
    now: Timestamp,
    but: &[ExperimentId],
) -> bool {
    let offers = offers(state, view, now);
    let others = state.waiting().filter(|one| !but.contains(&one.id));
    let mut impossible: Vec<&ResourceRequest> = Vec::new();
    others.filter(|one| state.held(one).is_none()).any(|one| {
        let request = &one.spec.resources;
        if impossible.iter().any(|known| asks_more(request, known)) {
            return false;
        }
        let possible = could_ever_run(&offers, request);
        if !possible && impossible.len() < MAX_REMEMBERED_MISFITS {
            impossible.push(request);
        }
        possible
    })
}
