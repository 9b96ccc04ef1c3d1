//! A new experiment.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use types::{DurationMs, ExperimentId, ExperimentSpec, ResourceRequest, check_parameters, codec};

use crate::commands::order_experiment::refuse_high;
use crate::commands::shape_queue::unknown_queue;
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{Experiment, ExperimentPhase, GroupPlace};
use crate::state::{ClusterState, Context};

/// Largest spec in the log (invariant 6): more goes to a blob.
pub(super) const MAX_SPEC_BYTES: usize = 64 << 10;
/// Most of command and variables once parameters are in their places: a few bytes of places can ask for a lot.
const MAX_FILLED_BYTES: u64 = 256 << 10;
/// Largest amount of anything: 2^50 bytes or thousandths, so that sums of all experiments stay far from 2^64.
const MAX_AMOUNT: u64 = 1 << 50;

/// Longest time between SIGTERM and SIGKILL: for so long a machine is neither its nor anybody else's.
const MAX_STOP_GRACE: DurationMs = DurationMs::from_secs(3_600);

/// Puts an experiment into a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitExperiment {
    /// What to run.
    pub spec: ExperimentSpec,
}

impl SubmitExperiment {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        if let Err(why) = check(&self.spec) {
            return Outcome::refused(RefusalCode::Invalid, why);
        }
        if !state.queues.contains_key(&self.spec.queue) {
            return unknown_queue(&self.spec.queue);
        }
        if let Some(refused) = refuse_high(context, self.spec.policy.priority) {
            return refused;
        }
        let id = free_id(state, context, &mut 0);
        queue(state, context, (id, self.spec.clone()), None);
        Outcome::Submitted(id)
    }
}

/// Puts an experiment into its queue.
pub(super) fn queue(
    state: &mut ClusterState,
    context: &mut Context<'_>,
    (id, spec): (ExperimentId, ExperimentSpec),
    group: Option<GroupPlace>,
) {
    let name = spec.name.clone();
    let experiment = Experiment {
        id,
        group,
        author: context.author.clone(),
        request: context.request,
        submitted_at: context.now,
        submitted_index: context.index,
        queue: spec.queue.clone(),
        priority: spec.policy.priority,
        rank: 0,
        held: None,
        yields: None,
        phase: ExperimentPhase::Queued { since: context.now },
        stop_requested: None,
        attempts: Vec::new(),
        spec: Arc::new(spec),
    };
    state.put(experiment);
    state.record(context, Action::ExperimentSubmitted, Some(id), name);
    context.events.push(Event::ExperimentQueued(id));
}

/// Why there can be no such experiment, whatever the cluster is like.
pub(super) fn check(spec: &ExperimentSpec) -> Result<(), String> {
    let resources = &spec.resources;
    if spec.command.first().is_none_or(String::is_empty) {
        return Err("the command is empty: write it after --".to_owned());
    }
    if spec.name.is_empty() || spec.name.len() > 128 || spec.name.chars().any(char::is_control) {
        return Err("a name has 1 to 128 characters, no control characters".to_owned());
    }
    let amounts = [
        resources.cpu_milli,
        resources.memory_bytes,
        resources.gpu_milli,
        resources.vram_bytes,
    ];
    if amounts
        .iter()
        .chain([&resources.disk_bytes])
        .any(|amount| *amount > MAX_AMOUNT)
    {
        return Err(format!("no machine has that much: {resources}"));
    }
    let most = ResourceRequest::MAX_NODES;
    if !(1..=most).contains(&resources.nodes) {
        return Err(format!(
            "an experiment runs on 1 to {most} nodes, not on {}: say so with --nodes",
            resources.nodes
        ));
    }
    if resources.gpu_milli > 1_000 && !resources.gpu_milli.is_multiple_of(1_000) {
        return Err("above one, GPUs are whole: --gpus 2".to_owned());
    }
    if spec.policy.stop_grace_ms > MAX_STOP_GRACE {
        return Err(format!(
            "{} is too long a time to end in after it was asked to: at most {MAX_STOP_GRACE}, since so long others wait for its place",
            spec.policy.stop_grace_ms
        ));
    }
    let outputs = spec.outputs.clone().checked();
    outputs.map_err(|error| error.to_string())?;
    check_parameters(&spec.parameters).map_err(|error| error.to_string())?;
    let bytes = codec::encode(spec).len();
    if bytes > MAX_SPEC_BYTES {
        return Err(format!(
            "command, variables, parameters and outputs take {bytes} bytes, more than {MAX_SPEC_BYTES}: put them into a file of the source tree"
        ));
    }
    let bytes = spec.filled_bytes();
    if bytes > MAX_FILLED_BYTES {
        return Err(format!(
            "with the parameters in their places command and variables take {bytes} bytes, more than {MAX_FILLED_BYTES}: put long values into a file of the source tree"
        ));
    }
    Ok(())
}

/// 40 bits from the log position, moved on while they are taken: the same on every replica.
pub(super) fn free_id(state: &ClusterState, context: &Context<'_>, salt: &mut u64) -> ExperimentId {
    loop {
        let hash = blake3::hash(&codec::encode(&(
            state.cluster,
            state.incarnation,
            context.index,
            *salt,
        )));
        *salt += 1;
        let mut bits = [0; 8];
        bits.copy_from_slice(&hash.as_bytes()[..8]);
        let id = ExperimentId::from_bits(u64::from_le_bytes(bits));
        if !state.experiments.contains_key(&id) {
            return id;
        }
    }
}
