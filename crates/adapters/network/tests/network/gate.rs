//! Strangers that have proven a key and have no other right: streams by the hundred, half of a greeting, garbage where
//! a request to join belongs, protocols of members and protocols of nobody. Members are served meanwhile.

use std::cell::Cell;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::core::Endpoint;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use libp2p::core::transport::{Boxed, DialOpts, PortUse};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport as _, noise, quic, tcp, yamux};
use network::MAX_JOIN_BYTES;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use types::NodeId;

use super::{Node, PATIENCE, Seen, admit, all_calls_work, node, node_with, without_peer};

/// First word of every stream: multistream, and its length.
const GREETING: &[u8] = b"\x13/multistream/1.0.0\n";
const JOIN: &[u8] = b"/muster/join/1";
/// What only members speak on control.
const MEMBER_PROTOCOLS: [&[u8]; 9] = [
    b"/muster/rpc/1",
    b"/muster/raft/1",
    b"/meshsub/1.3.0",
    b"/meshsub/1.2.0",
    b"/meshsub/1.1.0",
    b"/meshsub/1.0.0",
    b"/ipfs/id/1.0.0",
    b"/ipfs/id/push/1.0.0",
    b"/ipfs/ping/1.0.0",
];
/// Streams that a stranger may have on TCP, as in `swarm.rs`.
const MAX_STRANGER_SUBSTREAMS: usize = 8;
/// Requests to join that one connection may have under way, as in `swarm.rs`.
const MAX_JOIN_STREAMS: usize = 4;
/// A stranger that asks nothing is cut off after this, as in `gate.rs`.
const STRANGER_IDLE: Duration = Duration::from_secs(5);
/// Connections of strangers from one source, as in `gate/crowd.rs`.
const MAX_STRANGERS: usize = 16;
/// What strangers may cost the process of this test, both ends and the tests beside it: 16 connections of 8 streams
/// with 256 KiB each have 32 MiB.
const MEMORY_BYTES: u64 = 96 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcp,
    Quic,
}

impl Way {
    fn listen(self) -> String {
        match self {
            Self::Tcp => "/ip4/127.0.0.1/tcp/0".to_owned(),
            Self::Quic => "/ip4/127.0.0.1/udp/0/quic-v1".to_owned(),
        }
    }

    fn transport(self, key: &Keypair) -> Boxed<(PeerId, StreamMuxerBox)> {
        match self {
            Self::Tcp => tcp::tokio::Transport::new(tcp::Config::new())
                .upgrade(Version::V1Lazy)
                .authenticate(noise::Config::new(key).expect("a key makes a handshake"))
                .multiplex(yamux::Config::default())
                .boxed(),
            Self::Quic => quic::tokio::Transport::new(quic::Config::new(key))
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
                .boxed(),
        }
    }
}

/// Two members that are connected, the first one reachable in the given way.
async fn members(way: Way) -> (Node, Node) {
    let mut a = node_with(|config| config.control_listen = vec![way.listen()]).await;
    let mut b = node().await;
    admit(1, &[&a, &b]).await;
    a.sees(&Seen::Up(b.id().clone())).await;
    b.sees(&Seen::Up(a.id().clone())).await;
    // The streams of calls are open before strangers come: opening one is given up after 1.5 s, which the handshakes of
    // a flood, all in this one thread, may take.
    all_calls_work(&b, &a).await;
    (a, b)
}

type Opening = oneshot::Sender<SubstreamBox>;

/// A connection to a node with a key of its own and nothing else of ours.
struct Stranger {
    id: NodeId,
    openings: mpsc::Sender<Opening>,
    connection: JoinHandle<()>,
}

impl Stranger {
    /// Whether the node lets it in at all is the gate's affair: none if it does not.
    async fn knock(member: &Node, way: Way) -> Option<Self> {
        let key = Keypair::generate_ed25519();
        let address = without_peer(&member.member.1)[0]
            .parse()
            .expect("a multiaddress");
        let options = DialOpts {
            role: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        let mut transport = way.transport(&key);
        let dialled = transport.dial(address, options);
        let dialled = timeout(PATIENCE, dialled.expect("the address is dialled")).await;
        let (_, muxer) = dialled.expect("an answer in time").ok()?;
        let (openings, wanted) = mpsc::channel(1);
        let connection = tokio::spawn(drive(muxer, wanted));
        let id = key.public().to_peer_id().to_string();
        Some(Self {
            id: id.parse().expect("a peer id is a node id"),
            openings,
            connection,
        })
    }

    /// A stream, on which the node has heard nothing yet; none when the connection is gone.
    async fn open(&self) -> Option<SubstreamBox> {
        let (opening, opened) = oneshot::channel();
        self.openings.send(opening).await.ok()?;
        let opened = timeout(PATIENCE, opened).await;
        opened.expect("a stream or its refusal in time").ok()
    }

    /// Until the node closes the connection.
    async fn until_cut_off(self) {
        let closed = timeout(PATIENCE, self.connection).await;
        let closed = closed.expect("it is cut off in time");
        closed.expect("the driver ends in order");
    }
}

/// Keeps a connection going and opens streams, until the other end closes it or nobody wants more.
async fn drive(mut muxer: StreamMuxerBox, mut openings: mpsc::Receiver<Opening>) {
    let mut wanted = None;
    std::future::poll_fn(|context| step(&mut muxer, &mut openings, &mut wanted, context)).await;
}

fn step(
    muxer: &mut StreamMuxerBox,
    openings: &mut mpsc::Receiver<Opening>,
    wanted: &mut Option<Opening>,
    context: &mut Context<'_>,
) -> Poll<()> {
    loop {
        match muxer.poll_unpin(context) {
            Poll::Ready(Ok(_)) => continue,
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => {}
        }
        match muxer.poll_inbound_unpin(context) {
            Poll::Ready(Ok(_)) => continue,
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => {}
        }
        if wanted.is_none() {
            match openings.poll_recv(context) {
                Poll::Ready(Some(opening)) => *wanted = Some(opening),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        match muxer.poll_outbound_unpin(context) {
            Poll::Ready(Ok(stream)) => {
                let opening = wanted.take().expect("it was looked at above");
                drop(opening.send(stream)); // Whoever asked may be gone.
            }
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// A word of multistream: length, text, line end.
fn word(text: &[u8]) -> Vec<u8> {
    let mut length = text.len() + 1;
    let mut out = Vec::new();
    while length > 127 {
        out.push(u8::try_from(length % 128).expect("seven bits") | 128);
        length /= 128;
    }
    out.push(u8::try_from(length).expect("seven bits"));
    [&out, text, b"\n"].concat()
}

fn proposal(protocol: &[u8]) -> Vec<u8> {
    [GREETING, &word(protocol)].concat()
}

/// Sends it all; false when the node would not have it.
async fn send(stream: &mut SubstreamBox, bytes: &[u8]) -> bool {
    let sending = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    let sent = timeout(PATIENCE, sending).await;
    sent.expect("taken or refused in time").is_ok()
}

/// What the node says until it ends the stream.
async fn until_the_end(mut stream: SubstreamBox) -> Vec<u8> {
    let mut said = Vec::new();
    let reading = stream.read_to_end(&mut said);
    // A reset is an end.
    drop(
        timeout(PATIENCE, reading)
            .await
            .expect("the node ends the stream"),
    );
    said
}

/// Sends all that it has to say, and hears all that the node says to it.
async fn exchange(mut stream: SubstreamBox, bytes: &[u8]) -> Vec<u8> {
    // Refused half way is as good: the answer tells.
    if send(&mut stream, bytes).await {
        drop(stream.close().await);
    }
    until_the_end(stream).await
}

/// One call of each kind, which may take as long as the threads of a loaded machine need.
async fn calls_are_answered(from: &Node, to: &Node) {
    let (handle, to) = (&from.handle, to.id());
    let rpc = handle.rpc(to, "hello".into(), PATIENCE).await;
    let raft = handle.raft_call(to, "vote".into(), PATIENCE).await;
    let bulk = handle.bulk_call(to, "blob".into(), PATIENCE).await;
    let answers = [rpc, raft, bulk].map(|answer| answer.expect("a member is served"));
    assert_eq!(answers, ["rpc:hello", "raft:vote", "bulk:blob"]);
}

/// Runs what strangers do while one member asks another without a pause; none of its calls fails.
async fn served_meanwhile<T>(member: &Node, other: &Node, strangers: impl Future<Output = T>) -> T {
    let done = Cell::new(false);
    let strangers = async {
        let came_to = strangers.await;
        done.set(true);
        came_to
    };
    let asking = async {
        let (mut rounds, mut slowest) = (0_u32, Duration::ZERO);
        while !done.get() || rounds == 0 {
            let began = Instant::now();
            calls_are_answered(other, member).await;
            slowest = slowest.max(began.elapsed());
            rounds += 1;
        }
        (rounds, slowest)
    };
    let (came_to, (rounds, slowest)) = tokio::join!(strangers, asking);
    println!("{rounds} rounds of calls of a member meanwhile, the slowest took {slowest:?}");
    came_to
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("a number of KiB") << 10
}

#[tokio::test]
async fn a_stranger_that_says_nothing_is_cut_off() {
    let mut member = Box::pin(node()).await;
    let stranger = Stranger::knock(&member, Way::Tcp).await.expect("let in");
    let id = stranger.id.clone();
    stranger.until_cut_off().await;
    member.sees(&Seen::Refused(id)).await;
}

/// Opens streams and leaves each in the middle of a greeting; how many the connection took before it ended.
async fn leave_half_open(stranger: Stranger, streams: usize) -> usize {
    let mut held = Vec::new();
    for number in 0..streams {
        let Some(mut stream) = stranger.open().await else {
            break;
        };
        let greeting = proposal(JOIN);
        if !send(&mut stream, &greeting[..number % greeting.len() + 1]).await {
            break;
        }
        held.push(stream);
    }
    let count = held.len();
    stranger.until_cut_off().await;
    count
}

async fn half_open_streams(way: Way) {
    let (a, b) = members(way).await;
    let before = resident();
    let flood = async {
        let mut strangers = JoinSet::new();
        for _ in 0..MAX_STRANGERS {
            if let Some(stranger) = Stranger::knock(&a, way).await {
                strangers.spawn(leave_half_open(stranger, 300));
            }
        }
        strangers.join_all().await
    };
    let taken = served_meanwhile(&a, &b, flood).await;
    let cost = resident().saturating_sub(before);
    println!(
        "{way:?}: streams taken {taken:?}, resident {} KiB more",
        cost >> 10
    );
    assert!(taken.len() > 1, "{} strangers were let in", taken.len());
    assert!(cost < MEMORY_BYTES, "{cost} bytes");
    calls_are_answered(&b, &a).await;
}

#[tokio::test]
async fn hundreds_of_half_open_streams_cost_the_stranger_its_connection() {
    half_open_streams(Way::Tcp).await;
}

#[tokio::test]
async fn hundreds_of_half_open_streams_over_quic_are_cut_off_too() {
    half_open_streams(Way::Quic).await;
}

#[tokio::test]
async fn a_stranger_may_hold_eight_streams_until_its_time_is_up_and_not_one_more() {
    let (mut a, _b) = members(Way::Tcp).await;
    let began = Instant::now();
    let modest = Stranger::knock(&a, Way::Tcp).await.expect("let in");
    let id = modest.id.clone();
    let greedy = Stranger::knock(&a, Way::Tcp).await.expect("let in");
    leave_half_open(greedy, MAX_STRANGER_SUBSTREAMS + 1).await;
    let took = began.elapsed();
    assert!(took < STRANGER_IDLE, "not before it was idle: {took:?}");
    assert_eq!(
        leave_half_open(modest, MAX_STRANGER_SUBSTREAMS).await,
        MAX_STRANGER_SUBSTREAMS
    );
    let took = began.elapsed();
    assert!(took >= STRANGER_IDLE, "after {took:?}");
    a.sees(&Seen::Refused(id)).await;
}

#[tokio::test]
async fn of_join_requests_that_stay_in_their_header_four_are_held_and_only_for_a_while() {
    let (mut a, _b) = members(Way::Tcp).await;
    let began = Instant::now();
    let stranger = Stranger::knock(&a, Way::Tcp).await.expect("let in");
    let id = stranger.id.clone();
    let mut ended = JoinSet::new();
    for _ in 0..MAX_STRANGER_SUBSTREAMS {
        let mut stream = stranger.open().await.expect("a stream");
        let cut_header = [&proposal(JOIN)[..], &[64, 0, 0]].concat();
        assert!(send(&mut stream, &cut_header).await);
        ended.spawn(async move {
            until_the_end(stream).await;
            began.elapsed()
        });
    }
    let ended = ended.join_all().await;
    let at_once = ended.iter().filter(|took| **took < STRANGER_IDLE);
    assert_eq!(
        at_once.count(),
        MAX_STRANGER_SUBSTREAMS - MAX_JOIN_STREAMS,
        "{ended:?}"
    );
    stranger.until_cut_off().await;
    a.sees(&Seen::Refused(id)).await;
}

/// Bytes where a request to join belongs, and whether they are one.
fn garbage(chance: &mut StdRng) -> (Vec<u8>, bool) {
    let message = |length: u32, kind: u8, body: usize, chance: &mut StdRng| {
        let mut bytes = vec![0; 5 + body];
        chance.fill_bytes(&mut bytes[5..]);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4] = kind;
        bytes
    };
    let most = u32::try_from(MAX_JOIN_BYTES).expect("it fits");
    match chance.random_range(0..8) {
        0 => (message(u32::MAX, 0, 64, chance), false),
        1 => (message(most + 1, 0, MAX_JOIN_BYTES + 1, chance), false),
        2 => (
            message(0, 0, 0, chance)[..chance.random_range(0..5)].to_vec(),
            false,
        ),
        // More is promised than comes.
        3 => (message(chance.random_range(1..=most), 0, 0, chance), false),
        4 => (message(16, chance.random_range(2..=255), 16, chance), false),
        5 => {
            let length = chance.random_range(0..=most);
            (message(length, 0, length as usize, chance), true)
        }
        _ => {
            let mut bytes = vec![0; chance.random_range(5..4_096)];
            chance.fill_bytes(&mut bytes);
            bytes[3] |= 1; // 16 MiB or more.
            (bytes, false)
        }
    }
}

/// Sends garbage as join requests, coming back whenever it was cut off; how many requests were answered.
async fn talk_nonsense(member: &Node, way: Way, seed: u64) -> usize {
    const ROUNDS: usize = 400;
    let mut chance = StdRng::seed_from_u64(seed);
    let negotiated = proposal(JOIN);
    let (mut answered, mut stranger) = (0, None);
    for round in 0..ROUNDS {
        let (bytes, is_request) = garbage(&mut chance);
        let stream = loop {
            let known: &mut Option<Stranger> = &mut stranger;
            if known.is_none() {
                *known = Stranger::knock(member, way).await;
            }
            match known.as_ref().expect("let in").open().await {
                Some(stream) => break stream,
                None => *known = None,
            }
        };
        let said = exchange(stream, &[&negotiated[..], &bytes].concat()).await;
        let is_answered = said.len() > negotiated.len();
        assert!(
            is_request || !is_answered,
            "seed {seed}, round {round}: {bytes:?} got {said:?}"
        );
        if is_answered {
            answered += 1;
        }
    }
    println!("{way:?}: {ROUNDS} rounds from seed {seed}, {answered} requests answered");
    answered
}

async fn garbage_where_a_join_request_belongs(way: Way) {
    let seed = std::env::var("MUSTER_FUZZ_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("seed {seed}: MUSTER_FUZZ_SEED takes another");
    let (a, b) = members(way).await;
    let before = resident();
    let answered = served_meanwhile(&a, &b, talk_nonsense(&a, way, seed)).await;
    let cost = resident().saturating_sub(before);
    assert!(cost < MEMORY_BYTES, "{cost} bytes");
    assert!(answered > 0, "no request among them was heard");
    calls_are_answered(&b, &a).await;
}

/// `MUSTER_FUZZ_SEED` takes another seed.
#[tokio::test]
async fn garbage_where_a_join_request_belongs_ends_its_stream_and_nothing_else() {
    garbage_where_a_join_request_belongs(Way::Tcp).await;
}

#[tokio::test]
async fn garbage_over_quic_where_a_join_request_belongs_ends_its_stream_too() {
    garbage_where_a_join_request_belongs(Way::Quic).await;
}

#[tokio::test]
async fn whoever_speaks_what_is_for_members_is_not_read_and_cut_off() {
    let (mut a, b) = members(Way::Tcp).await;
    for (number, protocol) in MEMBER_PROTOCOLS.into_iter().enumerate() {
        let stranger = Stranger::knock(&a, Way::Tcp).await.expect("let in");
        let id = stranger.id.clone();
        let began = Instant::now();
        let stream = stranger.open().await.expect("a stream");
        let call = [&proposal(protocol)[..], &[0; 1_024]].concat();
        let said = exchange(stream, &call).await;
        assert!(
            proposal(protocol).starts_with(&said),
            "{protocol:?}: {said:?}"
        );
        served_meanwhile(&a, &b, stranger.until_cut_off()).await;
        let took = began.elapsed();
        assert!(took < STRANGER_IDLE, "{protocol:?}: {took:?}");
        if number == 0 {
            // The next ones are told of together, after a while.
            a.sees(&Seen::Refused(id)).await;
        }
    }
}

#[tokio::test]
async fn names_of_no_protocol_get_no_answer_but_no() {
    let (a, b) = members(Way::Tcp).await;
    let mut chance = StdRng::seed_from_u64(7);
    let mut noise = vec![0; 2_000];
    chance.fill_bytes(&mut noise);
    let long = [b"/", &[b'x'; 16_000][..]].concat();
    let names: Vec<Vec<u8>> = [
        &b""[..],
        b"/",
        b"x",
        b"na",
        b"/muster/join/2",
        b"/muster/JOIN/1",
        b"/muster/join/1\0",
        b"/muster/bulk-call/1",
        b"/muster/bulk-stream/1",
        b"/\xff\xfe",
        &long,
        &noise,
    ]
    .into_iter()
    .map(proposal)
    // A length of which only half comes, one that is too large, one that never ends, and no greeting at all.
    .chain([
        [GREETING, b"\x40/muster"].concat(),
        [GREETING, b"\xff\xff\x7f", &noise].concat(),
        [GREETING, &[0xff; 64]].concat(),
        [GREETING, &[0; 64]].concat(),
        noise.clone(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ])
    .collect();
    let asking = async {
        for bytes in names {
            let stranger = Stranger::knock(&a, Way::Tcp).await.expect("let in");
            let stream = stranger.open().await.expect("a stream");
            let said = exchange(stream, &bytes).await;
            let no = [GREETING, b"\x03na\n"].concat();
            assert!(no.starts_with(&said), "{bytes:?} got {said:?}");
        }
    };
    served_meanwhile(&a, &b, asking).await;
}
