//! Where copies belong: computed by everybody alike, stored nowhere (invariant 16).

use types::{BlobHash, NodeId};

/// Copies that a blob has, where there are as many storage nodes.
pub const COPIES: usize = 2;

/// A node that keeps blobs, and what fails together with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct StorageNode {
    /// Who.
    pub node: NodeId,
    /// Its failure domain.
    pub domain: String,
}

/// The nodes in the order in which they should have a copy of what `name` stands for: by rendezvous score (Thaler and
/// Ravishankar, 1998), the second in another failure domain than the first if there is one. A node
/// that comes or goes moves only what it has.
#[must_use]
pub fn homes(name: &BlobHash, nodes: &[StorageNode]) -> Vec<NodeId> {
    let score = |node: &StorageNode| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&name.0).update(node.node.as_str().as_bytes());
        *hasher.finalize().as_bytes()
    };
    let mut order: Vec<_> = nodes.iter().collect();
    order.sort_by_key(|node| std::cmp::Reverse(score(node)));
    if let Some(first) = order.first().copied()
        && let Some(other) = order.iter().position(|node| node.domain != first.domain)
        && other > 1
    {
        let other = order.remove(other);
        order.insert(1, other);
    }
    order.into_iter().map(|node| node.node.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, domain: &str) -> StorageNode {
        StorageNode {
            node: name.parse().unwrap(),
            domain: domain.to_owned(),
        }
    }

    fn names() -> impl Iterator<Item = BlobHash> {
        (0..500_u32).map(|number| BlobHash::of(&number.to_le_bytes()))
    }

    #[test]
    fn two_copies_are_never_in_one_failure_domain_if_there_are_two() {
        let nodes = [
            node("a", "rack1"),
            node("b", "rack1"),
            node("c", "rack1"),
            node("d", "rack2"),
        ];
        for name in names() {
            let homes = homes(&name, &nodes);
            assert_eq!(homes.len(), 4);
            let has_d = homes[..COPIES].iter().any(|node| node.as_str() == "d");
            assert!(has_d, "{homes:?}");
        }
    }

    #[test]
    fn a_lost_node_moves_only_its_own_copies_and_all_nodes_share() {
        let all = ["a", "b", "c", "d", "e"].map(|name| node(name, name));
        let mut firsts = std::collections::BTreeMap::new();
        for name in names() {
            let before = homes(&name, &all);
            let after = homes(&name, &all[1..]);
            let kept: Vec<_> = before.iter().filter(|node| node.as_str() != "a").collect();
            assert_eq!(kept, after.iter().collect::<Vec<_>>());
            *firsts.entry(before[0].clone()).or_insert(0) += 1;
        }
        assert_eq!(firsts.len(), 5);
        assert!(firsts.values().all(|count| *count > 50), "{firsts:?}");
    }
}
