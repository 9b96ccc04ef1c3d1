//! The stored form of the state: what a snapshot holds. Frozen: a change is a new variant.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};
use types::{
    AttemptToken, ClusterId, ExperimentId, Incarnation, LogIndex, NodeId, QueueName, RequestId,
    Timestamp, TokenId,
};

use crate::archive::{ARCHIVE_ENTRIES, ArchiveRef};
use crate::claimed_length;
use crate::ledger::LedgerEntry;
use crate::outcome::Outcome;
use crate::records::{
    Experiment, JoinToken, NodeRecord, PlacementHold, Queue, UserToken, UserTokenTerms,
};
use crate::standing::{Departure, NodeStanding};
use crate::state::ClusterState;

/// Written as the last, read as any.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Snapshot {
    V1(Box<SnapshotV1>),
    V2(Box<SnapshotV2>),
    V3(Box<SnapshotV3>),
    V4(Box<SnapshotV4>),
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
}

/// The first, and what came after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotV2 {
    first: SnapshotV1,
    #[serde(deserialize_with = "claimed_length::map")]
    user_token_terms: OrdMap<TokenId, UserTokenTerms>,
}

/// The second, and what came after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotV3 {
    second: SnapshotV2,
    placement_hold: Option<PlacementHold>,
}

/// The third, and what came after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotV4 {
    third: SnapshotV3,
    #[serde(deserialize_with = "claimed_length::map")]
    standings: OrdMap<NodeId, NodeStanding>,
    #[serde(deserialize_with = "claimed_length::map")]
    departures: OrdMap<NodeId, Departure>,
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
        let second = SnapshotV2 {
            first,
            user_token_terms: state.user_token_terms,
        };
        let third = SnapshotV3 {
            second,
            placement_hold: state.placement_hold,
        };
        Self::V4(Box::new(SnapshotV4 {
            third,
            standings: state.standings,
            departures: state.departures,
        }))
    }
}

impl From<SnapshotV1> for SnapshotV2 {
    fn from(first: SnapshotV1) -> Self {
        Self {
            first,
            user_token_terms: OrdMap::new(),
        }
    }
}

impl From<SnapshotV2> for SnapshotV3 {
    fn from(second: SnapshotV2) -> Self {
        Self {
            second,
            placement_hold: None,
        }
    }
}

impl From<SnapshotV3> for SnapshotV4 {
    fn from(third: SnapshotV3) -> Self {
        Self {
            third,
            standings: OrdMap::new(),
            departures: OrdMap::new(),
        }
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
        let SnapshotV4 {
            third,
            standings,
            departures,
        } = match snapshot {
            Snapshot::V1(first) => SnapshotV4::from(SnapshotV3::from(SnapshotV2::from(*first))),
            Snapshot::V2(second) => SnapshotV4::from(SnapshotV3::from(*second)),
            Snapshot::V3(third) => SnapshotV4::from(*third),
            Snapshot::V4(fourth) => *fourth,
        };
        let SnapshotV3 {
            second,
            placement_hold,
        } = third;
        let SnapshotV2 {
            first: stored,
            user_token_terms,
        } = second;
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
            standings,
            departures,
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
            placement_hold,
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
