//! Raft over libp2p: the one place where consensus meets the network.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{BoxFuture, Transport, TransportError};
use futures::FutureExt as _;
use types::NodeId;

/// Carries Raft's requests by the control plane, snapshots by the bulk plane.
#[derive(Debug)]
pub(crate) struct RaftTransport {
    network: network::Handle,
}

impl RaftTransport {
    pub(crate) fn new(network: network::Handle) -> Arc<Self> {
        Arc::new(Self { network })
    }
}

impl Transport for RaftTransport {
    fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let network = self.network.clone();
        async move {
            network
                .raft_call(&to, request, deadline)
                .await
                .map_err(|error| translate(&error))
        }
        .boxed()
    }

    fn bulk(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let network = self.network.clone();
        let request = [&[RAFT_BULK], request.as_ref()].concat();
        async move {
            network
                .bulk_call(&to, request.into(), deadline)
                .await
                .map_err(|error| translate(&error))
        }
        .boxed()
    }
}

/// First byte of a bulk call that is Raft's.
pub(crate) const RAFT_BULK: u8 = 0xff;

fn translate(error: &network::CallError) -> TransportError {
    match error {
        network::CallError::Unreachable { .. } => TransportError::Unreachable {
            why: error.to_string(),
        },
        network::CallError::Timeout { .. } => TransportError::TimedOut,
        other => TransportError::Failed {
            why: other.to_string(),
        },
    }
}
