//! Joining: the token people carry, the proof of knowing it, the signed member list.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ClusterId, Incarnation, NodeFacts, NodeId, TokenId, codec};

/// The token as people carry it: `muster1.<cluster id>.<token id>.<secret>.<addresses>`.
///
/// The secret is 128 random bits. The cluster's state holds only [`JoinTokenText::verifier`], so reading
/// the state does not let anybody make a token; proving knowledge needs the verifier's preimage-derived key.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinTokenText {
    /// Cluster that it pins.
    pub cluster: ClusterId,
    /// Which token.
    pub token: TokenId,
    /// 128 bits.
    pub secret: [u8; 16],
    /// Control addresses with peer ids, as multiaddr text, of members at the time it was made.
    pub addresses: Vec<String>,
}

/// The text is no join token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "this is not a join token ({why}): copy the whole text that `muster token new` or `muster up` printed, it starts with muster1."
)]
pub struct JoinTokenError {
    /// What is wrong with it.
    pub why: &'static str,
}

impl JoinTokenText {
    /// What the cluster keeps to check a proof: a keyed hash of the secret.
    #[must_use]
    pub fn verifier(&self) -> [u8; 32] {
        blake3::derive_key("muster 2026 join token verifier", &self.secret)
    }

    /// The proof that `joiner` knows the secret, for this one conversation with `server`.
    #[must_use]
    pub fn prove(&self, joiner: &NodeId, server: &NodeId, nonce: [u8; 16]) -> JoinProof {
        JoinProof::make(&self.verifier(), joiner, server, nonce)
    }
}

impl fmt::Debug for JoinTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinTokenText({}, secret hidden)", self.token)
    }
}

impl fmt::Display for JoinTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "muster1.{}.{}.", self.cluster, self.token)?;
        self.secret
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, ".{}", self.addresses.join(","))
    }
}

impl FromStr for JoinTokenText {
    type Err = JoinTokenError;
    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let error = |why| JoinTokenError { why };
        let mut parts = text.trim().splitn(5, '.');
        if parts.next() != Some("muster1") {
            return Err(error("it does not start with muster1."));
        }
        let mut part = |why| {
            parts
                .next()
                .filter(|part| !part.is_empty())
                .ok_or(error(why))
        };
        let cluster = part("the cluster id is missing")?
            .parse()
            .map_err(|_bad_id| error("the cluster id is damaged"))?;
        let token = part("the token id is missing")?
            .parse()
            .map_err(|_bad_id| error("the token id is damaged"))?;
        let digits = part("the secret is missing")?;
        let addresses = part("the addresses are missing")?
            .split(',')
            .map(str::to_owned)
            .collect();
        if digits.len() != 32 || !digits.is_ascii() {
            return Err(error("the secret is damaged"));
        }
        let mut secret = [0; 16];
        for (i, byte) in secret.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16)
                .map_err(|_not_hex| error("the secret is damaged"))?;
        }
        Ok(Self {
            cluster,
            token,
            secret,
            addresses,
        })
    }
}

/// Proof of knowing a token's secret, bound to both peers and a nonce, so that it cannot be replayed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinProof {
    /// Fresh random bits of the joiner.
    pub nonce: [u8; 16],
    /// Keyed BLAKE3 over both peer ids and the nonce.
    pub mac: [u8; 32],
}

impl JoinProof {
    fn make(verifier: &[u8; 32], joiner: &NodeId, server: &NodeId, nonce: [u8; 16]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(verifier);
        for id in [joiner, server] {
            hasher
                .update(&(id.as_str().len() as u64).to_le_bytes())
                .update(id.as_str().as_bytes());
        }
        let mac = *hasher.update(&nonce).finalize().as_bytes();
        Self { nonce, mac }
    }

    /// Whether it was made with the secret behind `verifier`; compares in constant time.
    #[must_use]
    pub fn verify(&self, verifier: &[u8; 32], joiner: &NodeId, server: &NodeId) -> bool {
        let expected = Self::make(verifier, joiner, server, self.nonce);
        blake3::Hash::from_bytes(expected.mac) == blake3::Hash::from_bytes(self.mac)
    }
}

/// What a stranger may say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinRequest {
    /// Admit me.
    V1 {
        /// Token that it knows.
        token: TokenId,
        /// Proof of that.
        proof: JoinProof,
        /// What it is.
        facts: NodeFacts,
    },
    /// Frozen: the current member list, for a node of this or an earlier one.
    Members,
    /// Admit me, and take out who I was before: the disk was lost or damaged.
    Again {
        /// Token that it knows.
        token: TokenId,
        /// Proof of that.
        proof: JoinProof,
        /// What it is.
        facts: NodeFacts,
        /// Earlier identities, the newest first, each with its signature over [`rejoin_bytes`].
        was: Vec<(NodeId, Vec<u8>)>,
    },
}

/// What an earlier identity signs: good for this one conversation.
#[must_use]
pub fn rejoin_bytes(token: &TokenId, proof: &JoinProof, was: &NodeId, now: &NodeId) -> Vec<u8> {
    codec::encode(&("muster 2026 rejoin", token, proof, was, now))
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReply {
    /// Admitted (or a member already).
    Admitted {
        /// The list, signed by the cluster.
        members: SignedMemberList,
    },
    /// Not admitted.
    Refused {
        /// Stable word: `unknown-token`, `expired`, `used-up`, `bad-proof`, `rate-limited`, `no-leader`, `not-a-member`.
        code: String,
        /// What to do.
        message: String,
    },
    /// The asking identity was taken out of the cluster.
    Removed {
        /// The list without it, signed by the cluster: the proof.
        members: SignedMemberList,
        /// By whom, when and why, for people.
        message: String,
    },
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// Where it was reachable, and what it is.
    pub facts: NodeFacts,
    /// Votes or learns: can answer for the cluster.
    pub has_state: bool,
}

/// The members of a cluster at a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberList {
    /// Cluster.
    pub cluster: ClusterId,
    /// History.
    pub incarnation: Incarnation,
    /// Log index of the last change; the higher valid one wins.
    pub version: u64,
    /// Timing profile of the cluster, `lan` or `wan`: replicas must agree on it.
    pub timing: String,
    /// Members.
    pub members: Vec<Member>,
}

/// A member list with the cluster key's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedMemberList {
    /// Encoded [`MemberList`]: the signed bytes.
    pub list: Vec<u8>,
    /// Protobuf-encoded public key whose hash is the cluster id.
    pub cluster_public_key: Vec<u8>,
    /// Ed25519 signature over `list`.
    pub signature: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinTokenText {
        JoinTokenText {
            cluster: ClusterId([7; 32]),
            token: "t-1".parse().unwrap(),
            secret: [9; 16],
            addresses: vec!["/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW".to_owned()],
        }
    }

    #[test]
    fn token_text_round_trips_and_bad_ones_say_why() {
        let text = token().to_string();
        assert_eq!(text.parse::<JoinTokenText>().unwrap(), token());
        for bad in [
            "",
            "muster1",
            "muster1.00.t-1.09.x",
            &text[..90],
            &text.replace("muster1", "muster9"),
        ] {
            assert!(bad.parse::<JoinTokenText>().is_err(), "{bad}");
        }
        assert!(!format!("{:?}", token()).contains("0909"));
    }

    #[test]
    fn a_proof_is_good_only_for_its_peers_and_secret() {
        let (a, b): (NodeId, NodeId) = ("aaa".parse().unwrap(), "bbb".parse().unwrap());
        let proof = token().prove(&a, &b, [1; 16]);
        assert!(proof.verify(&token().verifier(), &a, &b));
        assert!(!proof.verify(&token().verifier(), &b, &a));
        assert!(!proof.verify(&[0; 32], &a, &b));
    }
}
