//! Names and bounds of the protocols that nodes speak.

use std::time::Duration;

use libp2p::StreamProtocol;

/// What a stranger may speak: admission, and the frozen question for the member list.
pub(crate) const JOIN: StreamProtocol = StreamProtocol::new("/muster/join/1");
/// Requests between members.
pub(crate) const RPC: StreamProtocol = StreamProtocol::new("/muster/rpc/1");
/// Raft calls: one long-lived stream each way per pair of members.
pub(crate) const RAFT: StreamProtocol = StreamProtocol::new("/muster/raft/1");
/// Bulk calls: framed as Raft calls are.
pub(crate) const BULK_CALL: StreamProtocol = StreamProtocol::new("/muster/bulk-call/1");
/// Raw byte streams for blobs and tails.
pub(crate) const BULK_STREAM: StreamProtocol = StreamProtocol::new("/muster/bulk-stream/1");
/// Topic of the node reports.
pub(crate) const REPORT_TOPIC: &str = "muster/report/1";
/// Version text that identify carries.
pub(crate) const IDENTIFY_VERSION: &str = "muster/1";

/// What a stranger is cut off for speaking: all that a member may speak on control.
pub(crate) const MEMBER_PROTOCOLS: [StreamProtocol; 9] = [
    RPC,
    RAFT,
    StreamProtocol::new("/meshsub/1.3.0"),
    StreamProtocol::new("/meshsub/1.2.0"),
    StreamProtocol::new("/meshsub/1.1.0"),
    StreamProtocol::new("/meshsub/1.0.0"),
    StreamProtocol::new("/ipfs/id/1.0.0"),
    StreamProtocol::new("/ipfs/id/push/1.0.0"),
    StreamProtocol::new("/ipfs/ping/1.0.0"),
];

/// Largest request of [`crate::Handle::rpc`]: a submit with its small files fits, a blob does not.
pub const MAX_RPC_REQUEST_BYTES: usize = 1 << 20;
/// Largest answer to it: a page of a listing.
pub const MAX_RPC_ANSWER_BYTES: usize = 8 << 20;
/// Largest Raft frame: what the codec of stored and sent values accepts.
pub const MAX_RAFT_FRAME_BYTES: usize = 64 << 20;
/// Largest frame of a bulk call: a segment.
pub const MAX_BULK_FRAME_BYTES: usize = 16 << 20;
/// Largest join request: a stranger gets no more of our memory than this.
pub const MAX_JOIN_BYTES: usize = 64 << 10;
/// Largest answer to one: a member list of thousands.
pub(crate) const MAX_JOIN_ANSWER_BYTES: usize = 4 << 20;
/// Largest node report: they go to every voter and learner, about once a second.
pub const MAX_REPORT_BYTES: usize = 8 << 10;
/// A request waits no longer than this for its answer, whatever deadline the caller gave.
pub const MAX_RPC_DEADLINE: Duration = Duration::from_secs(60);

/// Calls of one stream that wait for an answer; more wait for a place (back-pressure).
pub(crate) const MAX_CALLS_IN_FLIGHT: usize = 512;
/// Requests of all peers that wait for an answer; more are answered `busy`.
pub(crate) const MAX_REQUESTS_IN_FLIGHT: usize = 512;
/// Substreams of requests on one connection: above, libp2p drops them.
pub(crate) const MAX_REQUEST_STREAMS: usize = 256;
/// Inbound streams of one protocol from one peer: a swarm slows down under thousands.
pub(crate) const MAX_STREAMS_PER_PEER: usize = 64;
/// Events that the owner has not taken yet, as delivered.
pub(crate) const EVENT_QUEUE: usize = 256;
/// Events that wait inside for the owner; the oldest soft ones are dropped beyond.
pub(crate) const OUTBOX_QUEUE: usize = 2048;
/// Commands of the handles to a swarm.
pub(crate) const COMMAND_QUEUE: usize = 256;
