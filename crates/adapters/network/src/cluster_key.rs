//! The key of a cluster: its public half names the cluster, its private half signs member lists.

use std::path::Path;

use libp2p::identity::{Keypair, PublicKey};
use types::{ClusterId, MemberList, SignedMemberList, codec};

use crate::{Error, identity, key_file};

/// The ed25519 key pair of a cluster. Debug prints the id only.
#[derive(Clone)]
pub struct ClusterKey {
    keypair: Keypair,
}

impl ClusterKey {
    /// A new key, and with it a new cluster id.
    #[must_use]
    pub fn generate() -> Self {
        Self {
            keypair: Keypair::generate_ed25519(),
        }
    }

    /// The private half, to be sealed to voters.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        identity::encode(&self.keypair)
    }

    /// The key that [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// The bytes are no such key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let keypair = Keypair::from_protobuf_encoding(bytes).map_err(Error::ClusterKeyDecode)?;
        Ok(Self { keypair })
    }

    /// Reads the key from a file, if there is one.
    ///
    /// # Errors
    /// The file cannot be read, others may read it, or it holds no such key.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        let Some(bytes) = key_file::read(path)? else {
            return Ok(None);
        };
        let keypair = identity::decode(path, &bytes)?;
        Ok(Some(Self { keypair }))
    }

    /// Writes the key to a file with mode 0600, durably.
    ///
    /// # Errors
    /// The file cannot be written, or is there already.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        key_file::create(path, &self.to_bytes())
    }

    /// The public half as protobuf, as member lists carry it.
    #[must_use]
    pub fn public_key_bytes(&self) -> Vec<u8> {
        self.keypair.public().encode_protobuf()
    }

    /// The cluster that this key made.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        cluster_id(&self.public_key_bytes())
    }

    /// Signs a member list.
    #[must_use]
    pub fn sign(&self, list: &MemberList) -> SignedMemberList {
        let list = codec::encode(list);
        let signature = identity::sign(&self.keypair, &list);
        SignedMemberList {
            list,
            cluster_public_key: self.public_key_bytes(),
            signature,
        }
    }
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ClusterKey")
            .field(&self.cluster_id())
            .finish()
    }
}

/// The member list inside, if the cluster that a token pinned signed it.
///
/// # Errors
/// Another cluster's key, a wrong signature, bytes that are no list, or a list of another cluster.
pub fn open_member_list(signed: &SignedMemberList, pinned: ClusterId) -> Result<MemberList, Error> {
    let found = cluster_id(&signed.cluster_public_key);
    if found != pinned {
        return Err(Error::OtherCluster { pinned, found });
    }
    let key = PublicKey::try_decode_protobuf(&signed.cluster_public_key)
        .map_err(Error::ClusterKeyDecode)?;
    if !key.verify(&signed.list, &signed.signature) {
        return Err(Error::MemberListSignature { cluster: pinned });
    }
    let list: MemberList =
        codec::decode(&signed.list, codec::MAX_MESSAGE_BYTES).map_err(Error::MemberListDecode)?;
    if list.cluster != pinned {
        return Err(Error::OtherCluster {
            pinned,
            found: list.cluster,
        });
    }
    Ok(list)
}

fn cluster_id(public_key: &[u8]) -> ClusterId {
    ClusterId(*blake3::hash(public_key).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::Incarnation;

    fn list(cluster: ClusterId) -> MemberList {
        MemberList {
            cluster,
            incarnation: Incarnation(1),
            version: 7,
            timing: "lan".to_owned(),
            members: Vec::new(),
        }
    }

    #[test]
    fn a_list_opens_only_under_the_pinned_cluster_and_unchanged() {
        let key = ClusterKey::generate();
        let good = key.sign(&list(key.cluster_id()));
        assert_eq!(
            open_member_list(&good, key.cluster_id()).unwrap(),
            list(key.cluster_id())
        );

        let other = ClusterKey::generate();
        assert!(matches!(
            open_member_list(&good, other.cluster_id()),
            Err(Error::OtherCluster { .. })
        ));
        let other_list = codec::encode(&MemberList {
            version: 8,
            ..list(key.cluster_id())
        });
        let changed = SignedMemberList {
            list: other_list,
            ..good
        };
        assert!(matches!(
            open_member_list(&changed, key.cluster_id()),
            Err(Error::MemberListSignature { .. })
        ));
        let foreign = key.sign(&list(other.cluster_id()));
        assert!(matches!(
            open_member_list(&foreign, key.cluster_id()),
            Err(Error::OtherCluster { .. })
        ));
    }

    #[test]
    fn a_saved_key_is_the_same_cluster_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.key");
        assert!(ClusterKey::load(&path).unwrap().is_none());
        let key = ClusterKey::generate();
        key.save(&path).unwrap();
        let loaded = ClusterKey::load(&path).unwrap().unwrap();
        assert_eq!(loaded.cluster_id(), key.cluster_id());
        assert!(matches!(
            ClusterKey::generate().save(&path),
            Err(Error::KeyWrite { .. })
        ));
        let carried = ClusterKey::from_bytes(&key.to_bytes()).unwrap();
        assert_eq!(carried.cluster_id(), key.cluster_id());
    }
}
