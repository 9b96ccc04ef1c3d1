//! The state as it leaves the cluster in a backup, and the blobs that it names.

use std::collections::BTreeSet;

use imbl::OrdMap;
use types::{BlobHash, Environment};

use crate::archive::ArchiveContent;
use crate::records::Experiment;
use crate::state::ClusterState;

/// Blobs that a state or an archive names. A tree stands for itself and all files that it lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedBlobs {
    /// Encoded source trees, and what attempts left in the same form.
    pub trees: BTreeSet<BlobHash>,
    /// Everything else: sealed records, locked environments.
    pub others: BTreeSet<BlobHash>,
}

impl NamedBlobs {
    /// Adds what an archive names.
    pub fn add_archive(&mut self, content: &ArchiveContent) {
        match content {
            ArchiveContent::Ledger { .. } => {}
            ArchiveContent::Experiments { entries, .. } => {
                for experiment in entries {
                    self.add(experiment);
                }
            }
        }
    }

    fn add(&mut self, experiment: &Experiment) {
        if let Some(source) = &experiment.spec.source {
            self.trees.insert(source.tree);
        }
        if let Environment::Locked(lock) = &experiment.spec.environment {
            self.others.insert(lock.spec);
        }
        for attempt in &experiment.attempts {
            let segments = attempt.segments.iter();
            self.others.extend(segments.map(|segment| segment.hash));
            self.trees.extend(attempt.kept().map(|(_, kept)| kept.tree));
        }
    }
}

impl ClusterState {
    /// The blobs that the hot state names; archives name others.
    #[must_use]
    pub fn named_blobs(&self) -> NamedBlobs {
        let mut named = NamedBlobs::default();
        for experiment in self.experiments() {
            named.add(experiment);
        }
        named
    }

    /// A copy that lets nobody into the cluster: join tokens are left out, since what checks a proof can also make one.
    #[must_use]
    pub fn without_join_tokens(&self) -> Self {
        Self {
            join_tokens: OrdMap::new(),
            ..self.clone()
        }
    }
}
