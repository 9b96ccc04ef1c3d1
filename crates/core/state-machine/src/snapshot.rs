//! The stored form of the state: what a snapshot holds. Frozen: a change is a new variant.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};
use types::{
    ClusterId, ExperimentId, Incarnation, LogIndex, NodeId, QueueName, RequestId, Timestamp,
    TokenId,
};

use crate::archive::ArchiveRef;
use crate::ledger::LedgerEntry;
use crate::outcome::Outcome;
use crate::records::{Experiment, JoinToken, NodeRecord, Queue, UserToken, UserTokenTerms};
use crate::state::ClusterState;

/// Written as the last, read as any.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Snapshot {
    V1(Box<SnapshotV1>),
    V2(Box<SnapshotV2>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotV1 {
    cluster: Option<ClusterId>,
    cluster_public_key: Vec<u8>,
    incarnation: Incarnation,
    timing: String,
    applied: LogIndex,
    time: Timestamp,
    members_version: u64,
    nodes: OrdMap<NodeId, NodeRecord>,
    join_tokens: OrdMap<TokenId, JoinToken>,
    user_tokens: OrdMap<TokenId, UserToken>,
    queues: OrdMap<QueueName, Queue>,
    experiments: OrdMap<ExperimentId, Arc<Experiment>>,
    ended: Vector<ExperimentId>,
    ledger: Vector<LedgerEntry>,
    ledger_head: [u8; 32],
    ledger_length: u64,
    ledger_archives: Vector<ArchiveRef>,
    experiment_archives: Vector<ArchiveRef>,
    requests: OrdMap<RequestId, Outcome>,
    request_order: Vector<RequestId>,
}

/// The first, and what came after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotV2 {
    first: SnapshotV1,
    user_token_terms: OrdMap<TokenId, UserTokenTerms>,
}

impl From<ClusterState> for Snapshot {
    fn from(state: ClusterState) -> Self {
        let first = SnapshotV1 {
            cluster: state.cluster,
            cluster_public_key: state.cluster_public_key,
            incarnation: state.incarnation,
            timing: state.timing,
            applied: state.applied,
            time: state.time,
            members_version: state.members_version,
            nodes: state.nodes,
            join_tokens: state.join_tokens,
            user_tokens: state.user_tokens,
            queues: state.queues,
            experiments: state.experiments,
            ended: state.ended,
            ledger: state.ledger,
            ledger_head: state.ledger_head,
            ledger_length: state.ledger_length,
            ledger_archives: state.ledger_archives,
            experiment_archives: state.experiment_archives,
            requests: state.requests,
            request_order: state.request_order,
        };
        Self::V2(Box::new(SnapshotV2 {
            first,
            user_token_terms: state.user_token_terms,
        }))
    }
}

impl From<Snapshot> for ClusterState {
    fn from(snapshot: Snapshot) -> Self {
        let (stored, user_token_terms) = match snapshot {
            Snapshot::V1(first) => (*first, OrdMap::new()),
            Snapshot::V2(second) => (second.first, second.user_token_terms),
        };
        let mut state = Self {
            cluster: stored.cluster,
            cluster_public_key: stored.cluster_public_key,
            incarnation: stored.incarnation,
            timing: stored.timing,
            applied: stored.applied,
            time: stored.time,
            members_version: stored.members_version,
            nodes: stored.nodes,
            join_tokens: stored.join_tokens,
            user_tokens: stored.user_tokens,
            user_token_terms,
            queues: stored.queues,
            experiments: stored.experiments,
            ended: stored.ended,
            ledger: stored.ledger,
            ledger_head: stored.ledger_head,
            ledger_length: stored.ledger_length,
            ledger_archives: stored.ledger_archives,
            experiment_archives: stored.experiment_archives,
            requests: stored.requests,
            request_order: stored.request_order,
            ..Self::default()
        };
        for experiment in state.experiments.clone().values() {
            state.index(experiment);
        }
        state
    }
}
