//! What the network tells its owner.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use types::NodeId;

use crate::BulkStream;
use crate::frame::Frame;
use crate::wire::{Failure, Outcome};

/// Something that happened. A lost event costs latency, not truth: [`crate::Handle::peers`] has the state.
#[derive(Debug)]
pub enum Event {
    /// A member asks.
    Rpc {
        /// Who.
        from: NodeId,
        /// What.
        request: Bytes,
        /// Where the answer goes.
        reply: Reply,
    },
    /// A member asks on the bulk plane.
    BulkCall {
        /// Who.
        from: NodeId,
        /// What.
        request: Bytes,
        /// Where the answer goes.
        reply: Reply,
    },
    /// A member opened a stream on the bulk plane.
    BulkStream {
        /// Who.
        from: NodeId,
        /// The stream.
        stream: BulkStream,
    },
    /// Anyone, mostly a stranger, asks to join or for the member list. Already rate limited.
    Join {
        /// Who: proven by its key, not admitted.
        from: NodeId,
        /// From where: an IP address.
        source: String,
        /// What.
        request: Bytes,
        /// Where the answer goes.
        reply: Reply,
    },
    /// A member's report, by gossip (signed by it) or directly from it.
    Report {
        /// Author.
        from: NodeId,
        /// The report.
        bytes: Bytes,
    },
    /// A member is connected, and both ends know each other as members.
    PeerUp {
        /// Who.
        node: NodeId,
    },
    /// The last connection to a member that was up is gone.
    PeerDown {
        /// Who.
        node: NodeId,
    },
    /// mDNS saw a node, member or not.
    Discovered {
        /// Who.
        node: NodeId,
        /// Where.
        addresses: Vec<String>,
    },
    /// Strangers were cut off or not let in: they spoke what only members may, idled, or were too many.
    StrangersRefused {
        /// How many since the last word about them.
        count: u64,
        /// The last one, if it proved its key.
        node: Option<NodeId>,
        /// From where it came: an IP address.
        source: String,
        /// What it did.
        reason: String,
    },
}

/// A Raft call from a member. They come on a channel of their own, ahead of all else.
#[derive(Debug)]
pub struct RaftCall {
    /// Who.
    pub from: NodeId,
    /// What.
    pub request: Bytes,
    /// Where the answer goes.
    pub reply: Reply,
}

/// The place for one answer. It may be sent from any task; dropping it tells the caller `not-answered`.
#[derive(Debug)]
pub struct Reply {
    to: Option<ReplyTo>,
    limit: usize,
}

#[derive(Debug)]
enum ReplyTo {
    /// An answer to a request-response request; the caller may be gone, then nobody cares.
    Request(oneshot::Sender<Outcome>),
    /// An answer on a framed stream, whose place in the queue is kept.
    Frame {
        id: u64,
        slot: mpsc::OwnedPermit<Frame>,
    },
}

impl Reply {
    pub(crate) fn request(sender: oneshot::Sender<Outcome>, limit: usize) -> Self {
        Self {
            to: Some(ReplyTo::Request(sender)),
            limit,
        }
    }

    pub(crate) fn frame(id: u64, slot: mpsc::OwnedPermit<Frame>, limit: usize) -> Self {
        Self {
            to: Some(ReplyTo::Frame { id, slot }),
            limit,
        }
    }

    /// Sends the answer. Over the limit of the protocol the caller is told `answer-too-large`.
    pub fn send(mut self, answer: impl Into<Bytes>) {
        let answer = answer.into();
        if answer.len() > self.limit {
            tracing::warn!(
                bytes = answer.len(),
                limit = self.limit,
                "answer over the limit"
            );
            self.finish(Outcome::Failed(Failure::AnswerTooLarge));
        } else {
            self.finish(Outcome::Answer(answer));
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        match self.to.take() {
            // The swarm task stops waiting only when it ends itself.
            Some(ReplyTo::Request(sender)) => drop(sender.send(outcome)),
            Some(ReplyTo::Frame { id, slot }) => drop(slot.send(Frame::answer(id, &outcome))),
            None => {}
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.finish(Outcome::Failed(Failure::NotAnswered));
    }
}

/// A member as the network sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// Connected on control, each knowing the other as a member.
    pub connected: bool,
    /// Last ping.
    pub round_trip: Option<Duration>,
    /// Control addresses from the members table, then where it is connected from or to.
    pub addresses: Vec<String>,
}

/// A node that mDNS saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub addresses: Vec<String>,
}
