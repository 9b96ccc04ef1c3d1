//! Blobs: from people, to storage nodes, between nodes.

use std::time::Duration;

use blobs::StorageNode;
use bytes::Bytes;
use futures::StreamExt as _;
use membership::failure_domain;
use tokio::io::AsyncRead;
use types::{BlobHash, MAX_TREE_ENTRIES, NodeId, SourceTree, Timestamp, TreeEntryKind, codec};

use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, lock, now};

/// Largest encoded source tree: 100,000 entries of a few hundred bytes.
pub(crate) const MAX_TREE_BYTES: u64 = 64 << 20;
/// Time for a peer to accept a stream; a live one takes milliseconds.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);
/// Members without a connection that are dialled at the same time for a blob.
const DIALLED_AT_ONCE: usize = 8;
/// Time for which a tree counts as secured: half of the pin that a put gives it.
const SECURED_MS: u64 = 12 * 3_600_000;
/// Trees that are remembered as stored twice; a day's worth of a busy team.
const MAX_REMEMBERED_TREES: usize = 4_096;

impl Handle {
    /// Those of `hashes` that this node lacks.
    #[must_use]
    pub fn missing_blobs(&self, hashes: &[BlobHash]) -> Vec<BlobHash> {
        self.inner.blobs.missing(hashes)
    }

    /// Stores a blob that a person sends; durable when it returns.
    ///
    /// # Errors
    /// The bytes have another hash, or the disk is full.
    pub async fn put_blob<R: AsyncRead + Unpin + Send>(
        &self,
        hash: BlobHash,
        reader: R,
    ) -> Result<(), ServiceError> {
        self.inner
            .blobs
            .put_stream(Some(hash), reader)
            .await
            .map(drop)
            .map_err(|error| blob_error(&error))
    }

    /// Stores many small blobs at once.
    ///
    /// # Errors
    /// One of them has another hash, or the disk is full; nothing is half stored.
    pub async fn put_blobs(&self, blobs: Vec<(BlobHash, Bytes)>) -> Result<(), ServiceError> {
        self.inner
            .blobs
            .put_many(blobs)
            .await
            .map_err(|error| blob_error(&error))
    }

    /// Opens a blob of this node, fetching it from another first if need be.
    ///
    /// # Errors
    /// No reachable node has it.
    pub async fn read_blob(&self, hash: BlobHash) -> Result<(u64, tokio::fs::File), ServiceError> {
        self.fetch_blobs(&[hash], &[]).await?;
        let size = self.inner.blobs.size(&hash);
        let file = self
            .inner
            .blobs
            .open_read(&hash)
            .await
            .map_err(|error| blob_error(&error))?;
        match (size, file) {
            (Some(size), Some(file)) => Ok((size, file)),
            _ => Err(ServiceError::new(
                ErrorKind::NotFound,
                "unknown-blob",
                format!("no node has blob {hash}"),
            )),
        }
    }

    /// Makes sure that all blobs are on this node, asking `first` and then every other member.
    ///
    /// # Errors
    /// Some are on no reachable member.
    pub async fn fetch_blobs(
        &self,
        hashes: &[BlobHash],
        first: &[NodeId],
    ) -> Result<(), ServiceError> {
        let mut missing = self.inner.blobs.missing(hashes);
        if missing.is_empty() {
            return Ok(());
        }
        let peers = self.inner.network.peers();
        let others = peers.into_iter().filter(|peer| !first.contains(&peer.node));
        let (near, far): (Vec<_>, Vec<_>) = others.partition(|peer| peer.connected);
        let near = first
            .iter()
            .cloned()
            .chain(near.into_iter().map(|peer| peer.node));
        let near = near.filter(|node| node != self.node_id());
        let open = |node: NodeId| async move { (self.bulk_stream(&node).await, node) };
        let far = futures::stream::iter(far.into_iter().map(|peer| peer.node));
        let opened = futures::stream::iter(near).then(open);
        // Whoever is not connected is dialled, some at a time: one that is down takes its time.
        let opened = opened.chain(far.map(open).buffer_unordered(DIALLED_AT_ONCE));
        let mut opened = std::pin::pin!(opened);
        while let Some((stream, node)) = opened.next().await {
            let mut stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(node_id = %node, %error, "no bulk stream for blobs");
                    continue;
                }
            };
            if let Err(error) = self.inner.blobs.fetch(&mut stream, &missing).await {
                tracing::debug!(node_id = %node, %error, "blobs not fetched");
            }
            missing = self.inner.blobs.missing(hashes);
            if missing.is_empty() {
                return Ok(());
            }
        }
        let message = format!(
            "{} of {} blobs are on no machine that answers",
            missing.len(),
            hashes.len()
        );
        Err(
            ServiceError::new(ErrorKind::Unavailable, "blobs-missing", message)
                .hint("start the machine from which it was submitted, or submit it again"),
        )
    }

    /// A source tree, from this node or from another.
    ///
    /// # Errors
    /// No reachable node has it, it is damaged, or it has too many entries.
    pub async fn source_tree(
        &self,
        tree: BlobHash,
        first: &[NodeId],
    ) -> Result<SourceTree, ServiceError> {
        self.fetch_blobs(&[tree], first).await?;
        let bytes = self
            .inner
            .blobs
            .get_bytes(&tree, MAX_TREE_BYTES)
            .await
            .map_err(|error| blob_error(&error))?;
        let bytes = bytes.ok_or_else(|| {
            ServiceError::new(
                ErrorKind::NotFound,
                "unknown-blob",
                format!("no node has the source tree {tree}"),
            )
        })?;
        decode_tree(tree, &bytes)
    }

    /// Makes sure that a source tree and its files are durable here and on another storage node (invariant 16).
    pub(crate) async fn secure_tree(
        &self,
        tree: BlobHash,
        patience: Duration,
    ) -> Result<(), ServiceError> {
        let secured = lock(&self.inner.replicated_trees).get(&tree).copied();
        if secured.is_some_and(|at| now().since(Timestamp(at)).0 < SECURED_MS) {
            return Ok(());
        }
        let mut hashes = tree_blobs(&self.source_tree(tree, &[]).await?);
        hashes.push(tree);
        // A submission that is tried again at another node finds there what was copied from the first.
        if let Err(error) = self.fetch_blobs(&hashes, &[]).await {
            tracing::debug!(%error, "no member has all blobs of a submitted tree");
        }
        let missing = self.inner.blobs.missing(&hashes);
        if !missing.is_empty() {
            let message = format!(
                "{} blobs of the source tree were not sent to this node, the first is {}",
                missing.len(),
                missing[0]
            );
            return Err(
                ServiceError::new(ErrorKind::Invalid, "blobs-missing", message)
                    .hint("send them with PUT /api/v1/blobs/{hash} before the submission"),
            );
        }
        // From now on until the state names them nothing may collect them.
        for hash in &hashes {
            let renewed = self.inner.blobs.renew(hash, now());
            renewed.map_err(|error| blob_error(&error))?;
        }
        let work = self.copy_to_storage(&tree, &hashes);
        tokio::time::timeout(patience, work).await.map_err(|_elapsed| {
            ServiceError::new(ErrorKind::Unavailable, "slow-copy", format!("the source tree was not copied to another machine within {} s", patience.as_secs()))
                .hint("check the network between the machines and submit again: what was copied stays")
        })??;
        let mut remembered = lock(&self.inner.replicated_trees);
        if remembered.len() >= MAX_REMEMBERED_TREES {
            remembered.clear();
        }
        remembered.insert(tree, now().0);
        Ok(())
    }

    /// Pushes blobs to storage nodes until min(2, storage nodes) have them.
    pub(crate) async fn copy_to_storage(
        &self,
        name: &BlobHash,
        hashes: &[BlobHash],
    ) -> Result<Vec<NodeId>, ServiceError> {
        let facts = self.member_facts();
        let keeps = |node: &NodeId| facts.get(node).is_some_and(|facts| facts.keeps_blobs);
        let storage_nodes = facts.values().filter(|facts| facts.keeps_blobs).count();
        let mut copies: Vec<NodeId> = Vec::new();
        if keeps(self.node_id()) || storage_nodes == 0 {
            copies.push(self.node_id().clone());
        }
        let target = storage_nodes.min(2);
        let mut last = String::new();
        let storage = facts.iter().filter(|(_, facts)| facts.keeps_blobs);
        let storage: Vec<_> = storage
            .map(|(node, facts)| StorageNode {
                node: node.clone(),
                domain: failure_domain(node, &facts.labels),
            })
            .collect();
        let others = blobs::homes(name, &storage);
        for node in others.into_iter().filter(|node| node != self.node_id()) {
            if copies.len() >= target {
                break;
            }
            match self.push_blobs(&node, hashes).await {
                Ok(()) => copies.push(node),
                Err(error) => last = error.message,
            }
        }
        // With one machine of two gone, one copy must do: refusing all work would help nobody.
        if copies.is_empty() {
            let message = format!("no storage node took a copy: {last}");
            return Err(
                ServiceError::new(ErrorKind::Unavailable, "no-storage", message).hint(
                    "start a machine that keeps blobs (`keeps_blobs = true`, the default on-prem)",
                ),
            );
        }
        Ok(copies)
    }

    async fn bulk_stream(&self, node: &NodeId) -> Result<network::BulkStream, ServiceError> {
        let unavailable =
            |message: String| ServiceError::new(ErrorKind::Unavailable, "unreachable", message);
        match tokio::time::timeout(STREAM_PATIENCE, self.inner.network.open_bulk_stream(node)).await
        {
            Ok(opened) => opened.map_err(|error| unavailable(error.to_string())),
            Err(_late) => Err(unavailable(format!("{node} opened no stream in time"))),
        }
    }

    pub(crate) async fn push_blobs(
        &self,
        node: &NodeId,
        hashes: &[BlobHash],
    ) -> Result<(), ServiceError> {
        let unavailable =
            |message: String| ServiceError::new(ErrorKind::Unavailable, "push-failed", message);
        let mut stream = self.bulk_stream(node).await?;
        self.inner
            .blobs
            .push(&mut stream, hashes)
            .await
            .map_err(|error| unavailable(error.to_string()))
    }
}

/// Whoever sends a tree may have made it himself: what the command line captures is within the limit.
fn decode_tree(tree: BlobHash, bytes: &[u8]) -> Result<SourceTree, ServiceError> {
    let decoded = codec::decode(bytes, codec::MAX_MESSAGE_BYTES).map_err(|error| {
        ServiceError::new(
            ErrorKind::Invalid,
            "bad-tree",
            format!("blob {tree} is no source tree: {error}"),
        )
    })?;
    let SourceTree::V1 { entries, .. } = &decoded;
    if entries.len() > MAX_TREE_ENTRIES {
        let message = format!(
            "source tree {tree} has {} entries, over the limit of {MAX_TREE_ENTRIES}",
            entries.len()
        );
        return Err(
            ServiceError::new(ErrorKind::TooLarge, "too-many-files", message)
                .hint("leave data and packages out of the tree"),
        );
    }
    Ok(decoded)
}

/// All file blobs of a tree.
pub(crate) fn tree_blobs(tree: &SourceTree) -> Vec<BlobHash> {
    let SourceTree::V1 { entries, git } = tree;
    let files = entries.iter().filter_map(|entry| match &entry.kind {
        TreeEntryKind::File { hash, .. } => Some(*hash),
        TreeEntryKind::Symlink { .. } | TreeEntryKind::Directory => None,
    });
    let mut hashes: Vec<_> = files.chain(git.iter().filter_map(|git| git.diff)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

pub(crate) fn blob_error(error: &blobs::Error) -> ServiceError {
    let kind = match error {
        blobs::Error::DiskFull { .. } | blobs::Error::BelowReserve { .. } => ErrorKind::Unavailable,
        blobs::Error::HashMismatch { .. } => ErrorKind::Invalid,
        blobs::Error::TooLarge { .. } => ErrorKind::TooLarge,
        _ => ErrorKind::Internal,
    };
    ServiceError::new(kind, "blob", error.to_string())
}

#[cfg(test)]
mod tests {
    use types::TreeEntry;

    use super::*;

    fn tree_of(count: usize) -> Vec<u8> {
        let entry = |number| TreeEntry {
            path: format!("d{number}"),
            kind: TreeEntryKind::Directory,
        };
        codec::encode(&SourceTree::V1 {
            entries: (0..count).map(entry).collect(),
            git: None,
        })
    }

    #[test]
    fn a_tree_of_a_million_files_is_refused_by_the_server_too() {
        let name = BlobHash::of(b"a tree");
        let most = decode_tree(name, &tree_of(MAX_TREE_ENTRIES));
        assert!(tree_blobs(&most.unwrap()).is_empty());
        for count in [MAX_TREE_ENTRIES + 1, 1_000_000] {
            let error = decode_tree(name, &tree_of(count)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::TooLarge);
            assert!(error.message.contains(&count.to_string()), "{error:?}");
        }
    }
}
