//! Two planes: a transfer that fills the links costs no election and no lease.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use types::BlobHash;

use crate::harness::{FAR, Node, PATIENCE, counted, counting, wait_lines, wait_until};
use crate::lab::{NetLab, say, seen_by, split_leader};

/// Rate of each host's uplink, and the queue before it: what a home or office router has, half a second deep.
const LINK: &str = "rate 20mbit burst 32kbit latency 400ms";
/// The same in bytes per second.
const LINK_BYTES_PER_SECOND: u64 = 2_500_000;
/// More than such a link carries in the time of the test, so that the transfer never ends by itself.
const BLOB_BYTES: usize = 192 << 20;
/// How long the links are full.
const TRANSFER: Duration = Duration::from_secs(60);

/// Puts a slow link behind a host's network card.
fn slow_down(lab: &NetLab, node: &Node) {
    let namespace = lab.lan.namespace(&node.name);
    let output = Command::new("nsenter")
        .arg(format!("--net={}", namespace.display()))
        .args(["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf"])
        .args(LINK.split(' '))
        .output()
        .expect("tc runs");
    assert!(output.status.success(), "{output:?}");
}

/// Bytes that a host has sent over its link.
fn sent_bytes(lab: &NetLab, node: &Node) -> u64 {
    let namespace = lab.lan.namespace(&node.name);
    let output = Command::new("nsenter")
        .arg(format!("--net={}", namespace.display()))
        .args(["tc", "-s", "qdisc", "show", "dev", "eth0"])
        .output()
        .expect("tc runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace().skip_while(|word| *word != "Sent");
    let bytes = words.nth(1).and_then(|word| word.parse().ok());
    bytes.unwrap_or_else(|| panic!("{text}"))
}

/// Stores a large blob on a node.
fn put_blob(node: &Node, seed: u64) -> BlobHash {
    let mut bytes = vec![0; BLOB_BYTES];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    let hash = BlobHash::of(&bytes);
    let mut stream = UnixStream::connect(&node.socket).expect("the socket answers");
    let head = format!(
        "PUT /api/v1/blobs/{hash} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {BLOB_BYTES}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it is sent");
    stream.write_all(&bytes).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    hash
}

/// Lets a node begin to fetch a blob from whoever has it, until the connection is shut down.
fn fetch(node: &Node, hash: &BlobHash) -> UnixStream {
    let mut stream = UnixStream::connect(&node.socket).expect("the socket answers");
    let head = format!(
        "GET /api/v1/blobs/{hash} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it is sent");
    stream
}

/// Whether the answer to [`fetch`] has begun, which it does when the whole blob is there.
fn has_answered(stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let mut byte = [0];
    (&*stream).read(&mut byte).is_ok()
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one story, told from its beginning to its end"
)]
fn full_links_cost_no_election_and_no_lease() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let (leader, others) = split_leader(&nodes);
    let from_leader = put_blob(leader, 1);
    let from_other = put_blob(others[0], 2);
    let stop = lab.shared().join("stop");
    let jobs: Vec<_> = nodes
        .iter()
        .map(|node| {
            let constraint = format!("machine={}", node.name);
            let job = counting(&stop);
            node.submit(&["--constraint", &constraint, "--", "sh", "-c", &job])
        })
        .collect();
    for (node, job) in nodes.iter().zip(&jobs) {
        wait_lines(node, job, 2);
    }
    for node in &nodes {
        slow_down(&lab, node);
    }
    let terms: Vec<_> = nodes.iter().map(|node| seen_by(node).term).collect();
    let before: Vec<_> = nodes.iter().map(|node| sent_bytes(&lab, node)).collect();
    let start = Instant::now();
    let transfers = [
        fetch(others[0], &from_leader),
        fetch(others[1], &from_leader),
        fetch(leader, &from_other),
    ];
    let mut answers = Vec::new();
    while start.elapsed() < TRANSFER {
        let asked = Instant::now();
        others[1].submit(&FAR);
        answers.push(asked.elapsed());
    }
    let took = start.elapsed();
    let rates: Vec<_> = nodes
        .iter()
        .zip(&before)
        .map(|(node, before)| {
            (sent_bytes(&lab, node) - before) * 1_000
                / u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
        })
        .collect();
    for transfer in &transfers {
        assert!(!has_answered(transfer), "the transfer has ended too early");
    }
    let terms_now: Vec<_> = nodes.iter().map(|node| seen_by(node).term).collect();
    let elections = terms_now.iter().max().unwrap() - terms.iter().max().unwrap();
    let details: Vec<_> = jobs.iter().map(|job| others[0].show(job)).collect();
    let lost: usize = details.iter().map(|one| one.attempts.len() - 1).sum();
    answers.sort();
    let share = |percent: usize| answers[(answers.len() - 1) * percent / 100];
    say(&format!(
        "two planes: {} s at 20 Mbit/s; sent {} kB/s by leader {}, all {rates:?}; elections {elections}, attempts lost {lost}; {} submissions, median {:?}, p99 {:?}, slowest {:?}",
        took.as_secs(),
        rates[nodes
            .iter()
            .position(|node| node.name == leader.name)
            .unwrap()]
            / 1_000,
        leader.name,
        answers.len(),
        share(50),
        share(99),
        share(100),
    ));
    assert_eq!((elections, lost), (0, 0));
    for detail in &details {
        assert_eq!(detail.summary.state, "running", "{detail:?}");
    }
    let full = rates
        .iter()
        .filter(|rate| **rate > LINK_BYTES_PER_SECOND / 2);
    assert!(full.count() >= 2, "two uplinks were busy: {rates:?}");
    for transfer in transfers {
        // The node may have closed it meanwhile.
        transfer.shutdown(Shutdown::Both).unwrap_or_default();
    }
    std::fs::write(&stop, "").unwrap();
    for job in &jobs {
        let ended = wait_until(PATIENCE, "the job ends", || {
            let detail = others[0].show(job);
            (detail.summary.state == "finished").then_some(detail)
        });
        assert_eq!(ended.attempts.len(), 1, "{ended:?}");
        counted(&wait_until(PATIENCE, "the whole output is there", || {
            let output = others[0].muster(&["logs", job]);
            output.out.ends_with("end\n").then_some(output.out)
        }));
    }
}

/// Experiments that a voter misses, each with so much text that all of them take seconds on the link.
const MISSED: usize = 120;
/// Bytes of each.
const TEXT_BYTES: usize = 40_000;

#[test]
fn a_voter_that_fell_behind_catches_up_over_a_slow_link_and_nobody_is_elected() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let (leader, others) = split_leader(&nodes);
    for node in &nodes {
        slow_down(&lab, node);
    }
    lab.lan.isolate(others[1]);
    let text = "x".repeat(TEXT_BYTES);
    for _ in 0..MISSED {
        leader.submit(&["--cpus", "1000", "--", "true", &text]);
    }
    let term = seen_by(leader).term;
    let healed = Instant::now();
    lab.lan.heal();
    wait_until(PATIENCE, "it knows all that it missed", || {
        let (status, body) =
            others[1].get("/api/v1/experiments?all=true&limit=1000&consistency=stale");
        let list: serde_json::Value = serde_json::from_str(&body).ok()?;
        let known = list["experiments"].as_array().map_or(0, Vec::len);
        (status == 200 && known == MISSED).then_some(())
    });
    let took = healed.elapsed();
    let elections = seen_by(leader).term - term;
    say(&format!(
        "a voter caught up {} kB over 20 Mbit/s in {took:?}; elections {elections}",
        MISSED * TEXT_BYTES / 1_000
    ));
    assert_eq!(elections, 0);
}
