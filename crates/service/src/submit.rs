//! Submit, stop, move.

use std::time::Duration;

use state_machine::{Command, MoveExperiment, Outcome, StopExperiment, SubmitExperiment};
use types::{
    Author, BlobHash, DurationMs, ExperimentId, ExperimentSpec, LogIndex, NodeId, Outputs, Policy,
    QueueName, RequestId, ResourceRequest, Role, SourceTreeRef, validate_tree_path,
};

use crate::author::Caller;
use crate::call::{Reply, Request};
use crate::environment::{environment_of, parse_spec};
use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, view_now};
use crate::places::unknown_places;
use crate::view::{Answer, ExperimentSummary, ResourcesView, SubmitReply, SubmitRequest};

/// Longest lease that a submitter gets: a machine that is lost late in the evening is given up the next day.
const LONGEST_LEASE: DurationMs = DurationMs::from_secs(24 * 3_600);
/// Longest wait for copies of a source tree on other storage nodes.
pub(crate) const REPLICATION_PATIENCE: Duration = Duration::from_secs(600);

impl Handle {
    /// Puts an experiment into the queue; durable on a majority when it returns.
    ///
    /// # Errors
    /// The request makes no sense, its blobs are missing, or no majority answers.
    pub async fn submit(
        &self,
        caller: &Caller,
        request: SubmitRequest,
        idempotency_key: Option<&str>,
    ) -> Result<SubmitReply, ServiceError> {
        if let Some(source) = &request.source {
            let tree = source
                .tree
                .parse()
                .map_err(|error: types::IdError| invalid(&error.to_string()))?;
            self.secure_tree(tree, REPLICATION_PATIENCE).await?;
        }
        if let Some(environment) = &request.environment {
            let spec = parse_spec(&environment.spec)?;
            self.secure_environment(spec, REPLICATION_PATIENCE).await?;
        }
        match self
            .call(caller, Request::Submit(Box::new(request)), idempotency_key)
            .await?
        {
            Reply::Submit(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for the end of an experiment.
    ///
    /// # Errors
    /// It is unknown, over already, or somebody else's.
    pub async fn stop(
        &self,
        caller: &Caller,
        id: &str,
        key: Option<&str>,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        let key = key.map(|key| format!("stop {id} {key}"));
        match self
            .call(caller, Request::Stop(id.to_owned()), key.as_deref())
            .await?
        {
            Reply::Summary(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// Moves a waiting experiment to another queue.
    ///
    /// # Errors
    /// It is unknown or does not wait, or there is no such queue.
    pub async fn move_experiment(
        &self,
        caller: &Caller,
        id: &str,
        queue: &str,
        key: Option<&str>,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        let key = key.map(|key| format!("move {id} {queue} {key}"));
        let request = Request::Move {
            id: id.to_owned(),
            queue: queue.to_owned(),
        };
        match self.call(caller, request, key.as_deref()).await? {
            Reply::Summary(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn execute_submit(
        &self,
        author: &Author,
        request_id: RequestId,
        request: SubmitRequest,
    ) -> Result<SubmitReply, ServiceError> {
        let fail_if_impossible = request.fail_if_impossible;
        let (spec, learned) = self.spec_for(request)?;
        let name = spec.name.clone();
        let prospects = self.prospects(request_id, &spec.resources, fail_if_impossible);
        let mut warnings = prospects.await?;
        warnings.extend(unknown_places(&spec));
        let command = Command::SubmitExperiment(Box::new(SubmitExperiment { spec }));
        let (index, outcome) = self.propose(author, Some(request_id), command).await?;
        let Outcome::Submitted(id) = outcome else {
            return Err(key_reused());
        };
        Ok(SubmitReply {
            id: id.to_string(),
            name,
            index: index.0,
            learned,
            warnings,
        })
    }

    /// The nodes that a person would like.
    pub(crate) fn preferred(&self, texts: &[String]) -> Result<Vec<NodeId>, ServiceError> {
        let state = self.inner.consensus.state();
        let nodes = texts.iter().map(|text| {
            let found = state.resolve_node(text);
            found.map_err(|error| invalid(&error.to_string()))
        });
        nodes.collect()
    }

    pub(crate) async fn execute_stop(
        &self,
        author: &Author,
        request_id: RequestId,
        text: &str,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        let id = self.resolve_for_stop(text).await?;
        self.refuse_foreign(author, id)?;
        let command = Command::StopExperiment(StopExperiment { experiment: id });
        let (index, _) = self.propose(author, Some(request_id), command).await?;
        self.summary_at(id, index)
    }

    pub(crate) async fn execute_move(
        &self,
        author: &Author,
        request_id: RequestId,
        text: &str,
        queue: &str,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        let queue: QueueName = queue
            .parse()
            .map_err(|error: types::IdError| invalid(&error.to_string()))?;
        self.freshen(crate::ReadOptions::default()).await?;
        let id = self.resolve(text)?;
        self.refuse_foreign(author, id)?;
        let command = Command::MoveExperiment(MoveExperiment {
            experiment: id,
            queue,
        });
        let (index, _) = self.propose(author, Some(request_id), command).await?;
        self.summary_at(id, index)
    }

    /// Whether the request has an outcome already, as far as a majority knows.
    pub(crate) async fn has_answered(&self, request: RequestId) -> Result<bool, ServiceError> {
        self.freshen(crate::ReadOptions::default()).await?;
        let state = self.inner.consensus.state();
        Ok(state.outcome_of(&request).is_some())
    }

    /// A member steers own experiments only; `apply` would refuse the rest too, by an entry of the log.
    pub(crate) fn refuse_foreign(
        &self,
        author: &Author,
        id: ExperimentId,
    ) -> Result<(), ServiceError> {
        let state = self.inner.consensus.state();
        let owner = state
            .experiment(id)
            .map(|experiment| &experiment.author.user);
        if author.role == Role::Admin || owner.is_none_or(|owner| *owner == author.user) {
            return Ok(());
        }
        let message = format!("{id} is another user's: a member changes own experiments only");
        let error = ServiceError::new(ErrorKind::Forbidden, "not-allowed", message);
        Err(error.hint("ask its owner or an administrator"))
    }

    /// Whether the nodes could run it when empty; else what is missing, in words.
    pub(crate) fn possible_ever(&self, request: &ResourceRequest) -> Result<(), String> {
        let offers = scheduler::offers(&self.inner.consensus.state(), &self.view(), view_now());
        if offers.is_empty() || scheduler::could_ever_run(&offers, request) {
            return Ok(());
        }
        let large = |offer: &&scheduler::NodeOffer| scheduler::could_ever_fit(offer, request);
        let large = offers.iter().filter(large).count();
        let has = match request.nodes {
            1 => format!("none of {} machines has that", offers.len()),
            _ => format!(
                "{large} of {} machines could run a part of it",
                offers.len()
            ),
        };
        Err(format!("asked for {request}; {has}"))
    }

    /// A name that several live experiments carry is refused: the wrong one must not die.
    async fn resolve_for_stop(&self, text: &str) -> Result<ExperimentId, ServiceError> {
        self.freshen(crate::ReadOptions::default()).await?;
        let state = self.inner.consensus.state();
        let live: Vec<_> = state
            .named(text)
            .filter(|experiment| experiment.is_live())
            .map(|one| one.id)
            .collect();
        match live.as_slice() {
            [only] => Ok(*only),
            [] => self.resolve(text),
            several => {
                let ids: Vec<_> = several.iter().map(ToString::to_string).collect();
                let message = format!(
                    "{} live experiments are named {text:?}: {}",
                    several.len(),
                    ids.join(", ")
                );
                Err(ServiceError::new(ErrorKind::Conflict, "ambiguous", message)
                    .hint("stop it by its id"))
            }
        }
    }

    pub(crate) fn summary_at(
        &self,
        id: ExperimentId,
        index: LogIndex,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        let state = self.inner.consensus.state();
        let experiment = state.experiment(id).ok_or_else(|| {
            ServiceError::new(
                ErrorKind::NotFound,
                "unknown-experiment",
                format!("{id} is in the archive already"),
            )
        })?;
        let body = self.summarise(&state, experiment);
        Ok(Answer {
            index: index.0,
            age_ms: 0,
            body,
        })
    }
}

/// Defaults and checks that need no state.
pub(crate) fn spec_of(request: SubmitRequest) -> Result<ExperimentSpec, ServiceError> {
    let policy = policy_of(&request)?;
    let outputs = Outputs {
        paths: request.outputs,
        max_bytes: request.output_max_bytes.unwrap_or(0),
    };
    let outputs = outputs.checked();
    let name = if request.name.is_empty() {
        name_from(&request.command)
    } else {
        request.name
    };
    if !request.working_directory.is_empty() {
        validate_tree_path(&request.working_directory)
            .map_err(|error| invalid(&error.to_string()))?;
    }
    let queue = match request.queue {
        Some(queue) => queue
            .parse()
            .map_err(|error: types::IdError| invalid(&error.to_string()))?,
        None => QueueName::default(),
    };
    let source = request.source.map(|source| {
        let tree: BlobHash = source
            .tree
            .parse()
            .map_err(|error: types::IdError| invalid(&error.to_string()))?;
        let (files, bytes) = (source.files, source.bytes);
        Ok(SourceTreeRef {
            tree,
            files,
            bytes,
            revision: source.revision,
            remote: source.remote,
        })
    });
    let good_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.as_bytes()[0].is_ascii_digit()
    };
    if let Some((bad, _)) = request
        .variables
        .iter()
        .find(|(name, value)| !good_name(name) || value.contains('\0'))
    {
        return Err(invalid(&format!(
            "{bad:?} cannot be a variable: names have letters, digits and _, values no NUL"
        )));
    }
    if request.command.iter().any(|word| word.contains('\0')) {
        return Err(invalid("a word of the command holds a NUL byte"));
    }
    Ok(ExperimentSpec {
        name,
        command: request.command,
        source: source.transpose()?,
        working_directory: request.working_directory,
        variables: request.variables,
        environment: environment_of(request.environment)?,
        parameters: request.parameters,
        resources: resources_of(request.resources)?,
        learned: Vec::new(),
        prefer_nodes: Vec::new(),
        queue,
        policy,
        outputs: outputs.map_err(|error| invalid(&error.to_string()))?,
        origin: None,
    })
}

fn policy_of(request: &SubmitRequest) -> Result<Policy, ServiceError> {
    let default = Policy::default();
    if let Some(lease) = request.lease_ms.filter(|lease| *lease > LONGEST_LEASE.0) {
        return Err(invalid(&format!(
            "a lease of {} is too long: at most {LONGEST_LEASE}, since for so long a lost machine's work waits",
            DurationMs(lease)
        )));
    }
    let overuse = request.vram_overuse.as_deref();
    let overuse = overuse.map_or(Ok(default.overuse), str::parse);
    let stop_rule = request.stop_when.as_ref().map(|text| {
        text.parse()
            .map_err(|error: types::StopRuleError| invalid(&error.to_string()))
    });
    Ok(Policy {
        overuse: overuse.map_err(|error| invalid(&error.to_string()))?,
        retries_node_lost: request
            .retries_node_lost
            .unwrap_or(default.retries_node_lost),
        retries_failed: request.retries_failed.unwrap_or(default.retries_failed),
        time_limit_ms: DurationMs(request.time_limit_ms.unwrap_or(0)),
        lease_ms: DurationMs(request.lease_ms.unwrap_or(0)),
        stop_grace_ms: request
            .stop_grace_ms
            .map_or(default.stop_grace_ms, DurationMs),
        priority: request.priority,
        checkpoint_directory: request.checkpoint_directory.clone(),
        stop_rule: stop_rule.transpose()?,
        ..default
    })
}

fn resources_of(view: ResourcesView) -> Result<ResourceRequest, ServiceError> {
    let default = ResourceRequest::default();
    let constraints = view.constraints.iter().map(|constraint| {
        let pair = constraint
            .split_once('=')
            .filter(|(name, _)| !name.is_empty());
        pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
            .ok_or_else(|| {
                invalid(&format!(
                    "{constraint:?} is no constraint: write name=value, a label of the node"
                ))
            })
    });
    Ok(ResourceRequest {
        cpu_milli: view.cpu_milli.unwrap_or(default.cpu_milli),
        memory_bytes: view.memory_bytes.unwrap_or(default.memory_bytes),
        gpu_milli: view.gpu_milli.unwrap_or(0),
        vram_bytes: view.vram_bytes.unwrap_or(0),
        disk_bytes: view.disk_bytes.unwrap_or(0),
        constraints: constraints.collect::<Result<_, _>>()?,
        gpu_models: view.gpu_models,
        nodes: view.nodes.unwrap_or(1),
        exclusive: view.exclusive,
    })
}

/// `python3 train.py --lr 1` is named `train.py`; the text of `sh -c` is no file.
fn name_from(command: &[String]) -> String {
    let file_name = |word: &String| {
        word.rsplit('/')
            .next()
            .unwrap_or_default()
            .chars()
            .take(64)
            .collect::<String>()
    };
    let script = command.iter().skip(1).find(|word| {
        !word.starts_with('-') && word.contains('.') && !word.contains(char::is_whitespace)
    });
    let name = script
        .or(command.first())
        .map(file_name)
        .unwrap_or_default();
    name.chars().filter(|c| !c.is_control()).collect()
}

/// A repeat of another request under the same name.
pub(crate) fn key_reused() -> ServiceError {
    let message = "this idempotency key named another kind of request before";
    ServiceError::new(ErrorKind::Conflict, "key-reused", message)
}

pub(crate) fn invalid(message: &str) -> ServiceError {
    ServiceError::new(ErrorKind::Invalid, "invalid", message)
}

pub(crate) fn unexpected(reply: &Reply) -> ServiceError {
    ServiceError::new(
        ErrorKind::Internal,
        "bad-answer",
        format!("the leader answered {reply:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_from_the_script_or_else_from_the_program() {
        let name = |words: &[&str]| {
            name_from(
                &words
                    .iter()
                    .map(|word| (*word).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            name(&["python3", "-u", "src/train.py", "--lr", "0.1"]),
            "train.py"
        );
        assert_eq!(name(&["sh", "-c", "cat /etc/a.conf; done"]), "sh");
        assert_eq!(name(&["/usr/bin/true"]), "true");
    }
}

/// The specification that a request asks for.
#[cfg(fuzzing)]
pub(crate) fn fuzz(request: SubmitRequest) -> Result<ExperimentSpec, ServiceError> {
    spec_of(request)
}
