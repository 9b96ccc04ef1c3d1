//! Raft's messages over the [`Transport`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use types::NodeId;

use crate::archives::blocking;
use crate::machine::SnapshotFile;
use crate::raft_types::{RaftVote, Replica, Types};
use crate::transport::{Transport, TransportError};
use crate::wire::{CHUNK_BYTES, Request, Response};

type Rpc = RPCError<Types>;
type Snapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>;

/// Time for one chunk: 1 MiB at 300 kbit/s.
const CHUNK_DEADLINE: Duration = Duration::from_secs(30);
/// Time for the other end to check and install what it has, archives fetched included.
const INSTALL_DEADLINE: Duration = Duration::from_mins(5);

/// Makes a connection object for each other replica.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn Transport>,
    /// Time for an append: its fsync on the other end is part of it, so a heartbeat is too short.
    pub(crate) append_deadline: Duration,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: Replica, _node: &EmptyNode) -> Peer {
        Peer {
            node: target.0,
            network: self.clone(),
        }
    }
}

/// Another replica.
pub(crate) struct Peer {
    node: NodeId,
    network: Network,
}

impl Peer {
    async fn call(&self, request: &Request, deadline: Duration) -> Result<Response, Rpc> {
        let answer = self
            .network
            .transport
            .call(self.node.clone(), request.encode(), deadline)
            .await;
        self.response(answer)
    }

    async fn bulk(&self, request: &Request, deadline: Duration) -> Result<Response, Rpc> {
        let answer = self
            .network
            .transport
            .bulk(self.node.clone(), request.encode(), deadline)
            .await;
        self.response(answer)
    }

    fn response(&self, answer: Result<bytes::Bytes, TransportError>) -> Result<Response, Rpc> {
        match answer {
            Ok(bytes) => Response::decode(&bytes).map_err(|error| self.failed(&error.to_string())),
            Err(error @ TransportError::Unreachable { .. }) => Err(Unreachable::new(&error).into()),
            Err(error) => Err(NetworkError::new(&error).into()),
        }
    }

    fn failed(&self, why: &str) -> Rpc {
        NetworkError::from_string(format!("{}: {why}", self.node.short())).into()
    }

    fn unexpected(&self, response: &Response) -> Rpc {
        match response {
            Response::Failed(why) => self.failed(why),
            other => self.failed(&format!("it answered with {:?}", other.name())),
        }
    }

    async fn ask_vote(
        &self,
        request: &Request,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, Rpc> {
        match self.call(request, option.soft_ttl()).await? {
            Response::Vote(response) => Ok(response),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn send_snapshot(
        &self,
        vote: RaftVote,
        snapshot: SnapshotFile,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let length = snapshot.length();
        let begin = Request::BeginSnapshot {
            vote: vote.clone(),
            length,
        };
        let session = match self.bulk(&begin, CHUNK_DEADLINE).await? {
            Response::SnapshotSession(session) => session,
            other => return Err(self.unexpected(&other).into()),
        };
        let mut hasher = blake3::Hasher::new();
        let mut offset = 0;
        while offset < length {
            let source = snapshot.clone();
            let reading = blocking("read a snapshot", move || source.read(offset, CHUNK_BYTES));
            let bytes = reading
                .await
                .map_err(|error| self.failed(&error.to_string()))?;
            hasher.update(&bytes);
            let next = offset + bytes.len() as u64;
            match self
                .bulk(
                    &Request::SnapshotChunk {
                        session,
                        offset,
                        bytes,
                    },
                    CHUNK_DEADLINE,
                )
                .await?
            {
                Response::ChunkStored => offset = next,
                other => return Err(self.unexpected(&other).into()),
            }
        }
        let checksum = *hasher.finalize().as_bytes();
        let finish = Request::FinishSnapshot {
            session,
            vote,
            checksum,
        };
        match self.bulk(&finish, INSTALL_DEADLINE).await? {
            Response::SnapshotInstalled(response) => Ok(response),
            other => Err(self.unexpected(&other).into()),
        }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, Rpc> {
        match self
            .call(&Request::Append(rpc), self.network.append_deadline)
            .await?
        {
            Response::Append(response) => Ok(response),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, Rpc> {
        self.ask_vote(&Request::Vote(rpc), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, Rpc> {
        self.ask_vote(&Request::PreVote(rpc), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            result = self.send_snapshot(vote, snapshot.snapshot) => result,
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, Rpc> {
        match self
            .call(&Request::TransferLeader(rpc), option.soft_ttl())
            .await?
        {
            Response::TransferLeader(response) => Ok(response),
            other => Err(self.unexpected(&other)),
        }
    }
}
