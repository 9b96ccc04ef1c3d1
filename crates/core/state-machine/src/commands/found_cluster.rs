//! The first entry of a cluster.

use serde::{Deserialize, Serialize};
use types::{ClusterId, Incarnation, NodeFacts, NodeId, QueueName};

use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::queue::Queue;
use crate::records::NodeRecord;
use crate::state::{ClusterState, Context};

/// Makes the cluster: its id, its key, its first node, its default queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundCluster {
    /// Hash of the public key.
    pub cluster: ClusterId,
    /// Protobuf-encoded Ed25519 public key.
    pub public_key: Vec<u8>,
    /// First node.
    pub founder: NodeId,
    /// What it is.
    pub facts: NodeFacts,
    /// Timing profile of the cluster: `lan` or `wan`.
    pub timing: String,
}

impl FoundCluster {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        if let Some(cluster) = state.cluster {
            return Outcome::refused(
                RefusalCode::AlreadyFounded,
                format!("this is cluster {cluster} already"),
            );
        }
        state.cluster = Some(self.cluster);
        state.cluster_public_key.clone_from(&self.public_key);
        state.incarnation = Incarnation(1);
        state.timing.clone_from(&self.timing);
        state.members_version = context.index.0;
        let founder = NodeRecord {
            node: self.founder.clone(),
            facts: self.facts.clone(),
            admitted_at: context.now,
            admitted_by: context.author.to_string(),
            draining: false,
            labels: self.facts.labels.clone(),
        };
        state.nodes.insert(self.founder.clone(), founder);
        let name = QueueName::default();
        let queue = Queue::new(name.clone(), context.author.to_string(), context.now);
        state.queues.insert(name, queue);
        state.record(
            context,
            Action::ClusterFounded,
            None,
            format!("by {} ({})", self.facts.name, self.founder),
        );
        context
            .events
            .extend([Event::MembersChanged, Event::QueuesChanged]);
        Outcome::Done
    }
}
