//! The links that a node keeps in the background: one that holds the state to everybody, a worker to those that do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use network::{Kept, LINK_IDLE};
use service::Handle;
use types::{MemberList, NodeId};

/// A worker that was linked with no replica for so long links with everybody: any member may know the way home. Longer
/// than a start or an election takes, and a part of any lease.
const LOST: Duration = Duration::from_secs(6);

/// What the network was told to keep.
#[derive(Debug)]
pub(crate) struct Links {
    told: Option<Kept>,
    /// When this node was last linked with a replica.
    touched: Instant,
}

impl Links {
    pub(crate) fn new() -> Self {
        Self {
            told: None,
            touched: Instant::now(),
        }
    }

    /// Tells the network which links to keep, when that has changed.
    pub(crate) async fn follow(&mut self, handle: &Handle, list: &MemberList) {
        let replicas = handle.known_replicas(list);
        let is_replica = handle.is_replica();
        let peers = handle.network().peers();
        let is_linked =
            |peer: &network::PeerStatus| peer.connected && replicas.contains(&peer.node);
        if is_replica || peers.iter().any(is_linked) {
            self.touched = Instant::now();
        }
        let kept = kept(is_replica, replicas, self.touched.elapsed());
        if self.told.as_ref() == Some(&kept) {
            return;
        }
        match &kept {
            Kept::Only { nodes, .. } => {
                tracing::info!(replicas = nodes.len(), "links are kept with replicas alone");
            }
            Kept::All => tracing::info!(is_replica, "links are kept with every member"),
        }
        handle.network().keep_links(kept.clone()).await;
        self.told = Some(kept);
    }
}

fn kept(is_replica: bool, replicas: BTreeSet<NodeId>, apart: Duration) -> Kept {
    if is_replica || replicas.is_empty() || apart >= LOST {
        return Kept::All;
    }
    Kept::Only {
        nodes: replicas,
        idle: LINK_IDLE,
    }
}

/// Gives the network its members.
pub(crate) async fn announce(handle: &Handle, list: &MemberList) {
    let table = list.members.iter().map(|member| {
        (
            member.node.clone(),
            member.facts.control_addresses.clone(),
            member.facts.bulk_addresses.clone(),
        )
    });
    let network = handle.network();
    network.set_members(list.version, table.collect()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_keeps_replicas_until_it_has_lost_them_and_a_replica_everybody() {
        let replica: NodeId = "12D3KooWReader".parse().unwrap();
        let replicas = BTreeSet::from([replica]);
        let only = Kept::Only {
            nodes: replicas.clone(),
            idle: LINK_IDLE,
        };
        let soon = Duration::from_secs(1);
        assert_eq!(kept(false, replicas.clone(), soon), only);
        assert_eq!(kept(false, replicas.clone(), LOST), Kept::All);
        assert_eq!(kept(true, replicas, soon), Kept::All);
        // Not told yet: as one that has lost them.
        assert_eq!(kept(false, BTreeSet::new(), soon), Kept::All);
    }
}
