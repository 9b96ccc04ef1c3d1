//! Real nodes on loopback, each with its own key, ports and runtime tasks.

// With its path, so that it is a module and no test program of its own; the first attribute says to clippy, which
// allows more in tests, that it is one.
#[cfg(test)]
#[path = "network/gate.rs"]
mod gate;
#[cfg(test)]
#[path = "network/sparse.rs"]
mod sparse;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use network::{
    BulkStream, CallError, Config, Event, Handle, MAX_BULK_FRAME_BYTES, MAX_JOIN_BYTES,
    MAX_RPC_REQUEST_BYTES, MemberAddresses, Network, RaftCall, start,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use types::{JoinReply, NodeId, codec};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(5);

/// A node whose calls are echoed, with what it saw.
struct Node {
    handle: Handle,
    seen: mpsc::Receiver<Seen>,
    stop: tokio_util::sync::CancellationToken,
    task: tokio::task::JoinHandle<()>,
    directory: TempDir,
    member: MemberAddresses,
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Up(NodeId),
    Down(NodeId),
    Report(NodeId, Bytes),
    Refused(NodeId),
}

fn config(directory: &Path) -> Config {
    Config {
        key_file: directory.join("node.key"),
        control_listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        bulk_listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        mdns: false,
        gossip_subscribe: true,
        bulk_bytes_per_second: None,
    }
}

async fn node() -> Node {
    node_with(|_| {}).await
}

async fn node_with(change: impl FnOnce(&mut Config)) -> Node {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut config = config(directory.path());
    change(&mut config);
    run(directory, config).await
}

async fn run(directory: TempDir, config: Config) -> Node {
    let network = start(config).await.expect("the network starts");
    let handle = network.handle.clone();
    let (control, bulk) = timeout(PATIENCE, handle.listen_addresses())
        .await
        .expect("listeners are bound");
    let (sender, seen) = mpsc::channel(1000);
    let stop = network.shutdown.clone();
    let task = tokio::spawn(serve(network, sender));
    let member = (handle.node_id().clone(), control, bulk);
    Node {
        handle,
        seen,
        stop,
        task,
        directory,
        member,
    }
}

/// Echoes every call with a word in front; a request `never` is held for ever, `drop` is dropped.
async fn serve(network: Network, seen: mpsc::Sender<Seen>) {
    let Network {
        mut events,
        mut raft,
        task,
        ..
    } = network;
    let mut held = Vec::new();
    loop {
        let event = tokio::select! {
            Some(RaftCall { request, reply, .. }) = raft.recv() => {
                tokio::spawn(async move { reply.send(echo("raft", &request)) });
                continue;
            }
            event = events.recv() => event,
        };
        let Some(event) = event else { break };
        let seen_now = match event {
            Event::Rpc { request, reply, .. } => {
                match &request[..] {
                    b"never" => held.push(reply),
                    b"drop" => drop(reply),
                    _ => reply.send(echo("rpc", &request)),
                }
                continue;
            }
            Event::BulkCall { request, reply, .. } => {
                reply.send(echo("bulk", &request));
                continue;
            }
            Event::Join {
                from,
                request,
                reply,
                ..
            } => {
                reply.send(echo(&format!("join {from}"), &request));
                continue;
            }
            Event::BulkStream { stream, .. } => {
                tokio::spawn(echo_stream(stream));
                continue;
            }
            Event::Discovered { .. } => continue,
            Event::Report { from, bytes } => Seen::Report(from, bytes),
            Event::PeerUp { node } => Seen::Up(node),
            Event::PeerDown { node } => Seen::Down(node),
            Event::StrangersRefused {
                node: Some(node), ..
            } => Seen::Refused(node),
            Event::StrangersRefused { node: None, .. } => continue,
        };
        if seen.send(seen_now).await.is_err() {
            break;
        }
    }
    task.await.expect("the network ends in order");
}

fn echo(word: &str, request: &[u8]) -> Bytes {
    [word.as_bytes(), b":", request].concat().into()
}

async fn echo_stream(mut stream: BulkStream) {
    let (mut read, mut write) = tokio::io::split(&mut stream);
    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
        // The other end may be gone already.
        write.shutdown().await.ok();
    }
}

impl Node {
    fn id(&self) -> &NodeId {
        self.handle.node_id()
    }

    /// Waits until it saw this; what it saw before is dropped.
    async fn sees(&mut self, expected: &Seen) {
        let wait =
            async { while self.seen.recv().await.expect("the node still runs") != *expected {} };
        let in_time = timeout(PATIENCE, wait).await;
        assert!(in_time.is_ok(), "no {expected:?} in time");
    }

    async fn rpc(&self, to: &Node, request: &'static str) -> Result<Bytes, CallError> {
        self.handle.rpc(to.id(), request.into(), DEADLINE).await
    }

    async fn raft(&self, to: &Node, request: &'static str) -> Result<Bytes, CallError> {
        let call = self.handle.raft_call(to.id(), request.into(), DEADLINE);
        call.await
    }

    async fn bulk(&self, to: &Node, request: &'static str) -> Result<Bytes, CallError> {
        let call = self.handle.bulk_call(to.id(), request.into(), DEADLINE);
        call.await
    }

    async fn stop(self) -> TempDir {
        self.stop.cancel();
        drop(self.handle);
        self.task.await.expect("the node ends in order");
        self.directory
    }
}

async fn admit(version: u64, nodes: &[&Node]) {
    let members: Vec<_> = nodes.iter().map(|node| node.member.clone()).collect();
    for node in nodes {
        node.handle.set_members(version, members.clone()).await;
    }
}

async fn two_members() -> (Node, Node) {
    let (mut a, mut b) = (node().await, node().await);
    admit(1, &[&a, &b]).await;
    let up = Seen::Up(b.id().clone());
    a.sees(&up).await;
    let up = Seen::Up(a.id().clone());
    b.sees(&up).await;
    (a, b)
}

async fn all_calls_work(a: &Node, b: &Node) {
    assert_eq!(a.rpc(b, "hello").await.expect("rpc"), "rpc:hello");
    assert_eq!(a.raft(b, "vote").await.expect("raft"), "raft:vote");
    assert_eq!(a.bulk(b, "blob").await.expect("bulk"), "bulk:blob");
}

#[tokio::test]
async fn members_exchange_calls_streams_and_reports_both_ways() {
    let (mut a, mut b) = two_members().await;
    all_calls_work(&a, &b).await;
    all_calls_work(&b, &a).await;

    let mut stream = a.handle.open_bulk_stream(b.id()).await.expect("stream");
    let sent = vec![7; 3 << 20];
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut received = Vec::new();
    let (written, copied) = tokio::join!(
        async {
            write.write_all(&sent).await?;
            write.shutdown().await
        },
        read.read_to_end(&mut received)
    );
    written.expect("written");
    copied.expect("read");
    assert!(received == sent, "{} bytes came back", received.len());

    // Gossip needs its mesh: the first report may come directly, the second cannot.
    for report in ["first", "second"] {
        a.handle.publish(report.into()).await;
        let expected = Seen::Report(a.id().clone(), report.into());
        if timeout(Duration::from_secs(3), b.sees(&expected))
            .await
            .is_err()
        {
            assert_eq!(report, "first", "gossip did not arrive");
        }
    }
    b.handle.publish("other".into()).await;
    a.sees(&Seen::Report(b.id().clone(), "other".into())).await;

    let peers = a.handle.peers();
    assert_eq!(peers.len(), 1);
    assert!(peers[0].connected && peers[0].node == *b.id());
    assert!(peers[0].addresses.contains(&b.member.1[0]));
}

#[tokio::test]
async fn many_calls_share_a_stream_and_each_gets_its_own_answer() {
    let (a, b) = two_members().await;
    let calls = (0..2000_u32).map(|number| {
        let (handle, to) = (a.handle.clone(), b.id().clone());
        tokio::spawn(async move {
            // Some are larger than what is gathered into one write.
            let size = if number % 100 == 0 { 60_000 } else { 20 };
            let request = Bytes::from(format!("{number:0>size$}"));
            let answer = handle.raft_call(&to, request.clone(), PATIENCE).await;
            assert_eq!(answer.expect("answer"), echo("raft", &request));
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("call");
    }
}

#[tokio::test]
async fn a_stranger_can_join_and_nothing_else() {
    let (mut member, mut stranger) = (node().await, node().await);
    admit(1, &[&member]).await;
    let (server, answer) = stranger
        .handle
        .join_call(&member.member.1, "let me in".into(), DEADLINE)
        .await
        .expect("strangers may ask to join");
    assert_eq!(server, *member.id());
    let expected = format!("join {}:let me in", stranger.id());
    assert_eq!(answer, expected.as_bytes());

    // The stranger claims membership to itself, the member does not agree.
    let claim = vec![member.member.clone(), stranger.member.clone()];
    stranger.handle.set_members(9, claim).await;
    let refused = Seen::Refused(stranger.id().clone());
    member.sees(&refused).await;
    for _ in 0..3 {
        let results = [
            stranger.rpc(&member, "hello").await,
            stranger.raft(&member, "vote").await,
            stranger.bulk(&member, "blob").await,
        ];
        for result in results {
            let error = result.expect_err("a stranger gets no answer");
            let refused = matches!(
                error,
                CallError::Refused { .. }
                    | CallError::Closed { .. }
                    | CallError::Unreachable { .. }
            );
            assert!(refused, "{error:?}");
        }
    }
    stranger.handle.publish("lies".into()).await;
    // A member that is admitted later shows that reports flow, and that this one did not.
    let mut late = node().await;
    admit(2, &[&member, &late]).await;
    late.handle.publish("truth".into()).await;
    let truth = Seen::Report(late.id().clone(), "truth".into());
    late.sees(&Seen::Up(member.id().clone())).await;
    let first_report = async {
        loop {
            match member.seen.recv().await {
                Some(Seen::Report(from, bytes)) => return Seen::Report(from, bytes),
                Some(_) => {}
                None => panic!("the member stopped"),
            }
        }
    };
    let first_report = timeout(PATIENCE, first_report).await.expect("a report");
    assert_eq!(first_report, truth);
    assert!(
        stranger.seen.try_recv().is_err(),
        "a stranger saw something"
    );
    assert!(!stranger.handle.peers()[0].connected);
}

#[tokio::test]
async fn admission_turns_the_same_stranger_into_a_member() {
    let (mut a, mut b) = (node().await, node().await);
    admit(1, &[&a]).await;
    b.handle
        .join_call(&a.member.1, "let me in".into(), DEADLINE)
        .await
        .expect("strangers may ask to join");
    assert!(matches!(
        a.rpc(&b, "hello").await,
        Err(CallError::NotMember { .. })
    ));
    admit(2, &[&a, &b]).await;
    a.sees(&Seen::Up(b.id().clone())).await;
    b.sees(&Seen::Up(a.id().clone())).await;
    all_calls_work(&a, &b).await;
    all_calls_work(&b, &a).await;
}

#[tokio::test]
async fn a_join_is_answered_although_admission_happens_before_the_answer() {
    let (a, mut b) = (node().await, node().await);
    admit(1, &[&a]).await;
    let members = vec![a.member.clone(), b.member.clone()];
    let (answer, ()) = tokio::join!(
        b.handle.join_call(&a.member.1, "now".into(), DEADLINE),
        a.handle.set_members(2, members.clone())
    );
    answer.expect("the answer comes although the connection is to be replaced");
    b.handle.set_members(2, members).await;
    b.sees(&Seen::Up(a.id().clone())).await;
    all_calls_work(&b, &a).await;
}

#[tokio::test]
async fn removal_cuts_off_at_once_and_an_older_list_does_not_bring_back() {
    let (mut a, mut b) = two_members().await;
    all_calls_work(&b, &a).await;
    let both = vec![a.member.clone(), b.member.clone()];
    a.handle.set_members(2, vec![a.member.clone()]).await;
    let error = a.raft(&b, "vote").await.expect_err("b is no member");
    assert!(matches!(error, CallError::NotMember { .. }), "{error:?}");
    for result in [b.raft(&a, "vote").await, b.rpc(&a, "hello").await] {
        result.expect_err("a removed member gets no answer");
    }
    b.sees(&Seen::Down(a.id().clone())).await;
    a.sees(&Seen::Down(b.id().clone())).await;
    a.handle.set_members(1, both.clone()).await;
    b.raft(&a, "vote").await.expect_err("the list was older");
    a.handle.set_members(3, both).await;
    b.handle.set_members(3, vec![a.member.clone()]).await;
    b.sees(&Seen::Up(a.id().clone())).await;
    all_calls_work(&b, &a).await;
}

#[tokio::test]
async fn a_member_that_restarts_is_found_again_and_calls_recover() {
    let (mut a, b) = two_members().await;
    all_calls_work(&a, &b).await;
    let (members, b_id, b_member) = (
        vec![a.member.clone(), b.member.clone()],
        b.id().clone(),
        b.member.clone(),
    );
    let directory = b.stop().await;
    a.sees(&Seen::Down(b_id.clone())).await;
    let call = a.handle.raft_call(&b_id, "vote".into(), DEADLINE);
    let error = call.await.expect_err("b is down");
    assert!(matches!(error, CallError::Unreachable { .. }), "{error:?}");

    let mut again = config(directory.path());
    again.control_listen = without_peer(&b_member.1);
    again.bulk_listen = without_peer(&b_member.2);
    let b = run(directory, again).await;
    assert_eq!(*b.id(), b_id);
    b.handle.set_members(1, members).await;
    a.sees(&Seen::Up(b_id)).await;
    all_calls_work(&a, &b).await;
    all_calls_work(&b, &a).await;
}

fn without_peer(addresses: &[String]) -> Vec<String> {
    let cut = |text: &String| text.split("/p2p/").next().unwrap_or_default().to_owned();
    addresses.iter().map(cut).collect()
}

#[tokio::test]
async fn a_report_reaches_a_member_that_connects_later_without_gossip() {
    let mut a = node_with(|config| config.gossip_subscribe = false).await;
    let mut b = node_with(|config| config.gossip_subscribe = false).await;
    a.handle.publish("I have 8 GPUs".into()).await;
    admit(1, &[&a, &b]).await;
    let report = Seen::Report(a.id().clone(), "I have 8 GPUs".into());
    b.sees(&report).await;
    a.sees(&Seen::Up(b.id().clone())).await;
}

#[tokio::test]
async fn quic_carries_everything_too() {
    let quic = |config: &mut Config| {
        config.control_listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
        config.bulk_listen.clone_from(&config.control_listen);
    };
    let (mut a, b) = (node_with(quic).await, node_with(quic).await);
    admit(1, &[&a, &b]).await;
    a.sees(&Seen::Up(b.id().clone())).await;
    all_calls_work(&a, &b).await;
    all_calls_work(&b, &a).await;
}

#[tokio::test]
async fn too_much_is_refused_before_anything_is_sent() {
    let (a, b) = two_members().await;
    let zeros = |bytes: usize| Bytes::from(vec![0; bytes]);
    let results = [
        a.handle
            .rpc(b.id(), zeros(MAX_RPC_REQUEST_BYTES + 1), DEADLINE)
            .await,
        a.handle
            .bulk_call(b.id(), zeros(MAX_BULK_FRAME_BYTES + 1), DEADLINE)
            .await,
        a.handle
            .join_call(&b.member.1, zeros(MAX_JOIN_BYTES + 1), DEADLINE)
            .await
            .map(|(_, answer)| answer),
    ];
    for result in results {
        let error = result.expect_err("too large");
        assert!(matches!(error, CallError::TooLarge { .. }), "{error:?}");
    }
    // The echo is longer than the request, and so over the limit on its way back.
    let call = a
        .handle
        .bulk_call(b.id(), zeros(MAX_BULK_FRAME_BYTES), PATIENCE);
    let error = call.await.expect_err("the answer is too large");
    let too_large = matches!(&error, CallError::Remote { code, .. } if *code == "answer-too-large");
    assert!(too_large, "{error:?}");
    all_calls_work(&a, &b).await;
}

#[tokio::test]
async fn a_call_without_answer_ends_at_its_deadline_and_a_dropped_one_at_once() {
    let (a, b) = two_members().await;
    let short = Duration::from_millis(200);
    let call = a.handle.rpc(b.id(), "never".into(), short);
    let error = timeout(PATIENCE, call).await.expect("in time");
    assert!(matches!(error, Err(CallError::Timeout { .. })), "{error:?}");
    let error = a.rpc(&b, "drop").await.expect_err("no answer");
    assert!(error.to_string().contains("not-answered"), "{error}");
}

#[tokio::test]
async fn a_join_call_to_wrong_addresses_says_what_was_wrong_with_each() {
    let (a, b) = (node().await, node().await);
    let other_node = format!("{}/p2p/{}", without_peer(&b.member.1)[0], a.id());
    let closed = "/ip4/127.0.0.1/tcp/1".to_owned();
    let addresses = ["nonsense".to_owned(), closed, other_node];
    let stranger = node().await;
    let call = stranger
        .handle
        .join_call(&addresses, "hello".into(), DEADLINE);
    let text = call.await.expect_err("nobody is there").to_string();
    for part in ["nonsense", "tcp/1", "refused", b.id().as_str()] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    // A good address after bad ones is found.
    let addresses = ["nonsense".to_owned(), a.member.1[0].clone()];
    let call = stranger
        .handle
        .join_call(&addresses, "hello".into(), DEADLINE);
    assert_eq!(call.await.expect("answer").0, *a.id());
}

#[tokio::test]
async fn join_requests_over_the_rate_are_answered_so() {
    let (a, b) = (node().await, node().await);
    let mut refused = 0;
    for _ in 0..100 {
        let call = b.handle.join_call(&a.member.1, "again".into(), DEADLINE);
        let (_, answer) = call.await.expect("always an answer");
        if let Ok(JoinReply::Refused { code, .. }) = codec::decode(&answer, answer.len()) {
            assert_eq!(code, "rate-limited");
            refused += 1;
        }
    }
    assert!(refused >= 10, "only {refused} of 100 were refused");
}

#[tokio::test]
async fn the_bulk_limit_holds_and_control_is_not_slowed() {
    let mut slow = node_with(|config| config.bulk_bytes_per_second = Some(1 << 20)).await;
    let fast = node().await;
    admit(1, &[&slow, &fast]).await;
    slow.sees(&Seen::Up(fast.id().clone())).await;
    let mut stream = slow
        .handle
        .open_bulk_stream(fast.id())
        .await
        .expect("stream");
    let start = tokio::time::Instant::now();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let sent = vec![1; 1 << 20];
    let mut received = Vec::new();
    let transfer = async {
        let (written, copied) = tokio::join!(
            async {
                write.write_all(&sent).await?;
                write.shutdown().await
            },
            read.read_to_end(&mut received)
        );
        written.expect("written");
        copied.expect("read");
        start.elapsed()
    };
    let calls = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let start = tokio::time::Instant::now();
            slow.raft(&fast, "beat").await.expect("raft");
            slowest = slowest.max(start.elapsed());
        }
        slowest
    };
    let (took, slowest) = tokio::join!(transfer, calls);
    // A tenth of a second at once, the rest at the rate.
    assert!(took >= Duration::from_millis(800), "1 MiB took {took:?}");
    assert!(
        slowest < Duration::from_millis(500),
        "a call took {slowest:?}"
    );
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let a = node().await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut taken = config(directory.path());
    taken.control_listen = without_peer(&a.member.1);
    let error = start(taken).await.expect_err("the port is taken");
    assert!(error.to_string().contains(&without_peer(&a.member.1)[0]));
    let mut wrong = config(directory.path());
    wrong.bulk_listen = vec!["127.0.0.1:80".to_owned()];
    let error = start(wrong).await.expect_err("no multiaddress");
    assert!(error.to_string().contains("127.0.0.1:80"), "{error}");
}

#[tokio::test]
async fn stopping_ends_every_task() {
    let (a, b) = two_members().await;
    all_calls_work(&a, &b).await;
    let _stream = a.handle.open_bulk_stream(b.id()).await.expect("stream");
    timeout(PATIENCE, b.stop()).await.expect("b ends in time");
    let stopped = a.handle.clone();
    timeout(PATIENCE, a.stop()).await.expect("a ends in time");
    let (control, _) = timeout(PATIENCE, stopped.listen_addresses())
        .await
        .expect("no hang");
    drop(control);
}

/// Forwards TCP connections until told to swallow everything, ends too, as a switch that loses power does.
async fn proxy(to: String, cut: tokio::sync::watch::Receiver<bool>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((inbound, _)) = listener.accept().await {
            let outbound = tokio::net::TcpStream::connect(&to);
            let Ok(outbound) = outbound.await else {
                continue;
            };
            let (in_read, in_write) = inbound.into_split();
            let (out_read, out_write) = outbound.into_split();
            tokio::spawn(forward(in_read, out_write, cut.clone()));
            tokio::spawn(forward(out_read, in_write, cut.clone()));
        }
    });
    format!("/ip4/127.0.0.1/tcp/{port}")
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut cut: tokio::sync::watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if cut.wait_for(|cut| !cut).await.is_err() || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
    // Whoever made it is gone: the same as the other end's end.
    cut.wait_for(|cut| !cut).await.ok();
}

#[tokio::test]
async fn a_silent_connection_is_given_up_and_found_again_after_it_heals() {
    let (mut a, mut b) = (node().await, node().await);
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    let port = without_peer(&b.member.1)[0].replace("/ip4/127.0.0.1/tcp/", "127.0.0.1:");
    let through_proxy = proxy(port, is_cut).await;
    let members = vec![(b.id().clone(), vec![through_proxy], b.member.2.clone())];
    let nowhere = vec![(a.id().clone(), Vec::new(), Vec::new())];
    b.handle.set_members(1, nowhere).await;
    a.handle.set_members(1, members).await;
    a.sees(&Seen::Up(b.id().clone())).await;
    a.raft(&b, "vote").await.expect("before");
    cut.send_replace(true);
    let start = tokio::time::Instant::now();
    a.sees(&Seen::Down(b.id().clone())).await;
    println!("given up after {:?}", start.elapsed());
    b.sees(&Seen::Down(a.id().clone())).await;
    a.raft(&b, "vote").await.expect_err("still cut");
    cut.send_replace(false);
    let start = tokio::time::Instant::now();
    a.sees(&Seen::Up(b.id().clone())).await;
    println!("up again after {:?}", start.elapsed());
    a.raft(&b, "vote").await.expect("after");
}

/// yamux lets a stream send 256 KiB before the other end must have read some: whoever has sent so much into a dead
/// connection waits, and nothing of yamux wakes him when the connection is closed.
#[tokio::test]
async fn a_stream_that_has_sent_all_it_may_ends_with_its_dead_connection() {
    let (mut a, mut b) = (node().await, node().await);
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    let port = without_peer(&b.member.1)[0].replace("/ip4/127.0.0.1/tcp/", "127.0.0.1:");
    let through_proxy = proxy(port, is_cut).await;
    let members = vec![(b.id().clone(), vec![through_proxy], b.member.2.clone())];
    let nowhere = vec![(a.id().clone(), Vec::new(), Vec::new())];
    b.handle.set_members(1, nowhere).await;
    a.handle.set_members(1, members).await;
    a.sees(&Seen::Up(b.id().clone())).await;
    a.raft(&b, "vote").await.expect("before");
    cut.send_replace(true);
    let deadline = Duration::from_millis(50);
    for _ in 0..200 {
        let append = Bytes::from(vec![b'x'; 64 << 10]);
        let answer = a.handle.raft_call(b.id(), append, deadline).await;
        answer.expect_err("cut");
    }
    a.sees(&Seen::Down(b.id().clone())).await;
    b.sees(&Seen::Down(a.id().clone())).await;
    cut.send_replace(false);
    a.sees(&Seen::Up(b.id().clone())).await;
    a.raft(&b, "vote").await.expect("after");
}

/// A process that is killed says nothing on QUIC, and its host may be slow to say so on TCP: the process that takes its
/// place speaks on a connection of its own, and the old one must not hold up calls until its pings are missed.
#[tokio::test]
async fn a_member_that_restarts_unseen_is_called_on_its_new_connection() {
    let (mut a, b) = (node().await, node().await);
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    let port = without_peer(&b.member.1)[0].replace("/ip4/127.0.0.1/tcp/", "127.0.0.1:");
    let through_proxy = proxy(port, is_cut).await;
    let b_id = b.id().clone();
    let members = vec![(b_id.clone(), vec![through_proxy], Vec::new())];
    let nowhere = vec![(a.id().clone(), Vec::new(), Vec::new())];
    b.handle.set_members(1, nowhere).await;
    a.handle.set_members(1, members).await;
    a.sees(&Seen::Up(b_id.clone())).await;
    a.raft(&b, "vote").await.expect("before");
    cut.send_replace(true);
    let directory = b.stop().await;
    let config = config(directory.path());
    let b = run(directory, config).await;
    assert_eq!(*b.id(), b_id);
    b.handle.set_members(1, vec![a.member.clone()]).await;
    b.raft(&a, "vote").await.expect("b dials a");
    let heard = async {
        let call = || a.handle.raft_call(&b_id, "vote".into(), DEADLINE / 10);
        while call().await.is_err() {}
    };
    timeout(DEADLINE, heard)
        .await
        .expect("long before pings are missed");
    cut.send_replace(false);
}
