//! A person wants a group of experiments to end.

use serde::{Deserialize, Serialize};
use types::{GroupId, Role};

use crate::commands::StopExperiment;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::state::{ClusterState, Context};

/// Ends all experiments of a group that are not over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopGroup {
    /// Which.
    pub group: GroupId,
}

impl StopGroup {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let id = self.group;
        let Some(group) = state.groups.get(&id).cloned() else {
            let message = format!("there is no group {id} that can still change");
            return Outcome::refused(RefusalCode::UnknownGroup, message);
        };
        let author = context.author;
        if author.role != Role::Admin && author.user != group.author.user {
            let message = format!(
                "{id} belongs to {}: they or an admin can stop it",
                group.author
            );
            return Outcome::refused(RefusalCode::NotAllowed, message);
        }
        let is_live = |id: &types::ExperimentId| {
            let experiment = state.experiments.get(id);
            experiment.is_some_and(|experiment| experiment.is_live())
        };
        let live: Vec<_> = group.members.iter().copied().filter(is_live).collect();
        if live.is_empty() {
            let message = format!("all experiments of {id} are over already");
            return Outcome::refused(RefusalCode::AlreadyEnded, message);
        }
        let detail = format!(
            "{id}: {} of {} experiments",
            live.len(),
            group.members.len()
        );
        state.record(context, Action::GroupStopRequested, None, detail);
        for experiment in live {
            let stopped = StopExperiment { experiment }.apply(state, context);
            debug_assert_eq!(stopped, Outcome::Done, "a live one of the same author");
        }
        Outcome::Done
    }
}
