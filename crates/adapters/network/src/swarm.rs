//! The two swarms: transports, windows, limits and protocols.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, ListenerId};
use libp2p::core::upgrade;
use libp2p::gossipsub::{self, MessageAuthenticity, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, Transport as _, connection_limits, identify, noise,
    ping, quic, tcp, yamux,
};

use crate::admission::{Admission, PlaneKind};
use crate::bulk_socket;
use crate::ending::Ending;
use crate::gate::Gate;
use crate::links::Links;
use crate::protocol::{
    IDENTIFY_VERSION, JOIN, MAX_JOIN_ANSWER_BYTES, MAX_JOIN_BYTES, MAX_REPORT_BYTES,
    MAX_REQUEST_STREAMS, MAX_RPC_ANSWER_BYTES, MAX_RPC_DEADLINE, MAX_RPC_REQUEST_BYTES, RPC,
};
use crate::wire::RequestCodec;
use crate::{Config, Error, Identity};

/// A dial or a handshake that takes longer has failed.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Members stay connected; strangers are the gate's business.
const CONTROL_IDLE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Bulk connections are made on demand and need not outlive a pause long.
const BULK_IDLE: Duration = Duration::from_secs(300);
/// Often enough to notice a silent peer within 15 s, seldom enough to cost nothing.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A ping that took longer was not answered.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Mesh upkeep; reports are forwarded at once, not by this.
const GOSSIP_HEARTBEAT: Duration = Duration::from_secs(2);
/// Signature, author, topic and framing around a report.
const GOSSIP_OVERHEAD_BYTES: usize = 2 << 10;
/// Handshakes under way from outside; half of them only from where a member is known, see `gate::crowd`.
const MAX_PENDING_INCOMING: u32 = 128;
/// Dials under way: a leader of a large cluster after a restart.
const MAX_PENDING_OUTGOING: u32 = 256;
/// Both ends dialling over two transports, and the old connections of a fresh member.
const MAX_CONNECTIONS_PER_PEER: u32 = 8;
/// Substreams of one connection.
const MAX_SUBSTREAMS: usize = 512;
/// Of a stranger that dialled us: each may hold 256 KiB of unread bytes, and joining takes one at a time.
const MAX_STRANGER_SUBSTREAMS: usize = 8;
/// Join requests of one connection at once.
const MAX_JOIN_STREAMS: usize = 4;

/// All protocols of a swarm; on bulk only the limits and the streams inside the gate are there.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    // First, so that a denied connection never reaches the gate.
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) gate: Gate<Members>,
    pub(crate) join: Toggle<request_response::Behaviour<RequestCodec>>,
}

/// The protocols that only members may speak.
#[derive(NetworkBehaviour)]
pub(crate) struct Members {
    pub(crate) streams: libp2p_stream::Behaviour,
    pub(crate) rpc: Toggle<request_response::Behaviour<RequestCodec>>,
    pub(crate) gossip: Toggle<gossipsub::Behaviour>,
    pub(crate) identify: Toggle<identify::Behaviour>,
    pub(crate) ping: Toggle<ping::Behaviour>,
}

/// Builds a swarm and listens; the listeners have their ports, not yet their addresses.
pub(crate) fn build(
    plane: PlaneKind,
    config: &Config,
    identity: &Identity,
    admission: &Arc<Admission>,
    control_links: &Arc<Links>,
) -> Result<(Swarm<Behaviour>, Vec<ListenerId>), Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Transport {
        plane: plane.name(),
        source,
    };
    let behaviour =
        behaviour(plane, identity, admission).map_err(|source| failed(source.into()))?;
    let (idle, listen) = match plane {
        PlaneKind::Control => (CONTROL_IDLE, &config.control_listen),
        PlaneKind::Bulk => (BULK_IDLE, &config.bulk_listen),
    };
    let mut swarm = SwarmBuilder::with_existing_identity(identity.keypair().clone())
        .with_tokio()
        .with_quic_config(|config| quic(plane, config))
        .with_other_transport(|key| tcp_transport(plane, key, admission, control_links))
        .map_err(|source| failed(source.into()))?
        .with_dns()
        .map_err(|source| failed(source.into()))?
        .with_behaviour(|_| behaviour)
        .map_err(|source| failed(source.into()))?
        .with_swarm_config(|config| {
            config
                .with_idle_connection_timeout(idle)
                .with_dial_concurrency_factor(NonZeroU8::new(4).expect("4 is not zero"))
        })
        .with_connection_timeout(CONNECTION_TIMEOUT)
        .build();
    let mut listeners = Vec::new();
    for text in listen {
        let address: Multiaddr = text.parse().map_err(|source| Error::ListenAddress {
            text: text.clone(),
            source,
        })?;
        refuse_taken(&address).map_err(|source| Error::Listen {
            address: text.clone(),
            source,
        })?;
        let listener = swarm.listen_on(address).map_err(|error| Error::Listen {
            address: text.clone(),
            source: io::Error::other(error),
        })?;
        listeners.push(listener);
    }
    Ok((swarm, listeners))
}

/// Fails if another process listens there: libp2p sets `SO_REUSEPORT`, so that two would share the
/// port unnoticed, each getting some of the connections.
fn refuse_taken(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

/// TCP with Noise and yamux, as `SwarmBuilder::with_tcp` makes it, with sockets that are prepared for their plane.
fn tcp_transport(
    plane: PlaneKind,
    key: &Keypair,
    admission: &Arc<Admission>,
    control_links: &Arc<Links>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Box<dyn std::error::Error + Send + Sync>> {
    let (admission, control_links) = (Arc::clone(admission), Arc::clone(control_links));
    let transport = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .map(move |stream, _| {
            bulk_socket::prepare(plane, &stream, &control_links);
            stream
        })
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex_ext(move |peer, endpoint| {
            yamux(admission.is_member(peer) || endpoint.is_dialer())
        })
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(Ending::new(muxer))));
    Ok(transport.boxed())
}

fn yamux(is_trusted: bool) -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(if is_trusted {
        MAX_SUBSTREAMS
    } else {
        MAX_STRANGER_SUBSTREAMS
    });
    config
}

fn quic(plane: PlaneKind, mut config: quic::Config) -> quic::Config {
    // Dialled only where TCP failed. What the receiver lets be in flight is the only bound here: 100 ms at
    // 20 Mbit/s, see `bulk_socket`.
    if plane == PlaneKind::Bulk {
        config.max_stream_data = 256 << 10;
        config.max_connection_data = 256 << 10;
    } else {
        // A stranger can make us hold so much for a connection: libp2p's own 15 MB times 64 would be a gigabyte.
        config.max_stream_data = 1 << 20;
        config.max_connection_data = 2 << 20;
    }
    config
}

/// The program's name and version, and a number of this process: how a peer tells that a node was started again.
fn agent_version() -> String {
    let life: u64 = rand::random();
    format!("muster/{} {life:016x}", env!("CARGO_PKG_VERSION"))
}

fn behaviour(
    plane: PlaneKind,
    identity: &Identity,
    admission: &Arc<Admission>,
) -> io::Result<Behaviour> {
    let control = plane == PlaneKind::Control;
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING_INCOMING))
        .with_max_pending_outgoing(Some(MAX_PENDING_OUTGOING))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER));
    let identify = identify::Config::new(IDENTIFY_VERSION.to_owned(), identity.keypair().public())
        .with_agent_version(agent_version())
        .with_interval(CONTROL_IDLE)
        .with_cache_size(0);
    let ping = ping::Config::new()
        .with_interval(PING_INTERVAL)
        .with_timeout(PING_TIMEOUT);
    let members = Members {
        streams: libp2p_stream::Behaviour::new(),
        rpc: control
            .then(|| {
                requests(
                    RPC,
                    MAX_RPC_REQUEST_BYTES,
                    MAX_RPC_ANSWER_BYTES,
                    MAX_REQUEST_STREAMS,
                )
            })
            .into(),
        gossip: control.then(|| gossip(identity)).transpose()?.into(),
        identify: control.then(|| identify::Behaviour::new(identify)).into(),
        ping: control.then(|| ping::Behaviour::new(ping)).into(),
    };
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        gate: Gate::new(members, Arc::clone(admission), plane),
        join: control
            .then(|| {
                requests(
                    JOIN,
                    MAX_JOIN_BYTES,
                    MAX_JOIN_ANSWER_BYTES,
                    MAX_JOIN_STREAMS,
                )
            })
            .into(),
    })
}

fn requests(
    protocol: libp2p::StreamProtocol,
    max_request: usize,
    max_answer: usize,
    max_streams: usize,
) -> request_response::Behaviour<RequestCodec> {
    let codec = RequestCodec {
        max_request,
        max_answer,
    };
    let config = request_response::Config::default()
        .with_request_timeout(MAX_RPC_DEADLINE)
        .with_max_concurrent_streams(max_streams);
    request_response::Behaviour::with_codec(codec, [(protocol, ProtocolSupport::Full)], config)
}

/// Signed by the author and held back until the owner's check; a mesh that 3 nodes can fill.
fn gossip(identity: &Identity) -> io::Result<gossipsub::Behaviour> {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .flood_publish(false)
        .max_transmit_size(MAX_REPORT_BYTES + GOSSIP_OVERHEAD_BYTES)
        .heartbeat_interval(GOSSIP_HEARTBEAT)
        .heartbeat_initial_delay(Duration::from_millis(500))
        .mesh_n(4)
        .mesh_n_low(2)
        .mesh_n_high(8)
        .mesh_outbound_min(1)
        .gossip_lazy(2)
        .connection_handler_queue_len(64)
        .build()
        .map_err(io::Error::other)?;
    let author = MessageAuthenticity::Signed(identity.keypair().clone());
    gossipsub::Behaviour::new(author, config).map_err(io::Error::other)
}
