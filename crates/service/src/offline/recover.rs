//! A cluster that goes on without the majority of its voters, from what one of them holds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use consensus::StoppedReplica;
use network::ClusterKey;
use state_machine::{ClusterState, NewHistory, Survivors};
use types::{ClusterId, Incarnation, JoinRequest, NodeFacts, NodeId, codec};

use super::{OfflineError, account, refused, short, sign_members, write_durably};
use crate::handle::now;

/// Time for another voter to answer; one that lives does so in milliseconds.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// Names of old stores before their number.
const ASIDE_PREFIX: &str = "raft.incarnation-";

/// How to recover.
#[derive(Clone, Debug, Default)]
pub struct RecoverOptions {
    /// Every other voter, by name or id: the operator's word that it never comes back.
    pub lost: Vec<String>,
    /// The cluster's key where this node has none.
    pub cluster_key: Option<PathBuf>,
    /// Number of the new history; none: one more.
    pub incarnation: Option<u64>,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Number of the history of now.
    pub incarnation: u64,
    /// Where the old store is.
    pub aside: PathBuf,
}

/// A stopped node that held a replica.
#[derive(Debug)]
pub struct Survivor {
    pub(super) directory: PathBuf,
    pub(super) node: NodeId,
    pub(super) cluster: ClusterId,
    pub(super) replica: StoppedReplica,
}

impl Survivor {
    /// Looks at the node in `directory`, which the caller has locked.
    ///
    /// # Errors
    /// There is no node, it held no replica, it is a majority by itself, or its store is damaged.
    pub async fn look(directory: PathBuf) -> Result<Self, OfflineError> {
        let key = directory.join("node.key");
        if let Some(aside) = cut_short(&directory) {
            let raft = directory.join("raft");
            return refused(format!(
                "a recovery was cut short while it changed the store: {aside} is the whole old one and nothing has begun; put it back with `mv {aside} {raft}`, then recover again",
                aside = aside.display(),
                raft = raft.display()
            ));
        }
        if !key.exists() || !directory.join("raft").exists() {
            return refused(format!(
                "{} holds no node: recovery is for a stopped voter or learner; name its directory with --data-dir",
                directory.display()
            ));
        }
        let node = network::Identity::load_or_create(&key)?.node_id().clone();
        let replica = consensus::inspect(directory.join("raft"), node.clone()).await?;
        let Some(cluster) = replica.state.cluster() else {
            return refused(format!(
                "the node in {} is a worker: it holds no copy of the cluster's state; recover on a machine that voted or learned",
                directory.display()
            ));
        };
        if !replica.voters.contains(&node) && !replica.learners.contains(&node) {
            return refused(format!(
                "the node in {} neither voted nor learned when it was last in touch (log entry {}): what it holds is old; recover on one that did",
                directory.display(),
                replica.last
            ));
        }
        let survivor = Self {
            directory,
            node,
            cluster,
            replica,
        };
        if survivor.other_voters().is_empty() {
            return refused(
                "this node is the only voter: nothing is lost, start it with `muster up`",
            );
        }
        Ok(survivor)
    }

    /// The state that this node holds.
    #[must_use]
    pub fn state(&self) -> &ClusterState {
        &self.replica.state
    }

    /// The other voters, by id.
    #[must_use]
    pub fn other_voters(&self) -> BTreeSet<NodeId> {
        let mut voters = self.replica.voters.clone();
        voters.remove(&self.node);
        voters
    }

    /// What is known, what may be lost, and what becomes of the machines, for a person to read before.
    #[must_use]
    pub fn account(&self) -> String {
        account::write(self)
    }

    pub(super) fn facts(&self, node: &NodeId) -> Option<&NodeFacts> {
        self.state().node(node).map(|record| &record.facts)
    }

    /// A node as people know it.
    #[must_use]
    pub fn name(&self, node: &NodeId) -> String {
        self.facts(node)
            .map_or_else(|| node.short().to_owned(), |facts| facts.name.clone())
    }

    /// Other voters that answer: while one does, nothing is lost for good.
    pub async fn who_answers(&self, network: &network::Handle) -> Vec<NodeId> {
        let asked = self.other_voters().into_iter().map(|voter| async {
            let addresses = self
                .facts(&voter)
                .map(|facts| facts.control_addresses.clone());
            let request = Bytes::from(codec::encode(&JoinRequest::Members));
            let answer = network
                .join_call(&addresses.unwrap_or_default(), request, ANSWER_PATIENCE)
                .await;
            answer.is_ok().then_some(voter)
        });
        let answered = futures::future::join_all(asked).await;
        answered.into_iter().flatten().collect()
    }

    /// Refuses unless `lost` names every other voter and nobody else.
    ///
    /// # Errors
    /// One is not named, or a name is none of theirs.
    pub fn check_lost(&self, lost: &[String]) -> Result<(), OfflineError> {
        let mut unnamed = self.other_voters();
        for text in lost {
            let fits = |node: &&NodeId| {
                node.as_str() == text || node.short() == text || self.name(node) == *text
            };
            let found: Vec<_> = self.other_voters().iter().filter(fits).cloned().collect();
            match found.as_slice() {
                [] => {
                    return refused(format!(
                        "{text} is no other voter of this cluster: these are {}",
                        self.list(&self.other_voters())
                    ));
                }
                [one] => drop(unnamed.remove(one)),
                _ => {
                    return refused(format!("{text} names several voters: write their ids"));
                }
            }
        }
        if unnamed.is_empty() {
            return Ok(());
        }
        refused(format!(
            "every voter that is lost must be named, and {} is not: add --i-have-lost for it only if its disk never comes back; if it may, start it instead",
            self.list(&unnamed)
        ))
    }

    pub(super) fn list(&self, nodes: &BTreeSet<NodeId>) -> String {
        let names = nodes
            .iter()
            .map(|node| format!("{} ({})", self.name(node), node.short()));
        names.collect::<Vec<_>>().join(", ")
    }

    /// Begins the new history. The old store is kept aside.
    ///
    /// # Errors
    /// A voter is not named as lost, the cluster's key is missing, or something cannot be written.
    pub async fn recover(self, options: &RecoverOptions) -> Result<Recovered, OfflineError> {
        self.check_lost(&options.lost)?;
        let key = self.key(options.cluster_key.as_deref())?;
        let mut state = self.state().clone();
        let gone: BTreeSet<NodeId> = self
            .replica
            .voters
            .union(&self.replica.learners)
            .filter(|node| **node != self.node)
            .cloned()
            .collect();
        let next = state.incarnation().0 + 1;
        let reason = format!(
            "recovered on {} from log entry {} without {}: join anew with `muster up --rejoin TOKEN`",
            self.name(&self.node),
            self.replica.last,
            self.list(&self.other_voters())
        );
        let Some(facts) = self.facts(&self.node).cloned() else {
            return refused("this node was removed from the cluster: recover on another");
        };
        let history = NewHistory {
            incarnation: Incarnation(options.incarnation.unwrap_or(next)),
            founder: self.node.clone(),
            facts,
            cluster: None,
            survivors: Survivors::AllBut(gone),
            hold: agent::leases::longest_lease(&state),
            now: now(),
            reason,
        };
        let files = state
            .begin_history(&history)
            .map_err(OfflineError::Refused)?;
        let members = sign_members(&key, &state, &self.node)?;
        let aside = self.directory.join(format!("{ASIDE_PREFIX}{}", next - 1));
        if aside.exists() {
            return refused(format!(
                "{} is in the way: an earlier recovery left it; move it elsewhere first",
                aside.display()
            ));
        }
        let node = self.node.clone();
        self.replica.replace(node, &state, files, &aside).await?;
        write_durably(&self.directory.join("members"), &members)?;
        let kept = self.directory.join("cluster.key");
        if !kept.exists() {
            key.save(&kept)?;
        }
        Ok(Recovered {
            incarnation: state.incarnation().0,
            aside,
        })
    }

    fn key(&self, given: Option<&Path>) -> Result<ClusterKey, OfflineError> {
        let own = self.directory.join("cluster.key");
        let path = given.unwrap_or(&own);
        let Some(key) = ClusterKey::load(path)? else {
            return refused(format!(
                "there is no {}: without the cluster's key no member would follow; voters have it: give the one of a lost voter's disk or backup with --cluster-key FILE",
                path.display()
            ));
        };
        if key.cluster_id() == self.cluster {
            return Ok(key);
        }
        refused(format!(
            "{} is the key of cluster {}, this node belongs to {}",
            path.display(),
            short(&key.cluster_id()),
            short(&self.cluster)
        ))
    }

    /// When the log was last written here, if the file system tells.
    pub(super) fn written_at(&self) -> Option<std::time::SystemTime> {
        let log = self.directory.join("raft/commit.mark");
        fs::metadata(log).and_then(|found| found.modified()).ok() // Only for the account.
    }
}

/// The old store of a recovery that ended between taking it away and putting the new one in its place.
fn cut_short(directory: &Path) -> Option<PathBuf> {
    if directory.join("raft").exists() {
        return None;
    }
    let number = |path: &PathBuf| -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix(ASIDE_PREFIX)?.parse().ok() // Not one of ours.
    };
    let entries = fs::read_dir(directory).ok()?; // Said when the store itself is read.
    let asides = entries.flatten().map(|entry| entry.path());
    asides
        .filter(|path| number(path).is_some())
        .max_by_key(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_recovery_that_was_cut_short_names_the_old_store_and_how_to_put_it_back() {
        let lab = tempfile::tempdir().unwrap();
        let root = lab.path().to_owned();
        fs::write(root.join("node.key"), b"a key").unwrap();
        let look = || async {
            let refused = Survivor::look(root.clone()).await.unwrap_err();
            refused.to_string()
        };
        let nothing = look().await;
        assert!(nothing.contains("holds no node"), "{nothing}");
        for name in ["raft.incarnation-9", "raft.incarnation-10", "raft.fresh"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        let said = look().await;
        let (old, raft) = (root.join("raft.incarnation-10"), root.join("raft"));
        let remedy = format!("mv {} {}", old.display(), raft.display());
        assert!(
            said.contains("cut short") && said.contains(&remedy),
            "{said}"
        );
        // As it says.
        fs::rename(old, &raft).unwrap();
        let after = look().await;
        assert!(!after.contains("cut short"), "{after}");
    }
}
