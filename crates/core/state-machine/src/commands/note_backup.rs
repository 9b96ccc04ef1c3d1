//! Somebody takes a copy of everything.

use serde::{Deserialize, Serialize};
use types::NodeId;

use crate::ledger::Action;
use crate::outcome::Outcome;
use crate::state::{ClusterState, Context};

/// Written down before the first byte of a backup leaves: it holds all that anybody ever submitted. The backup has
/// everything up to this entry, itself included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteBackup {
    /// Node through which it leaves.
    pub node: NodeId,
    /// With blobs.
    pub with_blobs: bool,
}

impl NoteBackup {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let name = state
            .node(&self.node)
            .map_or(self.node.short(), |record| record.facts.name.as_str());
        let blobs = if self.with_blobs { " with blobs" } else { "" };
        let detail = format!("through {name}{blobs}");
        state.record(context, Action::BackupTaken, None, detail);
        Outcome::Done
    }
}
