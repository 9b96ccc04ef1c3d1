//! How this crate reaches other replicas: bytes out, bytes back. The caller brings the network.

use std::time::Duration;

use bytes::Bytes;
use types::NodeId;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = futures::future::BoxFuture<'a, T>;

/// Sends requests to the same crate on another node, which answers them with
/// [`Handle::handle_call`](crate::Handle::handle_call).
pub trait Transport: Send + Sync + 'static {
    /// Control plane: votes, log entries, reads. Small and urgent; at most 4 MiB each way.
    fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// Bulk plane: chunks of snapshots and archives, at most 8 MiB each way.
    fn bulk(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;
}

/// A request got no answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TransportError {
    /// There is no connection; nothing was sent. Retried with growing pauses.
    #[error("the node cannot be reached: {why}")]
    Unreachable {
        /// Why not.
        why: String,
    },
    /// No answer within the deadline.
    #[error("no answer within the deadline")]
    TimedOut,
    /// The connection broke on the way, or the other end refused.
    #[error("the request failed: {why}")]
    Failed {
        /// Why.
        why: String,
    },
}
