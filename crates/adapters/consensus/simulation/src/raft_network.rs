//! openraft's network over [`World::call`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use crate::network::{NoAnswer, Request, Response};
use crate::node::ELECTION_MAX;
use crate::raft_types::{RaftSnapshot, RaftVote, SnapshotBytes, Types};
use crate::world::World;

/// Time to send and install a snapshot; it is some 20 KiB here.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(5);

type Rpc = RPCError<Types>;

/// Makes a connection object for each other replica.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) world: Arc<World>,
    pub(crate) node: u64,
}

/// Another replica.
pub(crate) struct Peer {
    network: Network,
    to: u64,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Peer {
        Peer {
            network: self.clone(),
            to: target,
        }
    }
}

impl Peer {
    async fn call(&self, request: Request, deadline: Duration) -> Result<Response, Rpc> {
        let Network { world, node } = &self.network;
        match world.call(*node, self.to, request, deadline).await {
            Ok(response) => Ok(response),
            Err(NoAnswer::Refused) => {
                let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                Err(Unreachable::new(&refused).into())
            }
            Err(NoAnswer::Silence) => Err(NetworkError::from_string("no answer in time").into()),
        }
    }
}

fn failed() -> Rpc {
    NetworkError::from_string("the other end cannot").into()
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotBytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, Rpc> {
        match self.call(Request::Append(rpc), ELECTION_MAX).await? {
            Response::Append(response) => Ok(response),
            _ => Err(failed()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, Rpc> {
        match self.call(Request::Vote(rpc), option.soft_ttl()).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(failed()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, Rpc> {
        match self.call(Request::PreVote(rpc), option.soft_ttl()).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(failed()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let request = Request::Snapshot(Box::new((vote, snapshot)));
        let sending = self.call(request, SNAPSHOT_DEADLINE).boxed();
        match futures::future::select(Box::pin(cancel), sending).await {
            futures::future::Either::Left((closed, _)) => Err(closed.into()),
            futures::future::Either::Right((Ok(Response::Snapshot(response)), _)) => Ok(response),
            futures::future::Either::Right((Ok(_), _)) => Err(failed().into()),
            futures::future::Either::Right((Err(error), _)) => Err(error.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, Rpc> {
        match self.call(Request::Transfer(rpc), option.soft_ttl()).await? {
            Response::Transfer(response) => Ok(response),
            _ => Err(failed()),
        }
    }
}
