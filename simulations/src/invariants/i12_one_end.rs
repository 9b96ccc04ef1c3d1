//! Invariant 12: an experiment ends as exactly one of finished, failed, stopped, or is still wanted; an end is for
//! good unless a person accepts a late success; retries are bounded; nothing is booked over what a node has.

use std::collections::BTreeMap;

use state_machine::{Command, Experiment, ExperimentPhase};
use types::{Cause, CauseKind, ExperimentId};

use super::{Fact, Invariant, Scene};
use crate::host::{HOST_CPU_MILLI, HOST_MEMORY_BYTES};

#[derive(Debug, Default)]
pub(super) struct OneEnd {
    ended: BTreeMap<ExperimentId, Cause>,
}

impl Invariant for OneEnd {
    fn note(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        let Fact::Applied { index, entry, .. } = fact else {
            return Ok(());
        };
        for experiment in scene.state.experiments() {
            let id = experiment.id;
            check_tries(experiment)?;
            let cause = match &experiment.phase {
                ExperimentPhase::Ended { cause, .. } => Some(cause),
                ExperimentPhase::Queued { .. } | ExperimentPhase::Active => None,
            };
            let accepted = matches!(entry.command, Command::AcceptLate(_));
            match (self.ended.get(&id), cause) {
                (Some(known), None) => {
                    return Err(format!(
                        "entry {index}: {id} had ended ({known}) and is live"
                    ));
                }
                (Some(known), Some(cause)) if known != cause && !accepted => {
                    return Err(format!(
                        "entry {index}: {id} ended as {known} and as {cause}"
                    ));
                }
                (_, Some(cause)) => {
                    check_loss(experiment, cause)?;
                    self.ended.insert(id, cause.clone());
                }
                (None, None) => {}
            }
        }
        for host in scene.hosts {
            let booking = scene.state.booking(&host.id);
            if booking.cpu_milli > HOST_CPU_MILLI || booking.memory_bytes > HOST_MEMORY_BYTES {
                return Err(format!("{} is booked over its size: {booking:?}", host.id));
            }
        }
        Ok(())
    }

    fn at_the_end(&mut self, scene: &Scene<'_>) -> Result<(), String> {
        for experiment in scene.state.experiments() {
            let ExperimentPhase::Ended { cause, .. } = &experiment.phase else {
                return Err(format!("{} is not over", experiment.id));
            };
            let stopped = matches!(cause.kind, CauseKind::Stopped { .. });
            if stopped && experiment.stop_requested.is_none() {
                return Err(format!("{} was stopped by nobody: {cause}", experiment.id));
            }
        }
        Ok(())
    }
}

/// It is tried again as often as it may be, and no more.
fn check_tries(experiment: &Experiment) -> Result<(), String> {
    let policy = &experiment.spec.policy;
    let lost = experiment
        .nodes_lost()
        .saturating_sub(policy.retries_node_lost);
    let failed = experiment
        .own_failures()
        .saturating_sub(policy.retries_failed);
    if lost > 1 || failed > 1 || experiment.is_live() && lost + failed > 0 {
        return Err(format!(
            "{} was tried more often than it may be: {} lost machines, {} failures, {policy:?}",
            experiment.id,
            experiment.nodes_lost(),
            experiment.own_failures()
        ));
    }
    Ok(())
}

/// It fails for lost machines when it has met exactly one more than it bears, and not if a person had stopped it.
fn check_loss(experiment: &Experiment, cause: &Cause) -> Result<(), String> {
    let (lost, bears) = (
        experiment.nodes_lost(),
        experiment.spec.policy.retries_node_lost,
    );
    if cause.is_node_failure()
        && (lost.checked_sub(1) != Some(bears) || experiment.stop_requested.is_some())
    {
        return Err(format!(
            "{} failed for {lost} lost machines and bears {bears}: {cause}",
            experiment.id
        ));
    }
    Ok(())
}
