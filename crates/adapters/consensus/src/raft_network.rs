//! Raft's messages over the [`Transport`].

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, EntryPayload, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use types::NodeId;

use crate::archives::blocking;
use crate::machine::SnapshotFile;
use crate::raft_types::{RaftEntry, RaftVote, Replica, Types};
use crate::transport::{Transport, TransportError};
use crate::wire::{CHUNK_BYTES, Request, Response};

type Rpc = RPCError<Types>;
type Snapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>;

/// Time for one chunk: 1 MiB at 300 kbit/s.
const CHUNK_DEADLINE: Duration = Duration::from_secs(30);
/// Time for the other end to check and install what it has, archives fetched included.
const INSTALL_DEADLINE: Duration = Duration::from_mins(5);

/// What each other replica has said that it has durably, by the term in which it said so to this leader.
///
/// openraft takes for granted that a follower's log never goes back. One whose disk did would make a leader of a debug
/// build panic, and one of a release build count what is gone; so it is noticed here and openraft never hears of it.
#[derive(Clone, Default)]
pub(crate) struct Acknowledged(Arc<Mutex<BTreeMap<NodeId, (u64, u64)>>>);

impl Acknowledged {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, (u64, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last index that `node` has acknowledged in `term`.
    fn get(&self, node: &NodeId, term: u64) -> Option<u64> {
        let known = self.lock();
        let (at, index) = known.get(node)?;
        (*at == term).then_some(*index)
    }

    fn note(&self, node: &NodeId, term: u64, index: u64) {
        let mut known = self.lock();
        let entry = known.entry(node.clone()).or_insert((term, index));
        if entry.0 < term || (entry.0 == term && entry.1 < index) {
            *entry = (term, index);
        }
    }
}

/// Largest append message, unless its first entry is larger: a tenth of a second at 20 Mbit/s. A message that takes
/// longer than its deadline never arrives, however often it is sent; and heartbeats on the same stream wait behind it.
const MAX_APPEND_BYTES: usize = 256 << 10;

/// How many entries of these sizes go into one message; at least one, if there is any.
fn entries_that_fit(sizes: impl Iterator<Item = usize>) -> usize {
    let mut whole = 0_usize;
    let fits = |(index, size): &(usize, usize)| {
        whole = whole.saturating_add(*size);
        *index == 0 || whole <= MAX_APPEND_BYTES
    };
    sizes.enumerate().take_while(fits).count()
}

/// Bytes of an entry, but for some that all have.
fn size_of(entry: &RaftEntry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

/// Makes a connection object for each other replica.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) acknowledged: Acknowledged,
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

    /// The replica's log went back behind what it has acknowledged: it must stop, and counts for nothing until then.
    async fn tell_reverted(&self, vote: RaftVote, acknowledged: u64) -> Rpc {
        tracing::error!(
            node_id = %self.node,
            acknowledged,
            "a replica has lost log entries that it had acknowledged"
        );
        let request = Request::Reverted { vote, acknowledged };
        if let Err(error) = self.call(&request, self.network.append_deadline).await {
            tracing::debug!(node_id = %self.node, %error, "it was not told");
        }
        self.failed("its log went back behind what it has acknowledged")
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
        mut rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, Rpc> {
        let fit = entries_that_fit(rpc.entries.iter().map(size_of));
        let is_cut = fit < rpc.entries.len();
        rpc.entries.truncate(fit);
        let (vote, previous) = (rpc.vote.clone(), rpc.prev_log_id);
        let last = rpc.entries.last().map(|entry| entry.log_id).or(previous);
        let term = vote.leader_id.term;
        // What is known before it is asked: an answer that is overtaken by a later one is no news.
        let known = self.network.acknowledged.get(&self.node, term);
        let answer = self
            .call(&Request::Append(rpc), self.network.append_deadline)
            .await?;
        let Response::Append(response) = answer else {
            return Err(self.unexpected(&answer));
        };
        let matching = match &response {
            AppendEntriesResponse::Success => last,
            AppendEntriesResponse::PartialSuccess(matching) => *matching,
            AppendEntriesResponse::Conflict => {
                let conflict = previous.map_or(0, |id| id.index);
                if let Some(acknowledged) = known.filter(|known| conflict <= *known) {
                    return Err(self.tell_reverted(vote, acknowledged).await);
                }
                None
            }
            AppendEntriesResponse::HigherVote(_) => None,
        };
        if let Some(matching) = matching {
            let acknowledged = &self.network.acknowledged;
            acknowledged.note(&self.node, term, matching.index);
        }
        // The rest is asked for anew from there.
        match response {
            AppendEntriesResponse::Success if is_cut => {
                Ok(AppendEntriesResponse::PartialSuccess(last))
            }
            response => Ok(response),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_holds_what_fits_and_at_least_one_entry() {
        let fit = |sizes: &[usize]| entries_that_fit(sizes.iter().copied());
        assert_eq!(fit(&[]), 0);
        assert_eq!(fit(&[500; 300]), 300);
        assert_eq!(fit(&[60_000; 300]), 4);
        assert_eq!(fit(&[MAX_APPEND_BYTES + 1, 1]), 1);
        assert_eq!(fit(&[MAX_APPEND_BYTES, 1]), 1);
        assert_eq!(fit(&[1, MAX_APPEND_BYTES]), 1);
        assert_eq!(fit(&[1, MAX_APPEND_BYTES - 1, 0, 1]), 3);
    }
}
