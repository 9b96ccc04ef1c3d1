//! Groups of experiments: made by a sweep, shown as a table, ended as one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use state_machine::{
    Attempt, ClusterState, Command, Experiment, ExperimentPhase, Group, MAX_GROUP_MEMBERS, Outcome,
    StopGroup, SubmitGroup,
};
use types::{Author, GroupId, RequestId, Role};

use crate::author::Caller;
use crate::call::{ReadOptions, Reply, Request};
use crate::environment::parse_spec;
use crate::error::{ErrorKind, ServiceError};
use crate::experiment_views::{node_ref, reason, state_word};
use crate::handle::Handle;
use crate::metrics::Metrics;
use crate::places::unknown_places;
use crate::submit::{REPLICATION_PATIENCE, invalid, unexpected};
use crate::sweep::{Choice, choose, parse};
use crate::view::{
    Answer, GroupMemberView, GroupReply, GroupRequest, GroupSummary, GroupView, StateCount,
};

/// Groups in one list, newest first: a screen or two.
const MAX_GROUPS: usize = 100;
/// What stands for the state of an experiment that has left the hot state.
const ARCHIVED: &str = "archived";

/// What a person can ask of groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum GroupAsk {
    Submit(Box<GroupRequest>),
    Stop(String),
    Show(String, ReadOptions),
    List(ReadOptions),
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum GroupAnswer {
    Submitted(GroupReply),
    Stopped(Answer<GroupSummary>),
    Shown(Answer<GroupView>),
    List(Answer<Vec<GroupSummary>>),
}

impl GroupAsk {
    pub(crate) fn is_read(&self) -> bool {
        match self {
            Self::Submit(_) | Self::Stop(_) => false,
            Self::Show(..) | Self::List(_) => true,
        }
    }

    /// Least role that may ask it.
    pub(crate) fn needed_role(&self) -> Role {
        if self.is_read() {
            Role::Viewer
        } else {
            Role::Member
        }
    }
}

impl Handle {
    /// Puts all experiments of a sweep into the queue, or none; durable on a majority when it returns.
    ///
    /// # Errors
    /// The sweep or the experiment makes no sense, its blobs are missing, or no majority answers.
    pub async fn submit_group(
        &self,
        caller: &Caller,
        request: GroupRequest,
        idempotency_key: Option<&str>,
    ) -> Result<GroupReply, ServiceError> {
        // Before anything is copied.
        parse(&request.sweep).map_err(|error| invalid(&error.to_string()))?;
        if let Some(source) = &request.experiment.source {
            let tree = source.tree.parse();
            let tree = tree.map_err(|error: types::IdError| invalid(&error.to_string()))?;
            self.secure_tree(tree, REPLICATION_PATIENCE).await?;
        }
        if let Some(environment) = &request.experiment.environment {
            let spec = parse_spec(&environment.spec)?;
            self.secure_environment(spec, REPLICATION_PATIENCE).await?;
        }
        let ask = GroupAsk::Submit(Box::new(request));
        match self.ask_group(caller, ask, idempotency_key).await? {
            GroupAnswer::Submitted(reply) => Ok(reply),
            other => Err(unexpected(&Reply::Group(Box::new(other)))),
        }
    }

    /// Lists the groups of which something is left, newest first.
    ///
    /// # Errors
    /// No majority answers (unless a stale answer will do).
    pub async fn groups(
        &self,
        caller: &Caller,
        read: ReadOptions,
    ) -> Result<Answer<Vec<GroupSummary>>, ServiceError> {
        let ask = GroupAsk::List(read);
        match self.ask_group(caller, ask, None).await? {
            GroupAnswer::List(answer) => Ok(answer),
            other => Err(unexpected(&Reply::Group(Box::new(other)))),
        }
    }

    /// A group with its experiments, their parameters and their last metrics.
    ///
    /// # Errors
    /// There is no such group, or no majority answers.
    pub async fn group(
        &self,
        caller: &Caller,
        id: &str,
        read: ReadOptions,
    ) -> Result<Answer<GroupView>, ServiceError> {
        let ask = GroupAsk::Show(id.to_owned(), read);
        match self.ask_group(caller, ask, None).await? {
            GroupAnswer::Shown(answer) => Ok(answer),
            other => Err(unexpected(&Reply::Group(Box::new(other)))),
        }
    }

    /// Asks for the end of all experiments of a group that are not over.
    ///
    /// # Errors
    /// There is no such group, all of it is over already, or it is somebody else's.
    pub async fn stop_group(
        &self,
        caller: &Caller,
        id: &str,
        key: Option<&str>,
    ) -> Result<Answer<GroupSummary>, ServiceError> {
        let key = key.map(|key| format!("stop {id} {key}"));
        let ask = GroupAsk::Stop(id.to_owned());
        match self.ask_group(caller, ask, key.as_deref()).await? {
            GroupAnswer::Stopped(answer) => Ok(answer),
            other => Err(unexpected(&Reply::Group(Box::new(other)))),
        }
    }

    async fn ask_group(
        &self,
        caller: &Caller,
        ask: GroupAsk,
        key: Option<&str>,
    ) -> Result<GroupAnswer, ServiceError> {
        match self
            .call(caller, Request::Group(Box::new(ask)), key)
            .await?
        {
            Reply::Group(answer) => Ok(*answer),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn execute_group(
        &self,
        author: &Author,
        request_id: RequestId,
        ask: GroupAsk,
    ) -> Result<GroupAnswer, ServiceError> {
        match ask {
            GroupAsk::Submit(request) => self
                .execute_submit_group(author, request_id, *request)
                .await
                .map(GroupAnswer::Submitted),
            GroupAsk::Stop(id) => self
                .execute_stop_group(author, request_id, &id)
                .await
                .map(GroupAnswer::Stopped),
            GroupAsk::Show(id, read) => self.read_group(&id, read).await.map(GroupAnswer::Shown),
            GroupAsk::List(read) => self.read_groups(read).await.map(GroupAnswer::List),
        }
    }

    async fn execute_submit_group(
        &self,
        author: &Author,
        request_id: RequestId,
        request: GroupRequest,
    ) -> Result<GroupReply, ServiceError> {
        let wrong = |error: crate::sweep::SweepError| invalid(&error.to_string());
        let parsed = parse(&request.sweep).map_err(wrong)?;
        let words: Vec<&str> = request.sweep.split_whitespace().collect();
        let mut sweep = words.join(" ");
        let choice = match (request.samples, request.seed) {
            (None, None) => Choice::Grid,
            (None, Some(_)) => {
                let error = invalid("a seed is for samples, and none were asked for");
                return Err(error.hint("say how many: --samples N; or leave --seed out"));
            }
            (Some(samples), seed) => {
                // 32 bits: people write it down.
                let seed = seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
                sweep.push_str(&format!(", {samples} samples of seed {seed}"));
                Choice::Random { samples, seed }
            }
        };
        let chosen = choose(&parsed, choice, MAX_GROUP_MEMBERS).map_err(wrong)?;
        let fail_if_impossible = request.experiment.fail_if_impossible;
        let (mut spec, learned) = self.spec_for(request.experiment)?;
        let mut warnings = self
            .prospects(request_id, &spec.resources, fail_if_impossible)
            .await?;
        let common = spec.parameters.len();
        let varied = chosen.names.iter().cloned();
        spec.parameters
            .extend(varied.map(|name| (name, String::new())));
        warnings.extend(unknown_places(&spec));
        spec.parameters.truncate(common);
        let command = SubmitGroup {
            spec,
            sweep,
            varied: chosen.names,
            values: chosen.rows,
        };
        let command = Command::SubmitGroup(Box::new(command));
        let (index, outcome) = self.propose(author, Some(request_id), command).await?;
        let Outcome::GroupSubmitted(id) = outcome else {
            return Err(crate::submit::key_reused());
        };
        let state = self.inner.consensus.state();
        let group = state
            .group(id)
            .ok_or_else(|| unknown_group(&id.to_string()))?;
        Ok(GroupReply {
            id: id.to_string(),
            name: group.name.clone(),
            index: index.0,
            sweep: group.sweep.clone(),
            experiments: group.members.iter().map(ToString::to_string).collect(),
            learned,
            warnings,
        })
    }

    async fn execute_stop_group(
        &self,
        author: &Author,
        request_id: RequestId,
        text: &str,
    ) -> Result<Answer<GroupSummary>, ServiceError> {
        self.freshen(ReadOptions::default()).await?;
        let state = self.inner.consensus.state();
        let group = find_group(&state, text)?;
        if author.role != Role::Admin && author.user != group.author.user {
            let message = format!("{} is another user's: a member stops own ones", group.id);
            let error = ServiceError::new(ErrorKind::Forbidden, "not-allowed", message);
            return Err(error.hint("ask its owner or an administrator"));
        }
        let command = Command::StopGroup(StopGroup { group: group.id });
        let (index, _) = self.propose(author, Some(request_id), command).await?;
        let state = self.inner.consensus.state();
        let body = state.group(group.id).map_or_else(
            || Err(unknown_group(text)),
            |group| Ok(summary(&state, group)),
        )?;
        Ok(Answer {
            index: index.0,
            age_ms: 0,
            body,
        })
    }

    async fn read_groups(
        &self,
        read: ReadOptions,
    ) -> Result<Answer<Vec<GroupSummary>>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        let state = self.inner.consensus.state();
        let mut groups: Vec<_> = state.groups().collect();
        groups.sort_by_key(|group| std::cmp::Reverse((group.submitted_at, group.id)));
        groups.truncate(MAX_GROUPS);
        Ok(Answer {
            index: state.applied().0,
            age_ms,
            body: groups.iter().map(|group| summary(&state, group)).collect(),
        })
    }

    async fn read_group(
        &self,
        text: &str,
        read: ReadOptions,
    ) -> Result<Answer<GroupView>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        let state = self.inner.consensus.state();
        let group = find_group(&state, text)?;
        let members = group.members.iter();
        let known: Vec<_> = members.map(|id| state.experiment(*id)).collect();
        let here: Vec<&Experiment> = known.iter().flatten().map(|one| one.as_ref()).collect();
        let mut metrics = self.last_metrics(&here).await.into_iter();
        let rows = (1..).zip(&group.members).zip(&known);
        let rows = rows.map(|((number, id), experiment)| match experiment {
            Some(experiment) => {
                let metrics = metrics.next().unwrap_or_default();
                member_view(&state, group, experiment, number, metrics)
            }
            None => GroupMemberView {
                number,
                id: id.to_string(),
                state: ARCHIVED.to_owned(),
                reason: format!("it ended long ago: muster show {id}"),
                node: None,
                parameters: Vec::new(),
                started_at: None,
                ended_at: None,
                metrics: Vec::new(),
                metrics_unknown: String::new(),
            },
        });
        Ok(Answer {
            index: state.applied().0,
            age_ms,
            body: GroupView {
                experiments: rows.collect(),
                summary: summary(&state, group),
            },
        })
    }
}

/// Finds a group by its id or a unique start of it.
pub(crate) fn find_group<'a>(
    state: &'a ClusterState,
    text: &str,
) -> Result<&'a Group, ServiceError> {
    if let Some(group) = text.parse().ok().and_then(|id: GroupId| state.group(id)) {
        return Ok(group);
    }
    let fits = |group: &&std::sync::Arc<Group>| group.id.to_string().starts_with(text);
    // `g-` alone is the start of all.
    let found: Vec<_> = state.groups().filter(fits).take(8).collect();
    match found.as_slice() {
        [only] if text.len() > 2 => Ok(only),
        [] => Err(unknown_group(text)),
        several => {
            let ids: Vec<String> = several.iter().map(|group| group.id.to_string()).collect();
            let message = format!(
                "{text:?} is the start of several groups ({}): write more of it",
                ids.join(", ")
            );
            Err(ServiceError::new(ErrorKind::Conflict, "ambiguous", message))
        }
    }
}

fn unknown_group(text: &str) -> ServiceError {
    let message = format!("there is no group {text:?} of which an experiment is left");
    ServiceError::new(ErrorKind::NotFound, "unknown-group", message).hint(
        "`muster ls --groups` lists them; the experiments of older ones are found by their ids",
    )
}

/// How many of its experiments are in each state, in the order of a life.
fn summary(state: &ClusterState, group: &Group) -> GroupSummary {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for id in &group.members {
        let word = state
            .experiment(*id)
            .map_or(ARCHIVED, |one| state_word(one));
        *counts.entry(word).or_default() += 1;
    }
    let order = [
        "queued", "placed", "running", "stopping", "finished", "failed", "stopped", ARCHIVED,
    ];
    let count = |word: &str| {
        let count = counts.get(word).copied()?;
        let state = word.to_owned();
        Some(StateCount { state, count })
    };
    GroupSummary {
        id: group.id.to_string(),
        name: group.name.clone(),
        sweep: group.sweep.clone(),
        user: group.author.user.clone(),
        submitted_at: group.submitted_at.0,
        states: order.into_iter().filter_map(count).collect(),
    }
}

fn member_view(
    state: &ClusterState,
    group: &Group,
    experiment: &Experiment,
    number: u64,
    (metrics, metrics_unknown): Metrics,
) -> GroupMemberView {
    let last = experiment.attempts.last();
    let rank = last.and_then(|attempt| attempt.ranks.first());
    let parameters = experiment.spec.parameters.iter();
    let varied = parameters.filter(|(name, _)| group.varied.contains(name));
    GroupMemberView {
        number,
        id: experiment.id.to_string(),
        state: state_word(experiment).to_owned(),
        reason: reason(state, experiment),
        node: rank.map(|rank| node_ref(state, &rank.placement.node)),
        parameters: varied.cloned().collect(),
        started_at: last.and_then(Attempt::all_started_at).map(|at| at.0),
        ended_at: match &experiment.phase {
            ExperimentPhase::Ended { at, .. } => Some(at.0),
            ExperimentPhase::Queued { .. } | ExperimentPhase::Active => None,
        },
        metrics,
        metrics_unknown,
    }
}
