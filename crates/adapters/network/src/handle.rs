//! What the rest of the node does with the network.

mod join;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use libp2p::request_response::OutboundFailure;
use tokio::sync::{oneshot, watch};
use types::NodeId;

use crate::admission::{Admission, Replaced};
use crate::bulk_stream::SendLimit;
use crate::config::MemberAddresses;
use crate::connector::Connector;
use crate::event::{Discovered, PeerStatus};
use crate::identity::{node_id, peer_id};
use crate::kept::Kept;
use crate::pipe::Pipes;
use crate::plane::{Command, Listening, Sightings};
use crate::protocol::{BULK_STREAM, MAX_REPORT_BYTES, MAX_RPC_DEADLINE, MAX_RPC_REQUEST_BYTES};
use crate::wire::Outcome;
use crate::{BulkStream, CallError, Identity};

/// A cloneable door to the network.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) admission: Arc<Admission>,
    pub(crate) control: Connector,
    pub(crate) bulk: Connector,
    pub(crate) raft_pipes: Pipes,
    pub(crate) bulk_pipes: Pipes,
    pub(crate) bulk_limit: SendLimit,
    pub(crate) control_listening: watch::Receiver<Listening>,
    pub(crate) bulk_listening: watch::Receiver<Listening>,
    pub(crate) sightings: Arc<Sightings>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Handle").field(self.node_id()).finish()
    }
}

impl Handle {
    /// This node.
    #[must_use]
    pub fn node_id(&self) -> &NodeId {
        self.shared.identity.node_id()
    }

    /// Signs with the key of this node; [`crate::verify`] checks it.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.shared.identity.sign(bytes)
    }

    /// Where this node listens, control and bulk, each with `/p2p/<node>`. Waits until every
    /// listener has its port.
    pub async fn listen_addresses(&self) -> (Vec<String>, Vec<String>) {
        let control = bound(self.shared.control_listening.clone()).await;
        let bulk = bound(self.shared.bulk_listening.clone()).await;
        (control, bulk)
    }

    /// Replaces the admission table; a `version` under the current one is ignored. Who is no member
    /// any more is cut off at once; members without a connection are dialled. Returns when both
    /// planes act on it. This node itself may be in the list.
    pub async fn set_members(&self, version: u64, members: Vec<MemberAddresses>) {
        let own = self.shared.identity.keypair().public().to_peer_id();
        let newer = match self.shared.admission.replace(version, &members, &own) {
            Replaced::Older => {
                tracing::warn!(version, "older member list ignored");
                return;
            }
            Replaced::InForce { newer } => newer,
        };
        for plane in [&self.shared.control, &self.shared.bulk] {
            let (done, acted) = oneshot::channel();
            let changed = Command::MembersChanged { newer, done };
            if plane.command(changed).await.is_ok() {
                // An error means that the network is stopping: then nobody is connected either.
                drop(acted.await);
            }
        }
    }

    /// Which links this node makes and keeps in the background; at first all. To other members it connects for a call.
    pub async fn keep_links(&self, kept: Kept) {
        let (only, idle) = match kept {
            Kept::All => (None, None),
            Kept::Only { nodes, idle } => {
                (Some(nodes.iter().filter_map(peer_id).collect()), Some(idle))
            }
        };
        // An error means that the network is stopping, and with it all links.
        drop(
            self.shared
                .control
                .command(Command::Keep { only, idle })
                .await,
        );
    }

    /// Receives the reports of all nodes (voters and learners), or only sends its own.
    pub async fn set_subscribed(&self, subscribed: bool) {
        // An error means that the network is stopping, and with it the reports.
        drop(
            self.shared
                .control
                .command(Command::Subscribe(subscribed))
                .await,
        );
    }

    /// Asks a member on control. The request may be up to [`MAX_RPC_REQUEST_BYTES`], the deadline
    /// up to [`MAX_RPC_DEADLINE`].
    ///
    /// # Errors
    /// Not a member, not reachable, too large, no answer in time, or none at all.
    pub async fn rpc(
        &self,
        to: &NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        if request.len() > MAX_RPC_REQUEST_BYTES {
            return Err(CallError::TooLarge {
                to: to.clone(),
                bytes: request.len(),
                limit: MAX_RPC_REQUEST_BYTES,
            });
        }
        let deadline = deadline.min(MAX_RPC_DEADLINE);
        let answer = tokio::time::timeout(deadline, self.ask(to, request)).await;
        answer.unwrap_or_else(|_elapsed| {
            Err(CallError::Timeout {
                to: to.clone(),
                deadline,
            })
        })
    }

    async fn ask(&self, to: &NodeId, request: Bytes) -> Result<Bytes, CallError> {
        let control = &self.shared.control;
        let peer = control.member(to)?;
        let mut is_again = false;
        loop {
            control.connect(to, peer).await?;
            let resting = control.links.is_resting(&peer);
            let (done, answer) = oneshot::channel();
            let ask = Command::Rpc {
                peer,
                request: request.clone(),
                done,
            };
            control.command(ask).await?;
            let failure = match answer.await {
                Ok(Ok(outcome)) => return answered(to, outcome),
                Ok(Err(failure)) => failure,
                Err(_dropped) => return Err(CallError::Stopped),
            };
            // Closed for want of use while this call began: the other end has not read it.
            let unread = match failure {
                OutboundFailure::DialFailure => true,
                OutboundFailure::ConnectionClosed => resting,
                _ => false,
            };
            if !unread || std::mem::replace(&mut is_again, true) {
                return Err(unanswered(to, &failure));
            }
        }
    }

    /// Asks a member's Raft, on one long-lived stream that all calls to it share. Frames are up to
    /// [`crate::MAX_RAFT_FRAME_BYTES`]. After a lost connection the next call makes a new one.
    ///
    /// # Errors
    /// As [`Self::rpc`].
    pub async fn raft_call(
        &self,
        to: &NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        self.shared.raft_pipes.call(to, request, deadline).await
    }

    /// Asks a member on bulk; request and answer are up to [`crate::MAX_BULK_FRAME_BYTES`].
    ///
    /// # Errors
    /// As [`Self::rpc`].
    pub async fn bulk_call(
        &self,
        to: &NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        self.shared.bulk_pipes.call(to, request, deadline).await
    }

    /// Opens a byte stream to a member on bulk. The caller bounds the wait.
    ///
    /// # Errors
    /// Not a member, not reachable, or not accepted.
    pub async fn open_bulk_stream(&self, to: &NodeId) -> Result<BulkStream, CallError> {
        let stream = self.shared.bulk.open(to, &BULK_STREAM).await?;
        let limit = self.shared.bulk_limit.clone();
        Ok(BulkStream::new(stream, limit, None))
    }

    /// Sends a report of this node to all that listen, and to every member that connects later.
    /// Over [`MAX_REPORT_BYTES`] it is dropped with a warning.
    pub async fn publish(&self, report: Bytes) {
        if report.len() > MAX_REPORT_BYTES {
            let bytes = report.len();
            tracing::warn!(bytes, limit = MAX_REPORT_BYTES, "report over the limit");
            return;
        }
        // An error means that the network is stopping, and with it the reports.
        drop(self.shared.control.command(Command::Publish(report)).await);
    }

    /// The members, connected or not, without this node; by id.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let members = self.shared.admission.members();
        let status = members.iter().map(|peer| self.status(peer));
        status.collect()
    }

    fn status(&self, peer: &PeerId) -> PeerStatus {
        let link = self.shared.control.links.get(peer).unwrap_or_default();
        let control = crate::admission::PlaneKind::Control;
        let mut addresses = self.shared.admission.addresses(peer, control);
        for connection in link.connections {
            if !addresses.contains(&connection.address) {
                addresses.push(connection.address);
            }
        }
        PeerStatus {
            node: node_id(peer),
            connected: link.up,
            round_trip: link.round_trip,
            addresses: addresses.iter().map(ToString::to_string).collect(),
        }
    }

    /// From now on strangers that speak as members do are, or are not, remembered for [`Self::knocks`] and kept for a few
    /// seconds instead of being cut off at once: for a node that has lost touch with its cluster.
    pub fn listen_for_knocks(&self, lost: bool) {
        self.shared.admission.knocks.listen(lost);
    }

    /// Strangers that spoke as members do since the last call. Over their connections [`Self::join_call`] reaches them
    /// at `/p2p/<node>`.
    #[must_use]
    pub fn knocks(&self) -> Vec<NodeId> {
        let heard = self.shared.admission.knocks.take();
        heard.iter().map(node_id).collect()
    }

    /// The nodes that mDNS sees at present, members or not.
    #[must_use]
    pub fn discovered(&self) -> Vec<Discovered> {
        self.shared.sightings.list()
    }
}

async fn bound(mut listening: watch::Receiver<Listening>) -> Vec<String> {
    let ready = |now: &Listening| now.waiting_for.is_empty();
    let addresses = match listening.wait_for(ready).await {
        Ok(now) => now.addresses.clone(),
        // The network has stopped: it listens nowhere.
        Err(_closed) => Vec::new(),
    };
    addresses.iter().map(ToString::to_string).collect()
}

fn unanswered(to: &NodeId, failure: &OutboundFailure) -> CallError {
    match failure {
        OutboundFailure::UnsupportedProtocols => CallError::Refused { to: to.clone() },
        failure => CallError::Closed {
            to: to.clone(),
            reason: failure.to_string(),
        },
    }
}

fn answered(to: &NodeId, outcome: Outcome) -> Result<Bytes, CallError> {
    match outcome {
        Outcome::Answer(bytes) => Ok(bytes),
        Outcome::Failed(failure) => Err(CallError::Remote {
            to: to.clone(),
            code: failure.code(),
        }),
    }
}
