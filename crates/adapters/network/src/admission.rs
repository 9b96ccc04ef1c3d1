//! The admission table: who is a member, and where members may be reached.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use libp2p::{Multiaddr, PeerId};

use crate::config::MemberAddresses;
use crate::gate::Source;
use crate::identity::peer_id;
use crate::knocks::Knocks;

/// Which of the two swarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlaneKind {
    Control,
    Bulk,
}

impl PlaneKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
        }
    }
}

/// What came of a new table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// Older than what is known: nothing changed.
    Older,
    /// In force; `newer` says that the version went up.
    InForce { newer: bool },
}

/// Shared by gates, dialers and handles; in force for the next frame as soon as it is set.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    table: RwLock<Table>,
    pub(crate) knocks: Knocks,
}

#[derive(Debug, Default)]
struct Table {
    version: Option<u64>,
    members: HashMap<PeerId, Addresses>,
    /// Where members are known to be.
    sources: HashSet<Source>,
}

#[derive(Debug)]
struct Addresses {
    control: Vec<Multiaddr>,
    bulk: Vec<Multiaddr>,
}

impl Admission {
    pub(crate) fn is_member(&self, peer: &PeerId) -> bool {
        self.read().members.contains_key(peer)
    }

    /// Whether a member is known at this source.
    pub(crate) fn is_known(&self, source: &Source) -> bool {
        self.read().sources.contains(source)
    }

    pub(crate) fn members(&self) -> Vec<PeerId> {
        let mut members: Vec<_> = self.read().members.keys().copied().collect();
        members.sort_unstable();
        members
    }

    /// Where a member may be reached on a plane.
    pub(crate) fn addresses(&self, peer: &PeerId, plane: PlaneKind) -> Vec<Multiaddr> {
        let table = self.read();
        let addresses = table.members.get(peer).map(|addresses| match plane {
            PlaneKind::Control => addresses.control.clone(),
            PlaneKind::Bulk => addresses.bulk.clone(),
        });
        addresses.unwrap_or_default()
    }

    /// Replaces the table, unless a newer one is in force. `own` is left out.
    pub(crate) fn replace(
        &self,
        version: u64,
        members: &[MemberAddresses],
        own: &PeerId,
    ) -> Replaced {
        let members: HashMap<_, _> = members
            .iter()
            .filter_map(|(node, control, bulk)| {
                let Some(peer) = peer_id(node) else {
                    tracing::warn!(node_id = %node, "member id is no peer id");
                    return None;
                };
                let control = parse(control);
                let bulk = parse(bulk);
                Some((peer, Addresses { control, bulk }))
            })
            .filter(|(peer, _)| peer != own)
            .collect();
        let addresses = members
            .values()
            .flat_map(|addresses: &Addresses| addresses.control.iter().chain(&addresses.bulk));
        let sources = addresses.filter_map(Source::of_address).collect();
        let mut table = self.write();
        if table.version.is_some_and(|current| version < current) {
            return Replaced::Older;
        }
        let newer = table.version != Some(version);
        table.version = Some(version);
        table.members = members;
        table.sources = sources;
        Replaced::InForce { newer }
    }

    // A panic elsewhere cannot leave the table half written: it is replaced in one assignment.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Addresses are hints: one that does not parse is left out.
fn parse(texts: &[String]) -> Vec<Multiaddr> {
    let parse = |text: &String| match text.parse() {
        Ok(address) => Some(address),
        Err(error) => {
            tracing::warn!(address = %text, %error, "member address is no multiaddress");
            None
        }
    };
    texts.iter().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::node_id;

    fn member(peer: &PeerId) -> MemberAddresses {
        let control = vec!["/ip4/127.0.0.1/tcp/1".to_owned(), "nonsense".to_owned()];
        (node_id(peer), control, Vec::new())
    }

    #[test]
    fn an_older_table_changes_nothing_and_the_own_node_is_left_out() {
        let [own, a, b] = [(); 3].map(|()| PeerId::random());
        let admission = Admission::default();
        let newer = Replaced::InForce { newer: true };
        assert_eq!(
            admission.replace(5, &[member(&own), member(&a)], &own),
            newer
        );
        assert!(admission.is_member(&a) && !admission.is_member(&own));
        assert_eq!(admission.addresses(&a, PlaneKind::Control).len(), 1);
        assert_eq!(admission.replace(4, &[member(&b)], &own), Replaced::Older);
        assert!(admission.is_member(&a) && !admission.is_member(&b));
        assert_eq!(admission.replace(6, &[member(&b)], &own), newer);
        assert_eq!(admission.members(), [b]);
        let same = Replaced::InForce { newer: false };
        assert_eq!(admission.replace(6, &[], &own), same);
        assert!(!admission.is_member(&b));
    }
}
