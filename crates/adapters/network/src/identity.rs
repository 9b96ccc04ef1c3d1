//! The key of a node, whose public half is its id.

use std::path::Path;

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey};
use types::NodeId;

use crate::{Error, key_file};

/// Multihash code of "the bytes themselves": an ed25519 `PeerId` holds its whole public key.
const IDENTITY_MULTIHASH: u64 = 0;

/// The ed25519 key of a node. Debug prints the id only.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    node_id: NodeId,
}

impl Identity {
    /// Reads the key file, or makes a new key if there is none.
    ///
    /// # Errors
    /// The file cannot be read or written, others may read it, or it holds no such key.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        if let Some(bytes) = key_file::read(path)? {
            return Ok(Self::new(decode(path, &bytes)?));
        }
        let keypair = Keypair::generate_ed25519();
        key_file::create(path, &encode(&keypair))?;
        Ok(Self::new(keypair))
    }

    fn new(keypair: Keypair) -> Self {
        let node_id = node_id(&keypair.public().to_peer_id());
        Self { keypair, node_id }
    }

    /// The id that others know this node by.
    #[must_use]
    pub fn node_id(&self) -> &NodeId {
        &self.node_id
    }

    /// Signs `bytes`; [`verify`] checks it.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        sign(&self.keypair, bytes)
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.node_id).finish()
    }
}

/// Whether `node` signed `bytes`: its public key is inside its id.
#[must_use]
pub fn verify(node: &NodeId, bytes: &[u8], signature: &[u8]) -> bool {
    let Some(peer) = peer_id(node) else {
        return false;
    };
    if peer.as_ref().code() != IDENTITY_MULTIHASH {
        return false;
    }
    PublicKey::try_decode_protobuf(peer.as_ref().digest())
        .is_ok_and(|key| key.verify(bytes, signature))
}

pub(crate) fn node_id(peer: &PeerId) -> NodeId {
    peer.to_base58()
        .parse()
        .expect("a PeerId is 40 to 60 base58 characters")
}

/// The `PeerId` that a node id is the text of, if it is one.
pub(crate) fn peer_id(node: &NodeId) -> Option<PeerId> {
    node.as_str().parse().ok()
}

pub(crate) fn sign(keypair: &Keypair, bytes: &[u8]) -> Vec<u8> {
    keypair
        .sign(bytes)
        .expect("only RSA keys can fail to sign, and all our keys are ed25519")
}

pub(crate) fn encode(keypair: &Keypair) -> Vec<u8> {
    keypair
        .to_protobuf_encoding()
        .expect("only RSA keys have no encoding, and all our keys are ed25519")
}

pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<Keypair, Error> {
    Keypair::from_protobuf_encoding(bytes).map_err(|source| Error::KeyDecode {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, metadata, read, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_private_and_signs_as_its_id() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        let first = Identity::load_or_create(&path).unwrap();
        let again = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.node_id(), again.node_id());
        assert_eq!(metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let signature = first.sign(b"words");
        assert!(verify(again.node_id(), b"words", &signature));
        assert!(!verify(again.node_id(), b"other", &signature));
        let other = Identity::load_or_create(&directory.path().join("other.key")).unwrap();
        assert!(!verify(other.node_id(), b"words", &signature));
        assert!(!verify(&"nope".parse().unwrap(), b"words", &signature));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        Identity::load_or_create(&path).unwrap();
        set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("0644") && text.contains("chmod 600"),
            "{text}"
        );
    }

    #[test]
    fn a_damaged_key_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        write(&path, b"not a key").unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            Identity::load_or_create(&path),
            Err(Error::KeyDecode { .. })
        ));
        assert_eq!(read(&path).unwrap(), b"not a key");
    }
}
