//! What can go wrong.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use libp2p::identity::DecodingError;
use types::{ClusterId, NodeId, codec};

/// Why the network did not start, or a signed thing was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key file is there but cannot be read.
    #[error("reading the key file {} failed", path.display())]
    KeyRead {
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Others may read the key.
    #[error(
        "the key file {} has mode {mode:04o}: others can read it. Run `chmod 600 {}` if nobody did, else remove it and join anew",
        path.display(), path.display()
    )]
    KeyMode {
        /// File.
        path: PathBuf,
        /// Permission bits found.
        mode: u32,
    },
    /// The file holds no key.
    #[error("the key file {} is damaged", path.display())]
    KeyDecode {
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: DecodingError,
    },
    /// A new key cannot be stored.
    #[error("writing the key file {} failed", path.display())]
    KeyWrite {
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Not a cluster key.
    #[error("the cluster key does not decode")]
    ClusterKeyDecode(#[source] DecodingError),
    /// Signed by, or about, another cluster.
    #[error("this is cluster {found}, not {pinned} that the token names")]
    OtherCluster {
        /// Expected.
        pinned: ClusterId,
        /// Met.
        found: ClusterId,
    },
    /// Not signed by the cluster.
    #[error("the member list is not signed by cluster {cluster}")]
    MemberListSignature {
        /// Whose signature was expected.
        cluster: ClusterId,
    },
    /// Signed, but no member list that this build knows.
    #[error("the member list does not decode")]
    MemberListDecode(#[source] codec::Error),
    /// Not a multiaddress.
    #[error("{text:?} is not a listen address; write one like /ip4/0.0.0.0/tcp/7718")]
    ListenAddress {
        /// As given.
        text: String,
        /// Cause.
        #[source]
        source: libp2p::multiaddr::Error,
    },
    /// The address cannot be had.
    #[error("listening on {address} failed")]
    Listen {
        /// Address.
        address: String,
        /// Cause: mostly that another process has the port.
        #[source]
        source: io::Error,
    },
    /// The transports cannot be set up.
    #[error("setting up the {plane} transports failed")]
    Transport {
        /// `control` or `bulk`.
        plane: &'static str,
        /// Cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a call got no answer. Each says whom it was to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Not in the members table.
    #[error("{to} is not a member of this cluster")]
    NotMember {
        /// Node.
        to: NodeId,
    },
    /// No connection, and none could be made.
    #[error("{to} is unreachable: {reason}")]
    Unreachable {
        /// Node.
        to: NodeId,
        /// What was tried.
        reason: String,
    },
    /// It does not take this node for a member; not dialled again for a while.
    #[error("{to} refused this node: it does not know it as a member")]
    Refused {
        /// Node.
        to: NodeId,
    },
    /// No answer in time. The request may have been carried out.
    #[error("{to} did not answer within {} ms", deadline.as_millis())]
    Timeout {
        /// Node.
        to: NodeId,
        /// Given by the caller.
        deadline: Duration,
    },
    /// Request over the limit; nothing was sent.
    #[error("a request of {bytes} bytes to {to} is over the limit of {limit}")]
    TooLarge {
        /// Node.
        to: NodeId,
        /// Of the request.
        bytes: usize,
        /// Of the protocol.
        limit: usize,
    },
    /// The connection ended before the answer. The request may have been carried out.
    #[error("the connection to {to} ended: {reason}")]
    Closed {
        /// Node.
        to: NodeId,
        /// Cause.
        reason: String,
    },
    /// It answered that it will not answer.
    #[error("{to} gave no answer: {code}")]
    Remote {
        /// Node.
        to: NodeId,
        /// Stable word: `busy`, `not-answered`, `answer-too-large`, `not-a-member`.
        code: &'static str,
    },
    /// No address of a token led to an answer.
    #[error("no node answered the join request: {}", attempts.join("; "))]
    NobodyAnswered {
        /// One line per node or address tried.
        attempts: Vec<String>,
    },
    /// This node is shutting down.
    #[error("the network of this node has stopped")]
    Stopped,
}
