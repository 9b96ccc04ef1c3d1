//! Groups of experiments that were submitted as one: what a sweep makes.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use types::{Author, ExperimentId, GroupId, Timestamp};

use crate::records::Experiment;
use crate::state::ClusterState;

/// A group. It is known as long as one of its experiments is in the hot state; each of them names it for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Id.
    pub id: GroupId,
    /// Name; those of its experiments have a number behind it.
    pub name: String,
    /// The sweep that made it, for people.
    pub sweep: String,
    /// Names of the parameters in which its experiments differ.
    pub varied: Vec<String>,
    /// Who submitted it.
    pub author: Author,
    /// When.
    pub submitted_at: Timestamp,
    /// Its experiments, by their numbers.
    pub members: Vec<ExperimentId>,
}

impl ClusterState {
    /// A group.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&Arc<Group>> {
        self.groups.get(&id)
    }

    /// All groups that are known.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.values()
    }

    /// Forgets those groups of experiments that were just sealed of which nothing is left here.
    pub(crate) fn forget_groups(&mut self, sealed: &[Arc<Experiment>]) {
        let places = sealed.iter().filter_map(|experiment| experiment.group);
        let touched: BTreeSet<GroupId> = places.map(|place| place.group).collect();
        for id in touched {
            let is_hot = |member: &ExperimentId| self.experiments.contains_key(member);
            let group = self.groups.get(&id);
            if group.is_some_and(|group| !group.members.iter().any(is_hot)) {
                self.groups.remove(&id);
            }
        }
    }
}
