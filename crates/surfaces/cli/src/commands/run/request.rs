//! The submission as it is sent.

use rest::wire::{EnvironmentView, ResourcesView, SourceView, SubmitRequest};

use super::arguments::{Arguments, Needs};
use crate::capture::Capture;
use crate::environment::CapturedEnvironment;

/// The submission of `arguments` with the captured code and packages.
pub(super) fn request(
    arguments: &Arguments,
    capture: Option<&Capture>,
    environment: Option<&CapturedEnvironment>,
) -> SubmitRequest {
    SubmitRequest {
        name: arguments.name.clone().unwrap_or_default(),
        command: arguments.command.clone(),
        source: capture.map(source),
        environment: environment.map(|environment| EnvironmentView {
            spec: environment.blob.hash.to_string(),
            summary: environment.summary.clone(),
        }),
        working_directory: capture
            .map(|capture| capture.working_directory.clone())
            .unwrap_or_default(),
        variables: arguments.variables.clone(),
        parameters: Vec::new(), // Also out of a file: filled in by the caller.
        resources: resources(&arguments.needs),
        queue: arguments.queue.clone(),
        priority: arguments.priority,
        retries_node_lost: arguments.retries_node_lost,
        retries_failed: arguments.retries,
        time_limit_ms: arguments.time.map(|time| time.0),
        lease_ms: arguments.lease.map(|lease| lease.0),
        stop_grace_ms: None,
        prefer_nodes: arguments.needs.prefer_nodes.clone(),
        checkpoint_directory: arguments.checkpoint_directory.clone(),
        vram_overuse: arguments.vram_overuse.clone(),
        stop_when: arguments.stop_when.as_ref().map(ToString::to_string),
        outputs: arguments.outputs.paths.clone(),
        output_max_bytes: arguments.outputs.max_bytes,
        fail_if_impossible: arguments.fail_if_impossible,
    }
}

/// What is asked for; what is not said is left open.
pub(in crate::commands) fn resources(needs: &Needs) -> ResourcesView {
    ResourcesView {
        cpu_milli: needs.cpus,
        memory_bytes: needs.memory,
        gpu_milli: needs.gpus,
        vram_bytes: needs.vram,
        disk_bytes: needs.disk,
        gpu_models: needs.gpu_models.clone(),
        constraints: needs.constraints.clone(),
        nodes: needs.nodes,
        exclusive: needs.exclusive,
    }
}

fn source(capture: &Capture) -> SourceView {
    SourceView {
        tree: capture.tree.to_string(),
        files: capture.files,
        bytes: capture.bytes,
        revision: capture.revision.clone(),
        remote: capture.remote.clone(),
    }
}
