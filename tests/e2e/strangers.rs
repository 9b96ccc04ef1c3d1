//! Who is no member, on the planes and on the port of the API: floods, garbage, half of a handshake. Strangers come from
//! 127.0.0.9, members are at 127.0.0.1: to the gate these are two machines.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use service::view::{LedgerEntryView, NodesView};

use crate::harness::{Lab, Node, PATIENCE, leader_and_others, wait_until};

/// Connections of the flood.
const CONNECTIONS: usize = 10_000;
/// What the flood may cost a node: buffers of 64 handshakes and 64 strangers have under 20 MiB; a debug build and the
/// allocator take their part.
const MEMORY_BYTES: u64 = 64 << 20;

/// A connection from the strangers' address.
fn knock(to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let from: SocketAddr = ([127, 0, 0, 9], 0).into();
    rustix::net::bind(&socket, &from)?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// Open files of all tests of this file together: they share a process.
const OPEN_FILES: u64 = 16_000;

/// Lets this process have many connections; never fewer than it may have, since another test may have them.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(OPEN_FILES);
    assert!(
        most >= OPEN_FILES,
        "the hard limit of open files is {most}: raise it to {OPEN_FILES} for this test"
    );
    let raised = limit.current.map_or(OPEN_FILES, |now| now.max(OPEN_FILES));
    let limit = Rlimit {
        current: Some(raised),
        ..limit
    };
    setrlimit(Resource::Nofile, limit).expect("the soft limit can be raised");
}

/// Where a node listens on TCP for its peers.
fn control(node: &Node) -> SocketAddr {
    let view: NodesView = node.ask(&["nodes"]);
    let own = view.nodes.iter().find(|one| one.name == node.name).unwrap();
    let tcp = own.addresses.iter().find_map(|address| {
        let (_, rest) = address.split_once("/tcp/")?;
        let port = rest.split('/').next()?.parse().ok()?;
        Some(SocketAddr::from(([127, 0, 0, 1], port)))
    });
    tcp.expect("a TCP address")
}

/// Resident bytes of a node.
fn resident(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.process_id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("the kernel says so") << 10
}

/// What strangers send first: nothing, half of a greeting, garbage, lengths that promise a lot.
fn greeting(number: usize) -> Vec<u8> {
    match number % 6 {
        0 => Vec::new(),
        1 => b"\x13/multistream".to_vec(),
        2 => (0..4_096)
            .map(|at| u8::try_from((at * 31 + number * 7) % 256).expect("a byte"))
            .collect(),
        3 => vec![0xff; 512],
        4 => b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff".to_vec(),
        _ => b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
    }
}

#[test]
fn ten_thousand_connections_cost_little_and_keep_no_member_out() {
    raise_open_files();
    let lab = Lab::new();
    let [a, b, c] = lab.three();
    let door = control(&a);
    let before = resident(&a);
    let began = Instant::now();
    let mut held = Vec::with_capacity(CONNECTIONS);
    let mut most = before;
    let mut newcomer = None;
    for number in 0..CONNECTIONS {
        if let Ok(mut stream) = knock(door) {
            // Closed already: that is the gate's right.
            drop(stream.write_all(&greeting(number)));
            held.push(stream);
        }
        if number % 500 == 0 {
            most = most.max(resident(&a));
        }
        if number == CONNECTIONS / 4 {
            // In the middle of it a machine joins, from where members are.
            let token: service::view::TokenCreated = b.ask(&["token", "new"]);
            let d = lab.machine("d");
            d.spawn(&["--join", &token.token]);
            newcomer = Some(d);
        }
        if number == CONNECTIONS / 2 {
            let id = b.submit(&["--constraint", "machine=a", "--", "echo", "served"]);
            assert_eq!(c.wait_end(&id).summary.state, "finished");
            assert_eq!(c.logs(&id), "served\n");
        }
    }
    let newcomer = newcomer.unwrap();
    newcomer.wait_up();
    most = most.max(resident(&a));
    println!(
        "{} of {CONNECTIONS} connections made in {:.1} s: resident {} MiB before, {} MiB at most",
        held.len(),
        began.elapsed().as_secs_f64(),
        before >> 20,
        most >> 20
    );
    assert!(
        held.len() > CONNECTIONS / 2,
        "only {} were made",
        held.len()
    );
    assert!(most < before + MEMORY_BYTES, "{before} bytes became {most}");
    drop(held);
    // Whoever came in the flood is told of in few lines, however many they were.
    let told = |log: &str| log.matches("stranger cut off").count();
    wait_until(PATIENCE, "the node tells of strangers", || {
        (told(&a.log()) > 0).then_some(())
    });
    let lines = told(&a.log());
    let minutes = began.elapsed().as_secs() / 60 + 1;
    assert!(
        lines as u64 <= 2 * minutes,
        "{lines} lines in {minutes} min"
    );
    let refused = wait_until(PATIENCE, "the history tells of strangers", || {
        Some(refused_in_history(&b)).filter(|refused| !refused.is_empty())
    });
    assert!(
        refused.len() <= 6 && refused.iter().all(|detail| detail.contains("127.0.0.9")),
        "{refused:?}"
    );
}

/// It passes its notes on to the leader, under its own name.
#[test]
fn what_a_node_that_does_not_lead_refuses_is_in_the_history_too() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [door, _]) = leader_and_others(&nodes);
    let guess = format!("Bearer mt1.t-0.{}", "0".repeat(64));
    let headers = [("Authorization", guess.as_str())];
    wait_until(PATIENCE, "a lock-out", || {
        let (status, _) = door.http("GET", "/api/v1/experiments", &headers, "");
        (status == 429).then_some(())
    });
    wait_until(PATIENCE, "the history tells of it", || {
        let mut refused = refused_in_history(leader).into_iter();
        refused.find(|detail| detail.contains("user tokens") && detail.contains("127.0.0.1"))
    });
}

/// What the history says of those that were not let in.
fn refused_in_history(node: &Node) -> Vec<String> {
    let entries: Vec<LedgerEntryView> = node.ask(&["audit", "--limit", "1000"]);
    let refused = entries
        .into_iter()
        .filter(|entry| entry.action == "entry-refused");
    refused.map(|entry| entry.detail).collect()
}

/// What the API says to somebody at the members' address; none: it closed the connection.
fn ask_health(door: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(door).ok()?;
    let request = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn a_flood_of_the_api_is_told_to_come_later_and_the_socket_stays_free() {
    raise_open_files();
    let lab = Lab::new();
    let a = lab.one();
    let door: SocketAddr = a.tcp().parse().unwrap();
    let before = resident(&a);
    let mut held: Vec<_> = (0..2_000).filter_map(|_| knock(door).ok()).collect();
    for stream in held.iter_mut().step_by(3) {
        // Headers that never end.
        drop(stream.write_all(b"GET /api/v1/health HTTP/1.1\r\nHost: local"));
    }
    assert_eq!(
        a.get("/api/v1/health").0,
        200,
        "the socket has places of its own"
    );
    let said = wait_until(PATIENCE, "the door says that it is full", || {
        let said = ask_health(door)?;
        if said.starts_with("HTTP/1.1 200") {
            // On a loaded machine the first ones were closed already.
            held.extend((0..300).filter_map(|_| knock(door).ok()));
        }
        said.starts_with("HTTP/1.1 503").then_some(said)
    });
    for part in ["too-many-connections", "retry-after: 1"] {
        assert!(said.contains(part), "{said}");
    }
    // Those whose headers do not come are closed by themselves.
    wait_until(PATIENCE, "places are free again", || {
        ask_health(door).filter(|said| said.starts_with("HTTP/1.1 200"))
    });
    let after = resident(&a);
    println!(
        "2000 connections to the API: resident {} MiB before, {} MiB after",
        before >> 20,
        after >> 20
    );
    assert!(
        after < before + MEMORY_BYTES,
        "{before} bytes became {after}"
    );
    drop(held);
}

#[test]
fn slow_and_broken_handshakes_are_closed_and_others_come_in_meanwhile() {
    let lab = Lab::new();
    let a = lab.one();
    let door = control(&a);
    let mut slow: Vec<_> = (0..200)
        .filter_map(|number| {
            let mut stream = knock(door).ok()?;
            drop(stream.write_all(&greeting(number)[..1.min(greeting(number).len())]));
            Some(stream)
        })
        .collect();
    let b = lab.machine("b");
    b.up(&["--join", &a.first_token()]);
    for stream in &mut slow {
        let patience = Some(PATIENCE);
        stream.set_read_timeout(patience).unwrap();
        let mut rest = [0; 1_024];
        // Its greeting, then the end: no stranger keeps a handshake open.
        while let Ok(count @ 1..) = stream.read(&mut rest) {
            assert!(count <= rest.len());
        }
    }
    let view: NodesView = a.ask(&["nodes"]);
    assert_eq!(view.nodes.len(), 2);
}
