//! What a person asked for, in the form in which it was asked.

use types::{ExperimentSpec, Origin, ResourceRequest, SourceTreeRef};

use crate::environment::environment_view;
use crate::view::{OriginView, ResourcesView, SourceView, SubmitRequest};

pub(crate) fn source_view(source: &SourceTreeRef) -> SourceView {
    SourceView {
        tree: source.tree.to_string(),
        files: source.files,
        bytes: source.bytes,
        revision: source.revision.clone(),
        remote: source.remote.clone(),
    }
}

pub(crate) fn resources_view(resources: &ResourceRequest) -> ResourcesView {
    ResourcesView {
        cpu_milli: Some(resources.cpu_milli),
        memory_bytes: Some(resources.memory_bytes),
        gpu_milli: Some(resources.gpu_milli),
        vram_bytes: Some(resources.vram_bytes),
        disk_bytes: Some(resources.disk_bytes),
        gpu_models: resources.gpu_models.clone(),
        constraints: resources
            .constraints
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        nodes: Some(resources.nodes),
        exclusive: resources.exclusive,
    }
}

pub(crate) fn origin_view(origin: Origin) -> OriginView {
    let (how, experiment) = match origin {
        Origin::Clone(id) => ("clone", id),
        Origin::Rerun(id) => ("rerun", id),
    };
    OriginView {
        how: how.to_owned(),
        experiment: experiment.to_string(),
    }
}

/// The request that asks for just this. What was learned, and nodes by their ids are no part of requests.
pub(crate) fn request_of(spec: &ExperimentSpec) -> SubmitRequest {
    let policy = &spec.policy;
    let rule = policy.stop_rule.as_ref();
    SubmitRequest {
        name: spec.name.clone(),
        command: spec.command.clone(),
        source: spec.source.as_ref().map(source_view),
        environment: environment_view(&spec.environment),
        working_directory: spec.working_directory.clone(),
        variables: spec.variables.clone(),
        parameters: spec.parameters.clone(),
        resources: resources_view(&spec.resources),
        queue: Some(spec.queue.to_string()),
        priority: policy.priority,
        retries_node_lost: Some(policy.retries_node_lost),
        retries_failed: Some(policy.retries_failed),
        time_limit_ms: Some(policy.time_limit_ms.0),
        lease_ms: Some(policy.lease_ms.0),
        stop_grace_ms: Some(policy.stop_grace_ms.0),
        prefer_nodes: Vec::new(),
        checkpoint_directory: policy.checkpoint_directory.clone(),
        vram_overuse: Some(policy.overuse.to_string()),
        stop_when: rule.map(ToString::to_string),
        outputs: spec.outputs.paths.clone(),
        output_max_bytes: Some(spec.outputs.max_bytes),
        fail_if_impossible: false,
    }
}
