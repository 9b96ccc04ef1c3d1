//! Answers other replicas.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::SnapshotResponse;
use tokio::time::Instant;
use types::{BlobHash, NodeId};

use crate::archives::blocking;
use crate::error::chain;
use crate::machine::{IncomingSnapshot, SnapshotFile, Stores, read_state};
use crate::raft_types::{Raft, RaftVote, Types};
use crate::reserve::{DiskRoom, Reserve};
use crate::transport::Transport;
use crate::wire::{CHUNK_BYTES, Request, Response};

/// Time for one piece of an archive.
const CHUNK_DEADLINE: Duration = Duration::from_secs(30);
/// Largest snapshot or archive that is accepted.
const MAX_TRANSFER_BYTES: u64 = 1 << 30;

/// When this replica may write for others.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) reserve: Reserve,
    /// Until then no vote is given: should the store be an older copy, a leader in office says so first.
    pub(crate) quiet_until: Instant,
}

impl Gate {
    fn is_quiet(&self) -> bool {
        Instant::now() < self.quiet_until
    }
}

/// The receiving side of this replica.
pub(crate) struct Receiver {
    pub(crate) raft: Raft,
    pub(crate) stores: Stores,
    pub(crate) transport: Arc<dyn Transport>,
    gate: Gate,
    sessions: AtomicU64,
    /// The one snapshot that is arriving; a newer one replaces it.
    incoming: Mutex<Option<Session>>,
}

struct Session {
    number: u64,
    from: NodeId,
    length: u64,
    file: IncomingSnapshot,
}

impl Receiver {
    pub(crate) fn new(
        raft: Raft,
        stores: Stores,
        transport: Arc<dyn Transport>,
        gate: Gate,
    ) -> Self {
        Self {
            gate,
            raft,
            stores,
            transport,
            sessions: AtomicU64::new(0),
            incoming: Mutex::new(None),
        }
    }

    /// Answers everything but reads.
    pub(crate) async fn answer(&self, from: &NodeId, request: Request) -> Response {
        if let Some(refusal) = self.cannot_store(&request) {
            return refusal;
        }
        match request {
            Request::Append(rpc) if !speaks_for(from, &rpc.vote) => impostor(from),
            Request::Append(rpc) => respond(self.raft.append_entries(rpc).await, Response::Append),
            Request::Vote(rpc) if !speaks_for(from, &rpc.vote) => impostor(from),
            Request::Vote(rpc) => respond(self.raft.vote(rpc).await, Response::Vote),
            Request::PreVote(rpc) if !speaks_for(from, &rpc.vote) => impostor(from),
            Request::PreVote(rpc) => respond(self.raft.pre_vote(rpc).await, Response::Vote),
            Request::TransferLeader(rpc) if !speaks_for(from, rpc.from_leader()) => impostor(from),
            Request::TransferLeader(rpc) => respond(
                self.raft.handle_transfer_leader(rpc).await,
                Response::TransferLeader,
            ),
            Request::ReadIndex => Response::Failed("a read belongs to the handle".into()),
            Request::BeginSnapshot { vote, length } => self.begin(from, &vote, length).await,
            Request::SnapshotChunk {
                session,
                offset,
                bytes,
            } => self.chunk(from, session, offset, bytes).await,
            Request::FinishSnapshot {
                session,
                vote,
                checksum,
            } => self.finish(from, session, vote, checksum).await,
            Request::Archive { name, offset } => self.archive(&name, offset).await,
            Request::StateHash { index } => Response::StateHash(self.stores.hashes.at(index)),
            Request::Reverted { vote, acknowledged } => self.reverted(from, &vote, acknowledged),
            Request::Fitness => Response::Failed("fitness belongs to the handle".into()),
        }
    }

    /// What would have to be written is refused while it may not or cannot be.
    fn cannot_store(&self, request: &Request) -> Option<Response> {
        let is_vote = matches!(request, Request::Vote(_) | Request::PreVote(_));
        if is_vote && self.gate.is_quiet() {
            let why = "it has just opened its store and listens for the leader first";
            return Some(Response::Failed(why.into()));
        }
        let writes = match request {
            Request::Append(rpc) => !rpc.entries.is_empty(),
            Request::BeginSnapshot { .. } => true,
            _ => is_vote,
        };
        match self.gate.reserve.room() {
            room @ DiskRoom::Full { .. } if writes => {
                let problem = room.problem(self.gate.reserve.directory());
                Some(Response::Failed(problem.unwrap_or_default()))
            }
            DiskRoom::Enough | DiskRoom::Low { .. } | DiskRoom::Full { .. } => None,
        }
    }

    /// The leader says that this replica has lost entries; its own log says whether that is so.
    fn reverted(&self, from: &NodeId, vote: &RaftVote, acknowledged: u64) -> Response {
        if !speaks_for(from, vote) {
            return impostor(from);
        }
        let metrics = self.raft.metrics();
        let last = metrics.borrow_watched().last_log_index;
        if last.is_some_and(|last| last >= acknowledged) {
            return Response::Failed(format!("its log reaches entry {last:?}"));
        }
        let end = last.map_or_else(|| "is empty".to_owned(), |last| format!("ends at {last}"));
        self.stores.failure.report(format!(
            "the store in {} is an older copy: the log {end}, but this node has acknowledged entries up to \
             {acknowledged} to the leader {from}; {}",
            self.gate.reserve.directory().display(),
            crate::error::REMEDY
        ));
        Response::Stopping
    }

    async fn begin(&self, from: &NodeId, vote: &RaftVote, length: u64) -> Response {
        if !speaks_for(from, vote) {
            return impostor(from);
        }
        if length > MAX_TRANSFER_BYTES {
            return Response::Failed(format!("a snapshot of {length} bytes is too large"));
        }
        let number = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let snapshots = self.stores.snapshots.clone();
        match blocking("start a snapshot", move || snapshots.receive(number)).await {
            Ok(file) => {
                let session = Session {
                    number,
                    from: from.clone(),
                    length,
                    file,
                };
                let old = self.replace(Some(session));
                drop(old);
                Response::SnapshotSession(number)
            }
            Err(error) => Response::Failed(chain(&error)),
        }
    }

    fn replace(&self, session: Option<Session>) -> Option<Session> {
        std::mem::replace(
            &mut *self.incoming.lock().unwrap_or_else(PoisonError::into_inner),
            session,
        )
    }

    /// Takes the session out while it is worked on.
    fn take(&self, from: &NodeId, number: u64) -> Result<Session, Response> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        match incoming.take_if(|session| session.number == number && session.from == *from) {
            Some(session) => Ok(session),
            None => Err(Response::Failed(format!(
                "snapshot session {number} is not open"
            ))),
        }
    }

    async fn chunk(&self, from: &NodeId, number: u64, offset: u64, bytes: Bytes) -> Response {
        let mut session = match self.take(from, number) {
            Ok(session) => session,
            Err(refusal) => return refusal,
        };
        let expected = session.file.length();
        if offset != expected || offset + bytes.len() as u64 > session.length {
            return Response::Failed(format!("a chunk at {offset} came, {expected} was expected"));
        }
        let written = blocking("write a snapshot", move || {
            session.file.append(&bytes)?;
            Ok(session)
        });
        match written.await {
            Ok(session) => {
                let newer = self.replace(Some(session));
                if newer.is_some() {
                    drop(self.replace(newer));
                    return Response::Failed("a newer snapshot has begun".into());
                }
                Response::ChunkStored
            }
            Err(error) => Response::Failed(chain(&error)),
        }
    }

    async fn finish(
        &self,
        from: &NodeId,
        number: u64,
        vote: RaftVote,
        checksum: [u8; 32],
    ) -> Response {
        let session = match self.take(from, number) {
            Ok(session) => session,
            Err(refusal) => return refusal,
        };
        if session.file.length() != session.length {
            return Response::Failed("the snapshot is not complete".into());
        }
        let checked = blocking("check a snapshot", move || {
            let snapshot = session.file.finish(checksum)?;
            let state = read_state(&snapshot)?;
            let meta = snapshot.meta()?;
            Ok((session, snapshot, state, meta))
        });
        let (session, snapshot, state, meta) = match checked.await {
            Ok(checked) => checked,
            Err(error) => return Response::Failed(chain(&error)),
        };
        let missing = self.stores.archives.missing(&state);
        drop(state);
        for (name, hash) in missing {
            if let Err(why) = self.fetch_archive(from, name, hash).await {
                return Response::Failed(why);
            }
        }
        let response = self.install(vote, meta, snapshot).await;
        // Only now: dropping it removes the file if Raft did not want it.
        drop(session);
        response
    }

    async fn install(
        &self,
        vote: RaftVote,
        meta: crate::raft_types::RaftSnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Response {
        let snapshot =
            openraft::type_config::alias::SnapshotOf::<Types, SnapshotFile> { meta, snapshot };
        let result = self.raft.install_full_snapshot(vote, snapshot).await;
        respond(result, |SnapshotResponse { vote, .. }| {
            Response::SnapshotInstalled(SnapshotResponse::new(vote))
        })
    }

    async fn fetch_archive(
        &self,
        from: &NodeId,
        name: String,
        hash: BlobHash,
    ) -> Result<(), String> {
        let mut record = Vec::new();
        loop {
            let request = Request::Archive {
                name: name.clone(),
                offset: record.len() as u64,
            };
            let answer = self
                .transport
                .bulk(from.clone(), request.encode(), CHUNK_DEADLINE)
                .await;
            let answer = answer.map_err(|error| error.to_string())?;
            match Response::decode(&answer).map_err(|error| error.to_string())? {
                Response::Archive(Some((bytes, length))) => {
                    if length > MAX_TRANSFER_BYTES || bytes.is_empty() {
                        return Err(format!(
                            "archive {name} of {length} bytes cannot be fetched"
                        ));
                    }
                    record.extend_from_slice(&bytes);
                    if record.len() as u64 >= length {
                        break;
                    }
                }
                Response::Archive(None) => {
                    return Err(format!("archive {name} is not on the leader"));
                }
                other => {
                    return Err(format!(
                        "archive {name}: the leader answered with {:?}",
                        other.name()
                    ));
                }
            }
        }
        self.stores
            .archives
            .receive(name, hash, record)
            .await
            .map_err(|error| chain(&error))
    }

    async fn archive(&self, name: &str, offset: u64) -> Response {
        match self.stores.archives.piece(name, offset, CHUNK_BYTES).await {
            Ok(piece) => Response::Archive(piece),
            Err(error) => Response::Failed(chain(&error)),
        }
    }
}

/// A vote names the node that asks for it or leads by it: nobody sends another node's.
fn speaks_for(from: &NodeId, vote: &RaftVote) -> bool {
    vote.leader_id.voted_for.0 == *from
}

fn impostor(from: &NodeId) -> Response {
    Response::Failed(format!("{from} sent a message of another node"))
}

fn respond<T, E: std::error::Error + 'static>(
    result: Result<T, E>,
    wrap: impl FnOnce(T) -> Response,
) -> Response {
    match result {
        Ok(answer) => wrap(answer),
        Err(error) => Response::Failed(chain(&error)),
    }
}
