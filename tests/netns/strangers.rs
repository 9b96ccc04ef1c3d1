//! Others on the same network: another cluster, and somebody who floods and spoofs multicast DNS.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use types::JoinTokenText;

use crate::harness::{FAR, Node, PATIENCE, read_lossy, wait_until};
use crate::lab::{NetLab, found, say, seen_by, split_leader, stay, wait_whole};

/// Resident memory that a flood may cost a node.
const MOST_GROWTH_KIB: u64 = 48 << 10;
/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(20);

fn names(node: &Node) -> Vec<String> {
    let view: service::view::NodesView = node.ask(&["nodes"]);
    let mut names: Vec<_> = view.nodes.into_iter().map(|node| node.name).collect();
    names.sort();
    names
}

#[test]
fn two_clusters_on_one_network_leave_each_other_alone() {
    let Some(lab) = NetLab::new() else { return };
    let first = ["a", "b", "c"].map(|name| lab.host(name));
    let second = ["x", "y"].map(|name| lab.host(name));
    found(&first);
    found(&second);
    let terms = (seen_by(&first[0]).term, seen_by(&second[0]).term);
    stay(Duration::from_secs(10)); // Several rounds of reports, looks for members and questions of multicast DNS.
    for node in &first {
        assert_eq!(names(node), ["a", "b", "c"]);
    }
    for node in &second {
        assert_eq!(names(node), ["x", "y"]);
    }
    assert_eq!((seen_by(&first[0]).term, seen_by(&second[0]).term), terms);
    assert_ne!(seen_by(&first[0]).cluster, seen_by(&second[0]).cluster);
    for node in first.iter().chain(&second) {
        let knocks = node.log().matches("stranger cut off").count();
        assert_eq!(knocks, 0, "{} was bothered", node.name);
    }
    // A token leads to its own cluster, whoever else is heard.
    let third = lab.host("z");
    let theirs = second[0].first_token();
    third.up(&["--join", &theirs]);
    let [x, y] = second;
    wait_whole(&[x, y, third]);
    assert_eq!(names(&first[0]), ["a", "b", "c"]);
    // And what opens one cluster does not open the other.
    let theirs: JoinTokenText = theirs.parse().unwrap();
    let mut mixed: JoinTokenText = first[0].first_token().parse().unwrap();
    mixed.token = theirs.token;
    mixed.secret = theirs.secret;
    let fresh = lab.host("w");
    let said = fresh.up_in_vain(&["--join", &mixed.to_string()]).failure(1);
    assert!(said.contains("unknown-token"), "{said}");
    assert_eq!(names(&first[0]), ["a", "b", "c"]);
}

/// The alphabet of peer ids.
const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// A peer id that nobody has.
fn peer_id(chance: &mut StdRng) -> String {
    let mut bytes = vec![0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
    bytes.resize(38, 0);
    chance.fill_bytes(&mut bytes[6..]);
    let mut digits = Vec::new();
    for byte in &bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += *digit << 8;
            *digit = carry % 58;
            carry /= 58;
        }
        while carry > 0 {
            digits.push(carry % 58);
            carry /= 58;
        }
    }
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = digits
        .iter()
        .rev()
        .map(|digit| usize::try_from(*digit).unwrap());
    let digits = std::iter::repeat_n(0, zeros).chain(digits);
    digits.map(|digit| char::from(BASE58[digit])).collect()
}

fn name(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
}

/// An answer of libp2p's multicast DNS that says that a peer is at an address.
fn answer(peer: &str, address: &str, label: u32) -> Vec<u8> {
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    let week = 604_800_u32.to_be_bytes();
    name(&mut packet, "_p2p._udp.local");
    packet.extend([0, 12, 0, 1]);
    packet.extend(week);
    let mut owner = Vec::new();
    name(&mut owner, &format!("n{label:08}"));
    packet.extend(u16::try_from(owner.len()).unwrap().to_be_bytes());
    packet.extend_from_slice(&owner);
    packet.extend_from_slice(&owner);
    packet.extend([0, 16, 0x80, 1]);
    packet.extend(week);
    let text = format!("dnsaddr={address}/p2p/{peer}");
    packet.extend(u16::try_from(text.len() + 1).unwrap().to_be_bytes());
    packet.push(u8::try_from(text.len()).unwrap());
    packet.extend_from_slice(text.as_bytes());
    packet
}

/// A socket on a host of the laboratory.
fn socket_on(lab: &NetLab, host: &str) -> UdpSocket {
    let namespace = File::open(lab.lan.namespace(host)).expect("the namespace is there");
    let made = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("the thread may go there");
        UdpSocket::bind("0.0.0.0:5353").expect("a socket")
    });
    made.join().expect("the thread ends")
}

/// Floods until told to stop: new peers, wrong addresses of the known, and rubbish. Counts the packets.
fn flood(socket: &UdpSocket, known: &[String], stop: &AtomicBool, sent: &AtomicU64) {
    let mut chance = StdRng::seed_from_u64(62);
    let target = "224.0.0.251:5353";
    for label in 0.. {
        let packet = match label % 8 {
            0 => {
                let mut rubbish = vec![0; chance.random_range(1..1_400)];
                chance.fill_bytes(&mut rubbish);
                rubbish
            }
            1 => {
                let peer = &known[chance.random_range(0..known.len())];
                let port = chance.random_range(1..65_535);
                answer(peer, &format!("/ip4/10.77.0.66/tcp/{port}"), label)
            }
            _ => answer(&peer_id(&mut chance), "/ip4/10.77.0.66/tcp/7718", label),
        };
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // A full queue of the sender is as good as a packet.
        if socket.send_to(&packet, target).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn resident_kib(node: &Node) -> u64 {
    let status = read_lossy(format!("/proc/{}/status", node.process_id()).as_ref());
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).expect(&status)
}

#[test]
fn a_flood_of_false_multicast_answers_costs_no_election_and_little_memory() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    lab.lan.add_host("evil");
    let socket = socket_on(&lab, "evil");
    split_leader(&nodes);
    let known: Vec<_> = nodes.iter().map(|node| seen_by(node).node.id).collect();
    let term = seen_by(&nodes[0]).term;
    let before = nodes.each_ref().map(resident_kib);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut took = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&socket, &known, &stop, &sent));
        let start = Instant::now();
        while start.elapsed() < FLOOD {
            let asked = Instant::now();
            let output = nodes[1].muster(&[&["run", "--no-source"][..], &FAR].concat());
            took.push((asked.elapsed(), output.code));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let after = nodes.each_ref().map(resident_kib);
    let elections = seen_by(&nodes[0]).term - term;
    took.sort();
    say(&format!(
        "flood of multicast DNS: {} packets in {} s; {elections} elections; {} submissions, median {:?}, slowest {:?}; memory {before:?} → {after:?} KiB",
        sent.load(Ordering::Relaxed),
        FLOOD.as_secs(),
        took.len(),
        took[took.len() / 2].0,
        took[took.len() - 1].0,
    ));
    assert!(sent.load(Ordering::Relaxed) > 5_000, "a flood");
    assert_eq!(elections, 0);
    assert!(took.iter().all(|(_, code)| *code == 0), "{took:?}");
    for (before, after) in before.iter().zip(&after) {
        assert!(*after < before + MOST_GROWTH_KIB, "{before} → {after} KiB");
    }
    // What was said about members led nobody astray.
    for node in &nodes {
        node.terminate();
        node.up(&[]);
    }
    wait_until(PATIENCE, "all are connected again", || {
        let view: service::view::NodesView =
            serde_json::from_str(&nodes[0].muster(&["--json", "nodes"]).out).ok()?;
        let live = view.nodes.iter().filter(|node| node.health == "live");
        (live.count() == 3).then_some(())
    });
}
