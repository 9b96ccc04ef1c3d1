//! Experiments side by side: what was asked for, what ran, what came out, and what differs in the code.

mod diff;
mod trees;

use state_machine::{Attempt, Experiment, ExperimentPhase};
use types::Environment;

use self::trees::different_files;
use crate::author::Caller;
use crate::call::ReadOptions;
use crate::error::{ErrorKind, ServiceError};
use crate::experiment_views::{reason, state_word};
use crate::handle::{Handle, now};
use crate::metrics::Metrics;
use crate::spec_views::{origin_view, source_view};
use crate::view::{CompareView, ComparedView, NodeRefView, SourceDifference};

/// Most experiments in one comparison: as many columns as a wide screen has room for.
const MAX_COMPARED: usize = 8;

impl Handle {
    /// Puts experiments side by side.
    ///
    /// # Errors
    /// Fewer than two or too many are named, one of them is unknown, or no majority answers (unless a stale answer will
    /// do). Code or metrics that cannot be had are part of the answer.
    pub async fn compare(
        &self,
        caller: &Caller,
        ids: &[String],
        read: ReadOptions,
    ) -> Result<CompareView, ServiceError> {
        if !(2..=MAX_COMPARED).contains(&ids.len()) {
            let message = format!("{} experiments cannot be compared", ids.len());
            let error = ServiceError::new(ErrorKind::Invalid, "bad-number", message);
            return Err(error.hint(format!("name 2 to {MAX_COMPARED} of them")));
        }
        let mut experiments = Vec::with_capacity(ids.len());
        for id in ids {
            experiments.push(self.record(caller, id, read).await?);
        }
        let all: Vec<&Experiment> = experiments.iter().collect();
        let metrics = self.last_metrics(&all).await;
        let compared = experiments.iter().zip(metrics);
        let compared = compared.map(|(experiment, metrics)| self.compared(experiment, metrics));
        let compared = compared.collect();
        let mut sources = Vec::with_capacity(experiments.len() - 1);
        // One after the other: each holds files that differ in memory.
        for other in &experiments[1..] {
            sources.push(self.source_difference(&experiments[0], other).await);
        }
        Ok(CompareView {
            experiments: compared,
            sources,
        })
    }

    async fn source_difference(&self, first: &Experiment, other: &Experiment) -> SourceDifference {
        let mut difference = SourceDifference {
            experiment: other.id.to_string(),
            files: Vec::new(),
            more: 0,
            unknown: String::new(),
        };
        let trees = (first.spec.source.as_ref(), other.spec.source.as_ref());
        let (Some(old), Some(new)) = trees else {
            if trees.0.is_some() != trees.1.is_some() {
                "one of them has no code".clone_into(&mut difference.unknown);
            }
            return difference;
        };
        if old.tree == new.tree {
            return difference;
        }
        match different_files(self, old.tree, new.tree).await {
            Ok((files, more)) => (difference.files, difference.more) = (files, more),
            Err(error) => difference.unknown = error.message,
        }
        difference
    }

    fn compared(&self, experiment: &Experiment, metrics: Metrics) -> ComparedView {
        let state = self.inner.consensus.state();
        let names = self.member_facts();
        let spec = &experiment.spec;
        let last = experiment.attempts.last();
        let end = last.and_then(|attempt| attempt.end.as_ref());
        let nodes = last.into_iter().flat_map(|attempt| &attempt.ranks);
        let nodes = nodes.map(|rank| {
            let node = &rank.placement.node;
            NodeRefView {
                id: node.to_string(),
                name: names
                    .get(node)
                    .map_or_else(|| node.short().to_owned(), |facts| facts.name.clone()),
            }
        });
        let (metrics, metrics_unknown) = metrics;
        ComparedView {
            id: experiment.id.to_string(),
            name: spec.name.clone(),
            state: state_word(experiment).to_owned(),
            reason: match &experiment.phase {
                ExperimentPhase::Queued { .. } | ExperimentPhase::Active => String::new(),
                ExperimentPhase::Ended { .. } => reason(&state, experiment),
            },
            user: experiment.author.user.clone(),
            origin: spec.origin.map(origin_view),
            command: spec.command.clone(),
            working_directory: spec.working_directory.clone(),
            parameters: spec.parameters.clone(),
            variables: spec.variables.clone(),
            environment: match &spec.environment {
                Environment::Host => "host".to_owned(),
                Environment::Locked(lock) => format!("{} ({})", lock.summary, lock.spec),
            },
            source: spec.source.as_ref().map(source_view),
            resources: spec.resources.to_string(),
            attempts: u32::try_from(experiment.attempts.len()).unwrap_or(u32::MAX),
            nodes: nodes.collect(),
            ran_ms: last.and_then(ran_ms),
            cpu_ms: end.map_or(0, |end| end.cpu_ms.0),
            peak_memory_bytes: end.map_or(0, |end| end.peak_memory_bytes),
            metrics,
            metrics_unknown,
        }
    }
}

/// How long it ran, or has run; none if it never started.
fn ran_ms(attempt: &Attempt) -> Option<u64> {
    let started = attempt.all_started_at()?;
    let end = attempt.end.as_ref().map_or_else(now, |end| end.at);
    Some(end.since(started).0)
}
