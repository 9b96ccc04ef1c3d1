//! The stored form of the state: what a snapshot holds. Frozen from the first release on: a change is then a new variant.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};
use types::{
    AttemptToken, ClusterId, ExperimentId, GroupId, Incarnation, LogIndex, NodeId, QueueName,
    RequestId, Timestamp, TokenId,
};

use crate::archive::{ARCHIVE_ENTRIES, ArchiveRef};
use crate::claimed_length;
use crate::group::Group;
use crate::ledger::LedgerEntry;
use crate::outcome::Outcome;
use crate::queue::Queue;
use crate::records::{
    Experiment, JoinToken, KeptPlace, NodeRecord, PlacementHold, UserToken, UserTokenTerms,
};
use crate::standing::{Departure, NodeStanding};
use crate::state::ClusterState;
use crate::usage::{Consumer, Hours, Lesson, Usage};

/// Written as the last, read as any.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Snapshot {
    V1(Box<SnapshotV1>),
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
    #[serde(deserialize_with = "claimed_length::map")]
    nodes: OrdMap<NodeId, NodeRecord>,
    #[serde(deserialize_with = "claimed_length::map")]
    join_tokens: OrdMap<TokenId, JoinToken>,
    #[serde(deserialize_with = "claimed_length::map")]
    user_tokens: OrdMap<TokenId, UserToken>,
    #[serde(deserialize_with = "claimed_length::map")]
    user_token_terms: OrdMap<TokenId, UserTokenTerms>,
    #[serde(deserialize_with = "claimed_length::map")]
    standings: OrdMap<NodeId, NodeStanding>,
    #[serde(deserialize_with = "claimed_length::map")]
    departures: OrdMap<NodeId, Departure>,
    #[serde(deserialize_with = "claimed_length::map")]
    queues: OrdMap<QueueName, Queue>,
    #[serde(deserialize_with = "claimed_length::map")]
    experiments: OrdMap<ExperimentId, Arc<Experiment>>,
    #[serde(deserialize_with = "claimed_length::list")]
    ended: Vector<ExperimentId>,
    #[serde(deserialize_with = "claimed_length::list")]
    ledger: Vector<LedgerEntry>,
    ledger_head: [u8; 32],
    ledger_length: u64,
    #[serde(deserialize_with = "claimed_length::list")]
    ledger_archives: Vector<ArchiveRef>,
    #[serde(deserialize_with = "claimed_length::list")]
    experiment_archives: Vector<ArchiveRef>,
    #[serde(deserialize_with = "claimed_length::map")]
    requests: OrdMap<RequestId, Outcome>,
    #[serde(deserialize_with = "claimed_length::list")]
    request_order: Vector<RequestId>,
    placement_hold: Option<PlacementHold>,
    #[serde(deserialize_with = "claimed_length::map")]
    user_weights: OrdMap<String, u32>,
    #[serde(deserialize_with = "claimed_length::map")]
    usage: OrdMap<Consumer, BTreeMap<u64, Usage>>,
    #[serde(deserialize_with = "claimed_length::map")]
    lessons: OrdMap<[u8; 32], Lesson>,
    #[serde(deserialize_with = "claimed_length::list")]
    lesson_order: Vector<[u8; 32]>,
    #[serde(deserialize_with = "claimed_length::map")]
    kept: OrdMap<ExperimentId, KeptPlace>,
    #[serde(deserialize_with = "claimed_length::map")]
    groups: OrdMap<GroupId, Arc<Group>>,
}

impl From<ClusterState> for Snapshot {
    fn from(state: ClusterState) -> Self {
        let by_hour = |hours: Hours| -> BTreeMap<u64, Usage> { hours.into_iter().collect() };
        let usage = state.usage.into_iter();
        Self::V1(Box::new(SnapshotV1 {
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
            user_token_terms: state.user_token_terms,
            standings: state.standings,
            departures: state.departures,
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
            placement_hold: state.placement_hold,
            user_weights: state.user_weights,
            usage: usage.map(|(who, hours)| (who, by_hour(hours))).collect(),
            lessons: state.lessons,
            lesson_order: state.lesson_order,
            kept: state.kept,
            groups: state.groups,
        }))
    }
}

/// A stored state that no log makes: a disk or a replica changed it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The derived indexes would not be those of the experiments.
    #[error("under {key} it has experiment {experiment}")]
    Misfiled {
        key: ExperimentId,
        experiment: ExperimentId,
    },
    /// Two experiments could hold one booking.
    #[error("experiment {experiment} has an open attempt of another: {token}")]
    ForeignAttempt {
        experiment: ExperimentId,
        token: AttemptToken,
    },
    /// A sum would not fit into 64 bits.
    #[error("node {node} has more booked than any node can give")]
    Overbooked { node: NodeId },
    /// Entries are missing, or there are more than were counted.
    #[error("the ledger has {held} entries, but {counted} were counted")]
    LedgerLength { held: u64, counted: u64 },
}

/// What every command relies on, whoever wrote the bytes.
fn check(state: &ClusterState) -> Result<(), SnapshotError> {
    for (key, experiment) in &state.experiments {
        let (key, experiment) = (*key, experiment.as_ref());
        if key != experiment.id {
            let experiment = experiment.id;
            return Err(SnapshotError::Misfiled { key, experiment });
        }
        let token = experiment.current_attempt().map(|attempt| attempt.token);
        if let Some(token) = token.filter(|token| token.experiment != key) {
            let experiment = key;
            return Err(SnapshotError::ForeignAttempt { experiment, token });
        }
    }
    let sealed = state.ledger_archives.len() * ARCHIVE_ENTRIES;
    let held = (sealed + state.ledger.len()) as u64;
    let counted = state.ledger_length;
    if held != counted {
        return Err(SnapshotError::LedgerLength { held, counted });
    }
    Ok(())
}

impl TryFrom<Snapshot> for ClusterState {
    type Error = SnapshotError;

    fn try_from(snapshot: Snapshot) -> Result<Self, SnapshotError> {
        let Snapshot::V1(stored) = snapshot;
        let usage = stored.usage.into_iter();
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
            user_token_terms: stored.user_token_terms,
            standings: stored.standings,
            departures: stored.departures,
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
            placement_hold: stored.placement_hold,
            user_weights: stored.user_weights,
            usage: usage
                .map(|(who, hours)| (who, Hours::from(hours)))
                .collect(),
            lessons: stored.lessons,
            lesson_order: stored.lesson_order,
            kept: stored.kept,
            groups: stored.groups,
            ..Self::default()
        };
        check(&state)?;
        for experiment in state.experiments.clone().values() {
            state
                .index(experiment)
                .map_err(|node| SnapshotError::Overbooked { node })?;
        }
        Ok(state)
    }
}
