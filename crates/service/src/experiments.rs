//! Experiments as people see them.

use state_machine::{
    Attempt, ClusterState, Experiment, ExperimentPhase, RankRecord, decode_archive,
};
use types::ExperimentId;

use crate::author::Caller;
use crate::call::{ReadOptions, Reply, Request};
use crate::environment::environment_view;
use crate::error::{ErrorKind, ServiceError};
use crate::experiment_views::{
    attempt_view, ledger_view, named_cause_view, node_ref, not_before, reason, state_word,
    with_names,
};
use crate::groups::find_group;
use crate::handle::{Handle, view_now};
use crate::overuse;
use crate::spec_views::{origin_view, resources_view, source_view};
use crate::submit::unexpected;
use crate::view::{
    Answer, ExperimentDetail, ExperimentFilter, ExperimentList, ExperimentSummary, NodeRefView,
    WhyNodeView, WhyView,
};

/// Experiments in one list unless told otherwise.
const DEFAULT_LIST: u64 = 100;
/// Most experiments in one list: an answer stays under 8 MiB.
const MAX_LIST: u64 = 5_000;

impl Handle {
    /// Lists experiments.
    ///
    /// # Errors
    /// No majority answers (unless a stale answer will do).
    pub async fn experiments(
        &self,
        caller: &Caller,
        filter: ExperimentFilter,
        read: ReadOptions,
    ) -> Result<Answer<ExperimentList>, ServiceError> {
        match self
            .call(caller, Request::Experiments(filter, read), None)
            .await?
        {
            Reply::Experiments(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// Shows one experiment.
    ///
    /// # Errors
    /// Nothing or several fit the text, or no majority answers.
    pub async fn experiment(
        &self,
        caller: &Caller,
        id: &str,
        read: ReadOptions,
    ) -> Result<Answer<ExperimentDetail>, ServiceError> {
        match self
            .call(caller, Request::Experiment(id.to_owned(), read), None)
            .await?
        {
            Reply::Experiment(answer) => Ok(*answer),
            other => Err(unexpected(&other)),
        }
    }

    /// Explains where an experiment stands.
    ///
    /// # Errors
    /// Nothing or several fit the text, or no majority answers.
    pub async fn why(
        &self,
        caller: &Caller,
        id: &str,
        read: ReadOptions,
    ) -> Result<Answer<WhyView>, ServiceError> {
        match self
            .call(caller, Request::Why(id.to_owned(), read), None)
            .await?
        {
            Reply::Why(mut answer) => {
                answer.body.findings = self.live_findings(caller, &answer.body).await;
                Ok(answer)
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn resolve(&self, text: &str) -> Result<ExperimentId, ServiceError> {
        self.inner.consensus.state().resolve(text).map_err(|error| {
            let (kind, code) = match error {
                state_machine::ResolveError::Unknown { .. } => {
                    (ErrorKind::NotFound, "unknown-experiment")
                }
                state_machine::ResolveError::Ambiguous { .. } => (ErrorKind::Conflict, "ambiguous"),
            };
            ServiceError::new(kind, code, error.to_string())
        })
    }

    /// An experiment of the hot state, or by its whole id from the archive.
    pub(crate) async fn find(&self, text: &str) -> Result<Experiment, ServiceError> {
        let unresolved = match self.resolve(text) {
            Ok(id) => match self.inner.consensus.state().experiment(id) {
                Some(experiment) => return Ok(experiment.as_ref().clone()),
                None => ServiceError::new(
                    ErrorKind::NotFound,
                    "unknown-experiment",
                    format!("{id} is gone"),
                ),
            },
            Err(error) => error,
        };
        let Ok(id) = text.parse::<ExperimentId>() else {
            return Err(unresolved);
        };
        let storage = |error: String| ServiceError::new(ErrorKind::Internal, "archive", error);
        let file = self
            .inner
            .consensus
            .archived_experiment(id)
            .await
            .map_err(|error| storage(error.to_string()))?;
        let Some(file) = file else {
            return Err(unresolved);
        };
        match decode_archive(&file).map_err(|error| storage(error.to_string()))? {
            state_machine::ArchiveContent::Experiments { entries, .. } => {
                let found = entries.into_iter().find(|experiment| experiment.id == id);
                found
                    .map(|experiment| experiment.as_ref().clone())
                    .ok_or(unresolved)
            }
            state_machine::ArchiveContent::Ledger { .. } => {
                Err(storage("the index names a ledger file".to_owned()))
            }
        }
    }

    pub(crate) async fn read_record(
        &self,
        text: &str,
        read: ReadOptions,
    ) -> Result<Answer<Experiment>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        Ok(Answer {
            index: self.inner.consensus.state().applied().0,
            age_ms,
            body: self.find(text).await?,
        })
    }

    pub(crate) async fn read_experiments(
        &self,
        filter: &ExperimentFilter,
        read: ReadOptions,
    ) -> Result<Answer<ExperimentList>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        let state = self.inner.consensus.state();
        let group = match &filter.group {
            Some(text) => Some(find_group(&state, text)?.id),
            None => None,
        };
        let same = |wanted: &Option<String>, value: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == value)
        };
        let mut found: Vec<_> = state
            .experiments()
            .filter(|one| filter.all || one.is_live() || filter.state.is_some() || group.is_some())
            .filter(|one| {
                same(&filter.state, state_word(one)) && same(&filter.user, &one.author.user)
            })
            .filter(|one| {
                same(&filter.queue, one.queue.as_str()) && same(&filter.name, &one.spec.name)
            })
            .filter(|one| group.is_none() || one.group.map(|place| place.group) == group)
            .collect();
        found.sort_by_key(|one| std::cmp::Reverse(one.submitted_index));
        let limit = if filter.limit == 0 {
            DEFAULT_LIST
        } else {
            filter.limit.min(MAX_LIST)
        };
        let more = (found.len() as u64).saturating_sub(limit);
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let experiments = found
            .into_iter()
            .map(|one| self.summarise(&state, one))
            .collect();
        Ok(Answer {
            index: state.applied().0,
            age_ms,
            body: ExperimentList { experiments, more },
        })
    }

    pub(crate) async fn read_experiment(
        &self,
        text: &str,
        read: ReadOptions,
    ) -> Result<Answer<ExperimentDetail>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        let experiment = self.find(text).await?;
        let state = self.inner.consensus.state();
        let spec = &experiment.spec;
        let stop_rule = spec.policy.stop_rule.as_ref();
        let history = state
            .ledger()
            .filter(|entry| entry.experiment == Some(experiment.id))
            .map(|entry| ledger_view(&state, entry));
        let body = ExperimentDetail {
            summary: self.summarise(&state, &experiment),
            submitted_by: with_names(&state, &experiment.author.to_string()),
            command: spec.command.clone(),
            filled_command: spec.filled_command(),
            origin: spec.origin.map(origin_view),
            stop_when: stop_rule.map(ToString::to_string).unwrap_or_default(),
            outputs: spec.outputs.paths.clone(),
            working_directory: spec.working_directory.clone(),
            variables: spec.variables.clone(),
            parameters: spec.parameters.clone(),
            source: spec.source.as_ref().map(source_view),
            environment: environment_view(&spec.environment),
            resources: resources_view(&spec.resources),
            retries_node_lost: spec.policy.retries_node_lost,
            retries_failed: spec.policy.retries_failed,
            time_limit_ms: spec.policy.time_limit_ms.0,
            priority: experiment.priority,
            attempts: experiment
                .attempts
                .iter()
                .map(|attempt| attempt_view(&state, attempt))
                .collect(),
            cause: match &experiment.phase {
                ExperimentPhase::Ended { cause, .. } => Some(named_cause_view(&state, cause)),
                ExperimentPhase::Queued { .. } | ExperimentPhase::Active => None,
            },
            stop_requested_by: experiment
                .stop_requested
                .as_ref()
                .map(|stop| with_names(&state, &stop.by)),
            history: history.collect(),
        };
        Ok(Answer {
            index: state.applied().0,
            age_ms,
            body,
        })
    }

    pub(crate) async fn read_why(
        &self,
        text: &str,
        read: ReadOptions,
    ) -> Result<Answer<WhyView>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        let experiment = self.find(text).await?;
        let state = self.inner.consensus.state();
        let view = self.view();
        let mut body = WhyView {
            id: experiment.id.to_string(),
            state: state_word(&experiment).to_owned(),
            summary: reason(&state, &experiment),
            position: 0,
            rule: String::new(),
            estimate: String::new(),
            possible_ever: true,
            nodes: Vec::new(),
            warnings: experiment
                .current_attempt()
                .map_or_else(Vec::new, |attempt| overuse::of_attempt(&state, attempt)),
            cause: match &experiment.phase {
                ExperimentPhase::Ended { cause, .. } => Some(named_cause_view(&state, cause)),
                ExperimentPhase::Queued { .. } | ExperimentPhase::Active => None,
            },
            findings: Vec::new(),
        };
        if matches!(experiment.phase, ExperimentPhase::Queued { .. }) {
            let config = self.scheduler_config(&state);
            let explanation = scheduler::explain(&state, &view, view_now(), &experiment, &config);
            body.summary = with_names(&state, &explanation.summary);
            body.position = explanation.position as u64;
            body.rule = explanation.rule;
            body.estimate = explanation.estimate;
            body.possible_ever = explanation.possible_ever;
            let node = |node: scheduler::NodeExplanation| {
                let (verdict, reasons) = match node.verdict {
                    scheduler::Verdict::Fits => ("fits", Vec::new()),
                    scheduler::Verdict::Short(reasons) => ("short", reasons),
                    scheduler::Verdict::Impossible(reasons) => ("impossible", reasons),
                };
                let id = node.node.to_string();
                WhyNodeView {
                    node: NodeRefView {
                        id,
                        name: node.name,
                    },
                    verdict: verdict.to_owned(),
                    reasons,
                }
            };
            body.nodes = explanation.nodes.into_iter().map(node).collect();
        }
        Ok(Answer {
            index: state.applied().0,
            age_ms,
            body,
        })
    }

    pub(crate) fn summarise(
        &self,
        state: &ClusterState,
        experiment: &Experiment,
    ) -> ExperimentSummary {
        let last = experiment.attempts.last();
        let ranks = || last.into_iter().flat_map(|attempt| &attempt.ranks);
        let node = |rank: &RankRecord| node_ref(state, &rank.placement.node);
        ExperimentSummary {
            id: experiment.id.to_string(),
            name: experiment.spec.name.clone(),
            state: state_word(experiment).to_owned(),
            user: experiment.author.user.clone(),
            group: experiment.group.map(|place| place.group.to_string()),
            queue: experiment.queue.to_string(),
            node: ranks().next().map(node),
            nodes: ranks().map(node).collect(),
            submitted_at: experiment.submitted_at.0,
            started_at: last.and_then(Attempt::all_started_at).map(|at| at.0),
            ended_at: match &experiment.phase {
                ExperimentPhase::Ended { at, .. } => Some(at.0),
                ExperimentPhase::Queued { .. } | ExperimentPhase::Active => None,
            },
            attempts: u32::try_from(experiment.attempts.len()).unwrap_or(u32::MAX),
            reason: match &experiment.phase {
                ExperimentPhase::Queued { .. } => {
                    match (
                        not_before(state, experiment),
                        self.possible_ever(&experiment.spec.resources),
                    ) {
                        (Some(why), _) => why,
                        (None, Ok(())) => match last.and_then(|last| last.end.as_ref()) {
                            Some(end) => {
                                let cause = with_names(state, &end.cause.to_string());
                                format!("waits for free resources again: {cause}")
                            }
                            None => "waits for free resources".to_owned(),
                        },
                        (None, Err(_)) if experiment.spec.resources.nodes > 1 => {
                            "too few machines could ever run it".to_owned()
                        }
                        (None, Err(_)) => "no machine could ever run it".to_owned(),
                    }
                }
                ExperimentPhase::Active | ExperimentPhase::Ended { .. } => {
                    reason(state, experiment)
                }
            },
            resources: experiment.spec.resources.to_string(),
        }
    }
}
