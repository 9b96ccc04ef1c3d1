//! Copies of blobs: made again when a machine that kept them is gone, and collected when nobody names them.
//!
//! Every node looks at what it has itself. Which names count, and which nodes keep blobs, a replica says: names travel as
//! filters of some bits each. Whoever has something that the state names offers it to the two nodes where it belongs;
//! they take what they lack.

mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blobs::COPIES;
use tokio_util::sync::CancellationToken;
use types::{BlobHash, NodeId, SourceTree, codec};

use self::names::BlobNames;
use crate::blobs::{MAX_TREE_BYTES, tree_blobs};
use crate::error::ServiceError;
use crate::handle::{Handle, now};

pub use self::names::BlobNames as NamedOnCluster;
pub(crate) use self::names::NameCache;

/// Hashes that are offered at once.
const OFFER: usize = 4_096;

/// When copies are looked after.
#[derive(Clone, Copy, Debug)]
pub struct CopyTimes {
    /// Between two looks for copies that are missing.
    pub look: Duration,
    /// Silence after which a node's copies are made again elsewhere: longer than a reboot.
    pub remake_after: Duration,
    /// Between two collections of what nobody names.
    pub collect: Duration,
}

impl Default for CopyTimes {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(15),
            remake_after: Duration::from_mins(10),
            collect: Duration::from_hours(1),
        }
    }
}

/// What was seen to be on its nodes already.
#[derive(Default)]
struct Settled {
    /// Of which names and nodes that is.
    names: Option<BlobNames>,
    /// Everything was where it belongs.
    whole: bool,
}

/// Blobs that go together: a tree and its files, or one alone.
struct Group {
    head: BlobHash,
    hashes: Vec<BlobHash>,
}

impl Handle {
    /// Looks after copies until cancelled.
    pub async fn keep_copies(self, cancel: CancellationToken) {
        let times = self.inner.config.copies;
        let mut settled = Settled::default();
        let mut collect = tokio::time::interval(times.collect);
        collect.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        collect.reset(); // The first one after a whole interval: a node that just started knows nobody.
        let mut look = tokio::time::interval(times.look);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = look.tick() => {
                    if let Err(error) = self.remake(&mut settled).await {
                        tracing::debug!(%error, "copies not looked after");
                    }
                }
                _ = collect.tick() => {
                    if let Err(error) = self.collect_blobs().await {
                        tracing::warn!(%error, "old blobs not collected");
                    }
                }
            }
        }
    }

    /// Offers what is here and named to the nodes where it belongs, unless nothing changed since all of it was there.
    async fn remake(&self, settled: &mut Settled) -> Result<(), ServiceError> {
        let names = self.blob_names().await?;
        if settled.whole && settled.names.as_ref() == Some(&names) {
            return Ok(());
        }
        let mut failed: BTreeSet<NodeId> = BTreeSet::new();
        let mut offers: BTreeMap<NodeId, Vec<BlobHash>> = BTreeMap::new();
        for group in self.named_groups(&names).await? {
            let homes = blobs::homes(&group.head, &names.storage);
            let others = homes.iter().take(COPIES);
            for home in others.filter(|home| *home != self.node_id()) {
                let offer = offers.entry(home.clone()).or_default();
                offer.extend(&group.hashes);
                if offer.len() >= OFFER {
                    let offer = std::mem::take(offer);
                    self.offer(home, &offer, &mut failed).await;
                }
            }
        }
        for (home, offer) in offers {
            self.offer(&home, &offer, &mut failed).await;
        }
        settled.whole = failed.is_empty();
        settled.names = Some(names);
        Ok(())
    }

    async fn offer(&self, home: &NodeId, hashes: &[BlobHash], failed: &mut BTreeSet<NodeId>) {
        if hashes.is_empty() || failed.contains(home) {
            return;
        }
        if let Err(error) = self.push_blobs(home, hashes).await {
            tracing::debug!(node_id = %home, %error, "copies not made yet");
            failed.insert(home.clone());
        }
    }

    /// What is here and named, trees with those of their files that are here.
    async fn named_groups(&self, names: &BlobNames) -> Result<Vec<Group>, ServiceError> {
        let (store, names) = (self.inner.blobs.clone(), names.clone());
        let listed = tokio::task::spawn_blocking(move || {
            let all = store.list()?;
            let named = all.into_iter().filter(|hash| names.may_have(hash));
            let heads = named.map(|hash| (hash, names.may_be_tree(&hash)));
            Ok::<_, blobs::Error>(heads.collect::<Vec<_>>())
        });
        let heads = match listed.await {
            Ok(listed) => listed.map_err(|error| failed_to("list blobs", &error))?,
            Err(error) => return Err(failed_to("list blobs", &error)),
        };
        let mut groups = Vec::new();
        for (head, may_be_tree) in heads {
            let mut hashes = vec![head];
            if may_be_tree {
                hashes.extend(self.files_here(&head).await);
            }
            groups.push(Group { head, hashes });
        }
        Ok(groups)
    }

    /// The files of a tree that are here; none if it is no tree.
    async fn files_here(&self, tree: &BlobHash) -> Vec<BlobHash> {
        let Ok(Some(bytes)) = self.inner.blobs.get_bytes(tree, MAX_TREE_BYTES).await else {
            return Vec::new(); // Larger than any tree, or damaged: then it is made again from another copy.
        };
        let Ok(tree) = codec::decode::<SourceTree>(&bytes, codec::MAX_MESSAGE_BYTES) else {
            return Vec::new(); // A stranger that the filter took for a tree.
        };
        let mut files = tree_blobs(&tree);
        files.retain(|hash| self.inner.blobs.has(hash));
        files
    }

    /// Removes what is neither named nor pinned.
    async fn collect_blobs(&self) -> Result<(), ServiceError> {
        let names = self.blob_names().await?;
        let mut kept = BTreeSet::new();
        for group in self.named_groups(&names).await? {
            kept.extend(group.hashes);
        }
        let own = self.clone();
        let packages = tokio::task::spawn_blocking(move || own.package_blobs()).await;
        let packages = packages.map_err(|error| failed_to("look through packages", &error))?;
        kept.extend(packages.map_err(|error| failed_to("look through packages", &error))?);
        let store = self.inner.blobs.clone();
        let collecting =
            tokio::task::spawn_blocking(move || store.collect(&|hash| kept.contains(&hash), now()));
        let collected = match collecting.await {
            Ok(collected) => collected.map_err(|error| failed_to("collect blobs", &error))?,
            Err(error) => return Err(failed_to("collect blobs", &error)),
        };
        if collected.blobs > 0 {
            tracing::info!(
                blobs = collected.blobs,
                bytes = collected.bytes,
                "collected blobs that nothing names"
            );
        }
        Ok(())
    }
}

fn failed_to(step: &str, error: &impl std::fmt::Display) -> ServiceError {
    let message = format!("cannot {step}: {error}");
    ServiceError::new(crate::error::ErrorKind::Internal, "copies", message)
}
