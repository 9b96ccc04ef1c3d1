//! An experiment once more: with changes, or exactly as it was.

use scheduler::NODE_LABEL;
use serde::{Deserialize, Serialize};
use state_machine::{Command, Experiment, Outcome, SubmitExperiment};
use types::{Author, Environment, ExperimentId, ExperimentSpec, Origin, RequestId, TreeEntryKind};

use crate::author::Caller;
use crate::blobs::tree_blobs;
use crate::call::{ReadOptions, Reply, Request};
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::places::{unknown_places, useless_parameters};
use crate::spec_views::request_of;
use crate::submit::{REPLICATION_PATIENCE, key_reused, spec_of, unexpected};
use crate::view::{CloneRequest, RerunRequest, ResourcesView, SubmitReply};

/// Files of a source that are named when they are gone.
const NAMED_FILES: usize = 3;

/// In what way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Again {
    Clone(Box<CloneRequest>),
    Rerun(RerunRequest),
}

impl Handle {
    /// Submits an experiment that is another with changes; its source is not sent again.
    ///
    /// # Errors
    /// Nothing or several fit the text, its source is gone, the changes make no sense, or no majority answers.
    pub async fn clone_experiment(
        &self,
        caller: &Caller,
        id: &str,
        request: CloneRequest,
        key: Option<&str>,
    ) -> Result<SubmitReply, ServiceError> {
        let key = key.map(|key| format!("clone {id} {key}"));
        let again = Again::Clone(Box::new(request));
        self.again(caller, id, again, key.as_deref()).await
    }

    /// Submits an experiment exactly as it was.
    ///
    /// # Errors
    /// Nothing or several fit the text, its source is gone, there is no such node, or no majority answers.
    pub async fn rerun(
        &self,
        caller: &Caller,
        id: &str,
        request: RerunRequest,
        key: Option<&str>,
    ) -> Result<SubmitReply, ServiceError> {
        let key = key.map(|key| format!("rerun {id} {key}"));
        let again = Again::Rerun(request);
        self.again(caller, id, again, key.as_deref()).await
    }

    async fn again(
        &self,
        caller: &Caller,
        id: &str,
        again: Again,
        key: Option<&str>,
    ) -> Result<SubmitReply, ServiceError> {
        let mut request = Request::Again(id.to_owned(), again);
        request.check_role(caller.role)?;
        let original = self.record(caller, id, ReadOptions::default()).await?;
        self.secure_code_of(&original).await?;
        if let Request::Again(id, _) = &mut request {
            // By its whole id: a name may be another's by then.
            *id = original.id.to_string();
        }
        match self.call(caller, request, key).await? {
            Reply::Submit(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes sure that what it ran is still there and stored as that of a new one would be, or says what is gone.
    async fn secure_code_of(&self, original: &Experiment) -> Result<(), ServiceError> {
        let spec = &original.spec;
        if let Environment::Locked(lock) = &spec.environment {
            let secured = self.secure_environment(lock.spec, REPLICATION_PATIENCE);
            secured.await.map_err(|error| match error.code.as_str() {
                "blobs-missing" | "unknown-blob" => gone(original, "the list of its packages"),
                _ => error,
            })?;
        }
        let Some(source) = &spec.source else {
            return Ok(());
        };
        let tree = match self.source_tree(source.tree, &[]).await {
            Ok(tree) => tree,
            Err(error) if error.code == "blobs-missing" => {
                return Err(gone(original, "the list of its files"));
            }
            Err(error) => return Err(error),
        };
        let hashes = tree_blobs(&tree);
        if let Err(error) = self.fetch_blobs(&hashes, &[]).await {
            tracing::debug!(%error, "no member has all blobs of a source tree");
        }
        let missing = self.blob_store().missing(&hashes);
        if !missing.is_empty() {
            let types::SourceTree::V1 { entries, .. } = &tree;
            let names = entries.iter().filter_map(|entry| match &entry.kind {
                TreeEntryKind::File { hash, .. } if missing.contains(hash) => Some(&entry.path),
                TreeEntryKind::File { .. }
                | TreeEntryKind::Symlink { .. }
                | TreeEntryKind::Directory => None,
            });
            let names: Vec<&str> = names.map(String::as_str).collect();
            return Err(gone(original, &listed(&names)));
        }
        self.secure_tree(source.tree, REPLICATION_PATIENCE).await
    }

    pub(crate) async fn execute_again(
        &self,
        author: &Author,
        request_id: RequestId,
        id: &str,
        again: Again,
    ) -> Result<SubmitReply, ServiceError> {
        self.freshen(ReadOptions::default()).await?;
        let original = self.find(id).await?;
        let (spec, fail_if_impossible, mut warnings) = match again {
            Again::Clone(changes) => {
                let fail = changes.fail_if_impossible;
                let preferred = self.preferred(&changes.prefer_nodes)?;
                let mut spec = cloned(&original.spec, original.id, *changes)?;
                if !preferred.is_empty() {
                    spec.prefer_nodes = preferred;
                }
                let mut warnings = unknown_places(&spec);
                warnings.extend(useless_parameters(&original.spec, &spec));
                (spec, fail, warnings)
            }
            Again::Rerun(wish) => {
                let spec = self.rerun_spec(&original, wish.node.as_deref())?;
                (spec, wish.fail_if_impossible, Vec::new())
            }
        };
        let name = spec.name.clone();
        let prospects = self.prospects(request_id, &spec.resources, fail_if_impossible);
        warnings.extend(prospects.await?);
        let command = Command::SubmitExperiment(Box::new(SubmitExperiment { spec }));
        let (index, outcome) = self.propose(author, Some(request_id), command).await?;
        let Outcome::Submitted(id) = outcome else {
            return Err(key_reused());
        };
        Ok(SubmitReply {
            id: id.to_string(),
            name,
            index: index.0,
            learned: Vec::new(),
            warnings,
        })
    }

    fn rerun_spec(
        &self,
        original: &Experiment,
        node: Option<&str>,
    ) -> Result<ExperimentSpec, ServiceError> {
        let mut spec = original.spec.as_ref().clone();
        spec.origin = Some(Origin::Rerun(original.id));
        let Some(text) = node else {
            return Ok(spec);
        };
        if spec.resources.nodes > 1 {
            let message = format!(
                "{} runs on {} nodes at the same time: one cannot be all of them",
                original.id, spec.resources.nodes
            );
            let error = ServiceError::new(ErrorKind::Invalid, "several-nodes", message);
            return Err(
                error.hint("leave out --on, or clone it with --nodes 1 --constraint node=NAME")
            );
        }
        let state = self.inner.consensus.state();
        let found = state.resolve_node(text);
        let node = found.map_err(|error| {
            ServiceError::new(ErrorKind::NotFound, "unknown-node", error.to_string())
        })?;
        let name = state.node(&node).map(|record| record.facts.name.clone());
        let constraints = &mut spec.resources.constraints;
        // That of an earlier rerun would keep it from everywhere.
        constraints.retain(|(label, _)| label != NODE_LABEL);
        constraints.extend(name.map(|name| (NODE_LABEL.to_owned(), name)));
        Ok(spec)
    }
}

/// The original with the changes, checked as a submission is.
fn cloned(
    original: &ExperimentSpec,
    id: ExperimentId,
    changes: CloneRequest,
) -> Result<ExperimentSpec, ServiceError> {
    let mut request = request_of(original);
    request.name = changes.name.unwrap_or(request.name);
    if !changes.command.is_empty() {
        request.command = changes.command;
    }
    replace(&mut request.variables, changes.variables);
    replace(&mut request.parameters, changes.parameters);
    request.resources = changed(request.resources, changes.resources);
    request.queue = changes.queue.or(request.queue);
    request.priority = changes.priority.unwrap_or(request.priority);
    request.retries_node_lost = changes.retries_node_lost.or(request.retries_node_lost);
    request.retries_failed = changes.retries_failed.or(request.retries_failed);
    request.time_limit_ms = changes.time_limit_ms.or(request.time_limit_ms);
    request.lease_ms = changes.lease_ms.or(request.lease_ms);
    request.checkpoint_directory = changes
        .checkpoint_directory
        .unwrap_or(request.checkpoint_directory);
    request.stop_when = changes.stop_when.or(request.stop_when);
    request.vram_overuse = changes.vram_overuse.or(request.vram_overuse);
    let spec = spec_of(request)?;
    let mut policy = spec.policy;
    policy.expected_ms = original.policy.expected_ms;
    Ok(ExperimentSpec {
        environment: original.environment.clone(),
        prefer_nodes: original.prefer_nodes.clone(),
        origin: Some(Origin::Clone(id)),
        policy,
        ..spec
    })
}

/// Gives those that are there already another value and adds the others.
fn replace(pairs: &mut Vec<(String, String)>, changes: Vec<(String, String)>) {
    for (name, value) in changes {
        match pairs.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => pairs.push((name, value)),
        }
    }
}

fn changed(old: ResourcesView, new: ResourcesView) -> ResourcesView {
    let list = |new: Vec<String>, old| if new.is_empty() { old } else { new };
    ResourcesView {
        cpu_milli: new.cpu_milli.or(old.cpu_milli),
        memory_bytes: new.memory_bytes.or(old.memory_bytes),
        gpu_milli: new.gpu_milli.or(old.gpu_milli),
        vram_bytes: new.vram_bytes.or(old.vram_bytes),
        disk_bytes: new.disk_bytes.or(old.disk_bytes),
        gpu_models: list(new.gpu_models, old.gpu_models),
        constraints: list(new.constraints, old.constraints),
        nodes: new.nodes.or(old.nodes),
        exclusive: new.exclusive || old.exclusive,
    }
}

/// `a, b, c and 4 more files`.
fn listed(names: &[&str]) -> String {
    let first = names[..names.len().min(NAMED_FILES)].join(", ");
    match names.len().saturating_sub(NAMED_FILES) {
        0 => format!("{first} of its code"),
        more => format!("{first} and {more} more files of its code"),
    }
}

fn gone(original: &Experiment, what: &str) -> ServiceError {
    let id = original.id;
    let message =
        format!("{what} cannot be had: no machine that answers has it, so {id} cannot run again");
    let source = original.spec.source.as_ref();
    let revision = source.map_or("", |source| source.revision.as_str());
    let hint = match revision {
        "" => "start the machines that are away (`muster nodes`), or submit it again from its directory".to_owned(),
        commit => format!(
            "start the machines that are away (`muster nodes`), or submit it again from a checkout of commit {commit}"
        ),
    };
    ServiceError::new(ErrorKind::Unavailable, "code-gone", message).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_named_and_the_rest_counted() {
        assert_eq!(listed(&["a"]), "a of its code");
        assert_eq!(
            listed(&["a", "b", "c", "d", "e"]),
            "a, b, c and 2 more files of its code"
        );
    }
}
