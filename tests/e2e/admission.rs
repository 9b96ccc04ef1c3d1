//! Who gets in: tokens, strangers, nodes that only submit.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use service::view::{JoinTokenView, LedgerEntryView, NodesView, TokenCreated, WhyView};
use service::{PeerMessage, PeerReply};
use types::{JoinReply, JoinRequest, JoinTokenText, NodeFacts, NodeId, codec};

use crate::harness::{Lab, Node, PATIENCE, wait_until};

/// Time for a call of a stranger, who is cut off long before.
const CALL: Duration = Duration::from_secs(10);

fn names(node: &Node) -> Vec<String> {
    let mut names: Vec<_> = node
        .ask::<NodesView>(&["nodes"])
        .nodes
        .into_iter()
        .map(|node| node.name)
        .collect();
    names.sort();
    names
}

#[test]
fn three_nodes_join_by_token_and_all_list_each_other() {
    let lab = Lab::new();
    let nodes = lab.three();
    for node in &nodes {
        let view: NodesView = node.ask(&["nodes"]);
        assert_eq!(names(node), ["a", "b", "c"]);
        let leaders = view.nodes.iter().filter(|node| node.role == "leader");
        assert_eq!(leaders.count(), 1, "{view:?}");
        assert!(
            view.nodes.iter().all(|node| !node.addresses.is_empty()),
            "{view:?}"
        );
        let table = node.muster(&["nodes"]).success();
        for name in ["a", "b", "c"] {
            assert!(table.lines().any(|line| line.contains(name)), "{table}");
        }
    }
    let clusters: Vec<_> = nodes.iter().map(|node| node.cluster().cluster).collect();
    assert!(clusters[0].is_some() && clusters.iter().all(|one| *one == clusters[0]));
}

#[test]
fn a_token_that_is_wrong_or_expired_or_used_up_admits_nobody_and_says_so() {
    let lab = Lab::new();
    let a = lab.one();
    let refused = |token: &str| {
        let machine = lab.machine("x");
        machine.up_in_vain(&["--join", token]).failure(1)
    };

    let short: TokenCreated = a.ask(&["token", "new", "--expires", "1s"]);
    let said = refused("muster1nonsense");
    assert!(said.contains("token"), "{said}");

    let mut wrong: JoinTokenText = a.first_token().parse().unwrap();
    wrong.secret[0] ^= 1;
    let said = refused(&wrong.to_string());
    assert!(said.contains("the token's secret is wrong"), "{said}");

    let once: TokenCreated = a.ask(&["token", "new", "--uses", "1"]);
    let b = lab.machine("b");
    // From a file, where no other user of the machine sees it.
    let file = lab.path().join("token");
    std::fs::write(&file, format!("{}\n", once.token)).unwrap();
    let from_file = format!("@{}", file.display());
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&file, open).unwrap();
    let said = b.up_in_vain(&["--join", &from_file]).failure(1);
    assert!(
        said.contains("other users of this machine may read"),
        "{said}"
    );
    let closed = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&file, closed).unwrap();
    b.up(&[
        "--join",
        &format!("@{}", lab.path().join("token").display()),
    ]);
    let said = refused(&once.token);
    assert!(said.contains("used"), "{said}");

    wait_until(PATIENCE, "the short token has expired", || {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        (now.as_millis() > u128::from(short.expires_at.unwrap())).then_some(())
    });
    let said = refused(&short.token);
    assert!(said.contains("expired"), "{said}");

    let revoked: TokenCreated = a.ask(&["token", "new"]);
    a.muster(&["token", "revoke", &revoked.id]).success();
    let said = refused(&revoked.token);
    assert!(
        said.contains("unknown") && said.contains("muster token new"),
        "{said}"
    );

    assert_eq!(names(&a), ["a", "b"]);
}

#[test]
fn a_token_of_another_cluster_does_not_open_this_one() {
    let lab = Lab::new();
    let a = lab.one();
    let other = lab.machine("other");
    other.up(&["--new"]);
    // The secret of the other cluster, shown at the door of this one.
    let mut token: JoinTokenText = other.first_token().parse().unwrap();
    let here: JoinTokenText = a.first_token().parse().unwrap();
    token.addresses = here.addresses;
    let x = lab.machine("x");
    let said = x.up_in_vain(&["--join", &token.to_string()]).failure(1);
    assert!(said.contains("unknown-token"), "{said}");
    assert_eq!(names(&a), ["a"]);
}

#[test]
fn a_stranger_is_cut_off_and_a_guest_with_a_token_is_not() {
    let lab = Lab::new();
    let a = lab.one();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(stranger(&a, lab.path()));
}

async fn stranger(member: &Node, directory: &Path) {
    let mut stranger = Stranger::new(member, &directory.join("stranger.key")).await;
    // The address is right: the one protocol that strangers may speak is answered, with a no.
    let answer = stranger.speak_to_the_door(JoinRequest::Members).await;
    assert!(
        matches!(&answer, JoinReply::Refused { code, .. } if code == "not-a-member"),
        "{answer:?}"
    );

    stranger.take_for_member().await;
    let asked = stranger.ask_for_lease().await;
    assert!(asked.is_err(), "{asked:?}");
    let network = &stranger.network.handle;
    let vote = Bytes::from_static(b"vote for me");
    let asked = network.raft_call(&stranger.target, vote, CALL).await;
    assert!(asked.is_err(), "{asked:?}");
    // Nor does it hear what members tell each other.
    while let Ok(event) = stranger.network.events.try_recv() {
        assert!(!matches!(event, network::Event::Report { .. }), "{event:?}");
    }
    // A node that has just started hears strangers out for two seconds, since they may know its home; then it tells.
    let deadline = std::time::Instant::now() + PATIENCE;
    while !member.log().contains("stranger cut off") {
        assert!(
            std::time::Instant::now() < deadline,
            "the log does not tell of the stranger"
        );
        assert!(stranger.ask_for_lease().await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stranger.leave().await;

    // The same call of one whom a token let in is answered, so it was the gate that refused.
    let guest = Stranger::new(member, &directory.join("guest.key")).await;
    let token: JoinTokenText = member.first_token().parse().unwrap();
    let answer = guest.speak_to_the_door(guest.join_request(&token)).await;
    assert!(matches!(answer, JoinReply::Admitted { .. }), "{answer:?}");
    guest.take_for_member().await;
    let answer = guest.ask_for_lease().await.unwrap();
    let answer: PeerReply = codec::decode(&answer, codec::MAX_MESSAGE_BYTES).unwrap();
    assert!(matches!(answer, PeerReply::Lease(Ok(_))), "{answer:?}");
    guest.leave().await;
}

/// A peer with a key of its own that knows where a member is.
pub(crate) struct Stranger {
    pub(crate) network: network::Network,
    pub(crate) target: NodeId,
    addresses: Vec<String>,
}

impl Stranger {
    pub(crate) async fn new(member: &Node, key: &Path) -> Self {
        let view: NodesView = member.ask(&["nodes"]);
        let loopback = || vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
        let config = network::Config {
            key_file: key.to_owned(),
            control_listen: loopback(),
            bulk_listen: loopback(),
            mdns: false,
            gossip_subscribe: true,
            bulk_bytes_per_second: None,
        };
        Self {
            network: network::start(config).await.unwrap(),
            target: view.nodes[0].id.parse().unwrap(),
            addresses: view.nodes[0].addresses.clone(),
        }
    }

    pub(crate) async fn leave(self) {
        self.network.shutdown.cancel();
        self.network.task.await.unwrap();
    }

    pub(crate) async fn speak_to_the_door(&self, request: JoinRequest) -> JoinReply {
        let request = Bytes::from(codec::encode(&request));
        let network = &self.network.handle;
        let answer = network.join_call(&self.addresses, request, CALL).await;
        codec::decode(&answer.unwrap().1, codec::MAX_MESSAGE_BYTES).unwrap()
    }

    /// Takes the member for one of its own.
    pub(crate) async fn take_for_member(&self) {
        let member = (self.target.clone(), self.addresses.clone(), Vec::new());
        self.network.handle.set_members(1, vec![member]).await;
    }

    /// What the member answers to a member's message.
    pub(crate) async fn ask(&self, message: &PeerMessage) -> PeerReply {
        let bytes = Bytes::from(codec::encode(message));
        let answer = self.network.handle.rpc(&self.target, bytes, CALL).await;
        codec::decode(&answer.expect("an answer"), codec::MAX_MESSAGE_BYTES).unwrap()
    }

    async fn ask_for_lease(&self) -> Result<Bytes, network::CallError> {
        let message = PeerMessage::Lease {
            tokens: Vec::new(),
            members_version: 0,
        };
        let message = Bytes::from(codec::encode(&message));
        self.network.handle.rpc(&self.target, message, CALL).await
    }

    pub(crate) fn join_request(&self, token: &JoinTokenText) -> JoinRequest {
        let own = self.network.handle.node_id();
        JoinRequest::V1 {
            token: token.token.clone(),
            proof: token.prove(own, &self.target, [7; 16]),
            facts: NodeFacts {
                name: "stranger".to_owned(),
                version: "0".to_owned(),
                control_addresses: Vec::new(),
                bulk_addresses: Vec::new(),
                takes_work: false,
                may_vote: false,
                keeps_blobs: false,
                labels: Vec::new(),
            },
        }
    }
}

#[test]
fn a_node_that_takes_no_work_submits_and_holds_no_vote() {
    let lab = Lab::new();
    let a = lab.one();
    let laptop = lab.machine("laptop");
    laptop.up(&["--no-work", "--join", &a.first_token()]);
    // Room for one at a time on `a`, and a laptop that stands idle.
    let ids: Vec<_> = (0..3)
        .map(|_| laptop.submit(&["--cpus", "4", "--", "sh", "-c", "echo here"]))
        .collect();
    for id in &ids {
        let detail = laptop.wait_end(id);
        assert_eq!(detail.summary.state, "finished", "{detail:?}");
        assert_eq!(detail.attempts[0].nodes[0].name, "a");
        assert_eq!(laptop.logs(id), "here\n");
    }
    let view: NodesView = laptop.ask(&["nodes"]);
    let own = view
        .nodes
        .iter()
        .find(|node| node.name == "laptop")
        .unwrap();
    assert_eq!((own.role.as_str(), own.takes_work), ("worker", false));
    let cluster = a.cluster();
    let voters: Vec<_> = cluster.voters.iter().map(|node| &node.name).collect();
    assert_eq!(voters, ["a"]);

    let id = laptop.submit(&["--constraint", "machine=laptop", "--", "true"]);
    let why: WhyView = laptop.ask(&["why", &id]);
    assert_eq!(
        (why.state.as_str(), why.possible_ever),
        ("queued", false),
        "{why:?}"
    );
}

#[test]
fn a_proof_that_was_overheard_opens_nothing_for_another() {
    let lab = Lab::new();
    let a = lab.one();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let guest = Stranger::new(&a, &lab.path().join("guest.key")).await;
        let token: JoinTokenText = a.first_token().parse().unwrap();
        let request = guest.join_request(&token);
        let thief = Stranger::new(&a, &lab.path().join("thief.key")).await;
        let answer = thief.speak_to_the_door(request.clone()).await;
        assert!(
            matches!(&answer, JoinReply::Refused { code, .. } if code == "bad-proof"),
            "{answer:?}"
        );
        let answer = guest.speak_to_the_door(request.clone()).await;
        assert!(matches!(answer, JoinReply::Admitted { .. }), "{answer:?}");
        // Again by the same one: it is in already, and no use is taken.
        let answer = guest.speak_to_the_door(request).await;
        assert!(matches!(answer, JoinReply::Admitted { .. }), "{answer:?}");
        thief.leave().await;
        guest.leave().await;
    });
    let tokens: Vec<JoinTokenView> = a.ask(&["token", "ls"]);
    assert_eq!((tokens.len(), tokens[0].uses_left), (1, 9), "{tokens:?}");
}

#[test]
fn whoever_guesses_join_tokens_is_locked_out_and_the_ledger_says_so() {
    let lab = Lab::new();
    let a = lab.one();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let token: JoinTokenText = a.first_token().parse().unwrap();
    let (code, message) = runtime.block_on(async {
        let guesser = Stranger::new(&a, &lab.path().join("guesser.key")).await;
        let mut guess = token.clone();
        let mut last = None;
        for number in 0..30 {
            guess.secret[0] = number;
            let JoinReply::Refused { code, message } = guesser
                .speak_to_the_door(guesser.join_request(&guess))
                .await
            else {
                panic!("a guess was right");
            };
            let is_over = code == "locked-out";
            last = Some((code, message));
            if is_over {
                break;
            }
        }
        // Another key from the same address is the same guesser.
        let other = Stranger::new(&a, &lab.path().join("other.key")).await;
        let answer = other.speak_to_the_door(other.join_request(&token)).await;
        assert!(
            matches!(&answer, JoinReply::Refused { code, .. } if code == "locked-out"),
            "{answer:?}"
        );
        guesser.leave().await;
        other.leave().await;
        last.unwrap()
    });
    assert_eq!(code, "locked-out");
    assert!(message.contains("wait"), "{message}");
    let told = wait_until(PATIENCE, "the ledger tells of it", || {
        let entries: Vec<LedgerEntryView> = a.ask(&["audit", "--limit", "100"]);
        let found = entries
            .into_iter()
            .find(|entry| entry.action == "entry-refused");
        found.map(|entry| entry.detail)
    });
    assert!(told.contains("join tokens from 127.0.0.1"), "{told}");
}

#[test]
fn a_removed_member_is_a_stranger_at_once() {
    let lab = Lab::new();
    let a = lab.one();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let guest = Stranger::new(&a, &lab.path().join("guest.key")).await;
        let token: JoinTokenText = a.first_token().parse().unwrap();
        let answer = guest.speak_to_the_door(guest.join_request(&token)).await;
        assert!(matches!(answer, JoinReply::Admitted { .. }), "{answer:?}");
        guest.take_for_member().await;
        assert!(guest.ask_for_lease().await.is_ok());
        let id = guest.network.handle.node_id().to_string();
        a.muster(&["node", "remove", &id, "--is-dead"]).success();
        // At once is when the member has applied it: a matter of milliseconds, and of a loaded machine.
        let deadline = std::time::Instant::now() + PATIENCE;
        while guest.ask_for_lease().await.is_ok() {
            assert!(
                std::time::Instant::now() < deadline,
                "a removed member is answered"
            );
        }
        let vote = Bytes::from_static(b"vote for me");
        let asked = guest
            .network
            .handle
            .raft_call(&guest.target, vote, CALL)
            .await;
        assert!(asked.is_err(), "{asked:?}");
        // With the token that let it in it does not come back under the key that was removed.
        let answer = guest.speak_to_the_door(guest.join_request(&token)).await;
        assert!(!matches!(answer, JoinReply::Admitted { .. }), "{answer:?}");
        guest.leave().await;
    });
}
