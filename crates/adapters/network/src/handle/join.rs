//! The stranger's side of the join protocol.

use std::time::Duration;

use bytes::Bytes;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};
use types::NodeId;

use super::{Handle, answered};
use crate::CallError;
use crate::identity::node_id;
use crate::plane::{Command, JoinAttempt};
use crate::protocol::MAX_JOIN_BYTES;

/// Addresses of one join call that are tried: a token carries a handful.
const MAX_JOIN_ADDRESSES: usize = 32;
/// Time that one node of a token gets to answer, if others are left to try.
const JOIN_TURN: Duration = Duration::from_secs(10);

/// Tries at one node.
const JOIN_TRIES: u32 = 3;
/// Wait between them.
const JOIN_PAUSE: Duration = Duration::from_millis(100);

/// Why one node of a token gave no answer.
enum JoinTurn {
    Stopped,
    Failed(String),
}

impl Handle {
    /// Asks the nodes at `addresses`, one after the other until one answers, on the protocol that
    /// strangers may speak: to join, or for the member list. Says who answered.
    ///
    /// # Errors
    /// Too large, or no address led to an answer: then what happened at each.
    pub async fn join_call(
        &self,
        addresses: &[String],
        request: Bytes,
        deadline: Duration,
    ) -> Result<(NodeId, Bytes), CallError> {
        if request.len() > MAX_JOIN_BYTES {
            return Err(CallError::TooLarge {
                to: self.node_id().clone(),
                bytes: request.len(),
                limit: MAX_JOIN_BYTES,
            });
        }
        let end = Instant::now() + deadline;
        let mut attempts = Vec::new();
        let targets = targets(addresses, &mut attempts);
        let count = targets.len();
        for (index, (peer, addresses)) in targets.into_iter().enumerate() {
            let whom = match peer {
                Some(peer) => format!("node {peer}"),
                None => addresses.iter().map(ToString::to_string).collect(),
            };
            let turn = if index + 1 == count {
                end
            } else {
                end.min(Instant::now() + JOIN_TURN)
            };
            match timeout_at(turn, self.join_one(peer, addresses, &request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(JoinTurn::Stopped)) => return Err(CallError::Stopped),
                Ok(Err(JoinTurn::Failed(reason))) => attempts.push(format!("{whom}: {reason}")),
                Err(_elapsed) => attempts.push(format!("{whom}: no answer in time")),
            }
        }
        Err(CallError::NobodyAnswered { attempts })
    }

    /// Asks one node, again if the connection ends: one that just came in may just be replaced.
    async fn join_one(
        &self,
        peer: Option<PeerId>,
        addresses: Vec<Multiaddr>,
        request: &Bytes,
    ) -> Result<(NodeId, Bytes), JoinTurn> {
        let mut tries = JOIN_TRIES;
        loop {
            let (done, answer) = oneshot::channel();
            let attempt = Command::Join(JoinAttempt {
                peer,
                addresses: addresses.clone(),
                request: request.clone(),
                done,
            });
            let sent = self.shared.control.command(attempt).await;
            sent.map_err(|_stopped| JoinTurn::Stopped)?;
            tries -= 1;
            match answer.await.map_err(|_dropped| JoinTurn::Stopped)? {
                Ok((server, outcome)) => {
                    let server = node_id(&server);
                    return match answered(&server, outcome) {
                        Ok(answer) => Ok((server, answer)),
                        Err(error) => Err(JoinTurn::Failed(error.to_string())),
                    };
                }
                Err(failure) if failure.lost && tries > 0 => sleep(JOIN_PAUSE).await,
                Err(failure) => return Err(JoinTurn::Failed(failure.reason)),
            }
        }
    }
}

/// Groups addresses by the node that they name, in order; notes those that are none.
fn targets(
    addresses: &[String],
    attempts: &mut Vec<String>,
) -> Vec<(Option<PeerId>, Vec<Multiaddr>)> {
    let mut targets: Vec<(Option<PeerId>, Vec<Multiaddr>)> = Vec::new();
    for text in addresses.iter().take(MAX_JOIN_ADDRESSES) {
        let address: Multiaddr = match text.parse() {
            Ok(address) => address,
            Err(error) => {
                attempts.push(format!("{text:?} is no address: {error}"));
                continue;
            }
        };
        let peer = address.iter().find_map(|part| match part {
            Protocol::P2p(peer) => Some(peer),
            _ => None,
        });
        let known = targets
            .iter_mut()
            .find(|(other, _)| peer.is_some() && *other == peer);
        match known {
            Some((_, addresses)) => addresses.push(address),
            None => targets.push((peer, vec![address])),
        }
    }
    targets
}
