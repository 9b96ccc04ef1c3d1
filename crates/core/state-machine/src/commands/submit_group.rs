//! Several new experiments that differ in parameters: all of them or none.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use types::{ExperimentSpec, GroupId, codec};

use crate::commands::order_experiment::refuse_high;
use crate::commands::shape_queue::unknown_queue;
use crate::commands::submit_experiment::{check, free_id, queue};
use crate::group::Group;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::GroupPlace;
use crate::state::{ClusterState, Context};

/// Most experiments of one group: they are put into the queue by one entry of the log, and whatever comes next waits for
/// it. A thousand took 8 to 12 ms (release build, two shared cores).
pub const MAX_GROUP_MEMBERS: usize = 1_000;
/// Longest text of a sweep.
const MAX_SWEEP_BYTES: usize = 4 << 10;
/// Most bytes that all of them take in the state: a thousand with 4 KiB of command and variables each.
const MAX_GROUP_BYTES: usize = 4 << 20;

/// Puts a group of experiments into a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitGroup {
    /// What all of them have in common.
    pub spec: ExperimentSpec,
    /// The sweep, for people.
    pub sweep: String,
    /// Names of the parameters in which they differ.
    pub varied: Vec<String>,
    /// The values of these, for each experiment.
    pub values: Vec<Vec<String>>,
}

impl SubmitGroup {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let specs = match self.specs() {
            Ok(specs) => specs,
            Err(why) => return Outcome::refused(RefusalCode::Invalid, why),
        };
        if !state.queues.contains_key(&self.spec.queue) {
            return unknown_queue(&self.spec.queue);
        }
        if let Some(refused) = refuse_high(context, self.spec.policy.priority) {
            return refused;
        }
        let id = free_group(state, context);
        let name = self.spec.name.clone();
        let detail = format!("{id}: {name}, {} experiments: {}", specs.len(), self.sweep);
        state.record(context, Action::GroupSubmitted, None, detail);
        let mut salt = 0;
        let mut members = Vec::with_capacity(specs.len());
        for (number, spec) in (1..).zip(specs) {
            let member = free_id(state, context, &mut salt);
            let place = GroupPlace { group: id, number };
            queue(state, context, (member, spec), Some(place));
            members.push(member);
        }
        let group = Group {
            id,
            name,
            sweep: self.sweep.clone(),
            varied: self.varied.clone(),
            author: context.author.clone(),
            submitted_at: context.now,
            members,
        };
        state.groups.insert(id, Arc::new(group));
        Outcome::GroupSubmitted(id)
    }

    /// The experiments, or why there can be no such group.
    fn specs(&self) -> Result<Vec<ExperimentSpec>, String> {
        let count = self.values.len();
        if !(1..=MAX_GROUP_MEMBERS).contains(&count) {
            return Err(format!(
                "a group has 1 to {MAX_GROUP_MEMBERS} experiments, not {count}"
            ));
        }
        if self
            .values
            .iter()
            .any(|values| values.len() != self.varied.len())
        {
            return Err("each experiment of a group needs one value for each parameter".to_owned());
        }
        if self.sweep.len() > MAX_SWEEP_BYTES {
            return Err(format!(
                "the text of a sweep has at most {MAX_SWEEP_BYTES} bytes, not {}",
                self.sweep.len()
            ));
        }
        let bytes = codec::encode(&self.spec).len().saturating_mul(count);
        if bytes > MAX_GROUP_BYTES {
            return Err(format!(
                "{count} experiments with this command and these variables take {bytes} bytes, more than {MAX_GROUP_BYTES}: put long texts into a file of the source tree"
            ));
        }
        let specs = (1..).zip(&self.values).map(|(number, values)| {
            let mut spec = self.spec.clone();
            spec.name = format!("{}.{number}", self.spec.name);
            let varied = self.varied.iter().cloned().zip(values.iter().cloned());
            spec.parameters.extend(varied);
            check(&spec)?;
            Ok(spec)
        });
        specs.collect()
    }
}

/// From the log position, moved on while it is taken: the same on every replica.
fn free_group(state: &ClusterState, context: &Context<'_>) -> GroupId {
    let mut salt = 0_u64;
    loop {
        let facts = (
            state.cluster,
            state.incarnation,
            context.index,
            "group",
            salt,
        );
        let hash = blake3::hash(&codec::encode(&facts));
        let mut bits = [0; 8];
        bits.copy_from_slice(&hash.as_bytes()[..8]);
        let id = GroupId::from_bits(u64::from_le_bytes(bits));
        if !state.groups.contains_key(&id) {
            return id;
        }
        salt += 1;
    }
}
