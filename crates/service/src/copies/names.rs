//! Which blobs the cluster names, and who keeps blobs: what a replica says about it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blobs::{NameFilter, StorageNode};
use membership::failure_domain;
use serde::{Deserialize, Serialize};
use state_machine::{ClusterState, NamedBlobs, NodeRecord, decode_archive, fleeting_label};
use types::BlobHash;

use super::failed_to;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, lock, view_now};
use crate::peer_message::{BulkMessage, BulkReply};

/// Time for a replica to answer: it may have to read archives.
const DEADLINE: Duration = Duration::from_secs(60);

/// Names of one archive or of the hot state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Names {
    trees: NameFilter,
    others: NameFilter,
}

impl Names {
    fn of(named: &NamedBlobs) -> Self {
        Self {
            trees: NameFilter::of(named.trees.iter()),
            others: NameFilter::of(named.others.iter()),
        }
    }
}

/// All names, and the nodes that keep blobs now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobNames {
    parts: Vec<Arc<Names>>,
    pub(super) storage: Vec<StorageNode>,
}

impl BlobNames {
    /// Whether something names it; rarely true for what nothing names.
    pub(super) fn may_have(&self, hash: &BlobHash) -> bool {
        let named = |names: &Arc<Names>| names.trees.may_have(hash) || names.others.may_have(hash);
        self.parts.iter().any(named)
    }

    /// Whether it is named as a source tree.
    pub(super) fn may_be_tree(&self, hash: &BlobHash) -> bool {
        self.parts.iter().any(|names| names.trees.may_have(hash))
    }
}

/// Names of archives by their file: they never change.
pub(crate) type NameCache = Mutex<BTreeMap<String, Arc<Names>>>;

impl Handle {
    /// The names of now, from here or from a replica.
    pub(super) async fn blob_names(&self) -> Result<BlobNames, ServiceError> {
        if self.is_replica() {
            return self.answer_blob_names().await;
        }
        let Some(replica) = self.leader().or_else(|| self.any_replica()) else {
            let message = "no member with the state is known";
            return Err(ServiceError::new(
                ErrorKind::Unavailable,
                "no-leader",
                message,
            ));
        };
        match self
            .ask_bulk(&replica, &BulkMessage::BlobNames, DEADLINE)
            .await?
        {
            BulkReply::BlobNames(names) => Ok(names),
            other => Err(failed_to(
                "learn the names of blobs",
                &format!("{replica} answered {other:?}"),
            )),
        }
    }

    /// What this replica knows, confirmed by a majority: one that was cut off must not say that a name is none.
    pub(crate) async fn answer_blob_names(&self) -> Result<BlobNames, ServiceError> {
        self.freshen(crate::ReadOptions::default()).await?;
        let state = self.inner.consensus.state();
        let mut parts = vec![Arc::new(Names::of(&state.named_blobs()))];
        for (name, _) in state.archives() {
            if !name.starts_with("experiments") {
                continue;
            }
            let known = lock(&self.inner.archived_names).get(name).cloned();
            parts.push(match known {
                Some(names) => names,
                None => self.read_names(name).await?,
            });
        }
        Ok(BlobNames {
            parts,
            storage: self.storage_nodes(&state),
        })
    }

    async fn read_names(&self, archive: &str) -> Result<Arc<Names>, ServiceError> {
        let read = self.inner.consensus.archive(archive).await;
        let bytes = read.map_err(|error| failed_to("read an archive", &error))?;
        let content = decode_archive(&bytes.unwrap_or_default());
        let mut named = NamedBlobs::default();
        named.add_archive(&content.map_err(|error| failed_to("read an archive", &error))?);
        let names = Arc::new(Names::of(&named));
        lock(&self.inner.archived_names).insert(archive.to_owned(), Arc::clone(&names));
        Ok(names)
    }

    /// Nodes whose copies count: they keep blobs, stay, and were heard of lately. If none is like that, all that keep any.
    fn storage_nodes(&self, state: &ClusterState) -> Vec<StorageNode> {
        let keeps = |record: &&NodeRecord| record.facts.keeps_blobs;
        let stays = |record: &&NodeRecord| {
            !record.draining && fleeting_label(&record.labels).is_none() && self.is_heard(record)
        };
        let mut chosen: Vec<_> = state.nodes().filter(keeps).filter(stays).collect();
        if chosen.is_empty() {
            chosen = state.nodes().filter(keeps).collect();
        }
        let node = |record: &NodeRecord| StorageNode {
            node: record.node.clone(),
            domain: failure_domain(&record.node, &record.labels),
        };
        chosen.into_iter().map(node).collect()
    }

    fn is_heard(&self, record: &NodeRecord) -> bool {
        let limit = self.inner.config.copies.remake_after;
        if record.node == *self.node_id() {
            return true;
        }
        let view = lock(&self.inner.view);
        match view.get(&record.node) {
            Some(seen) => Duration::from_millis(view_now().since(seen.received_at).0) < limit,
            // Never since this node started: that may be soon.
            None => self.inner.started_at.elapsed() < limit,
        }
    }
}
