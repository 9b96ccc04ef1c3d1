//! Invariant 12: an experiment ends as exactly one of finished, failed, stopped, or is still wanted; an end is for
//! good unless a person accepts a late success; retries are bounded; nothing is booked over what a node has.

use std::collections::BTreeMap;

use state_machine::{Command, ExperimentPhase};
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
            let policy = &experiment.spec.policy;
            if experiment.nodes_lost() > policy.retries_node_lost.saturating_add(1)
                || experiment.own_failures() > policy.retries_failed.saturating_add(1)
            {
                return Err(format!("{id} was tried more often than it may be"));
            }
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
                (_, Some(cause)) => drop(self.ended.insert(id, cause.clone())),
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
            if cause.is_node_failure() && experiment.stop_requested.is_none() {
                return Err(format!(
                    "{} ended for a lost node in spite of its retries: {cause}",
                    experiment.id
                ));
            }
        }
        Ok(())
    }
}
