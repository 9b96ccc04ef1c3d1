//! Measures calls between two members on loopback: `cargo run --release -p network --example round_trip`.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement for people"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use network::{Config, Event, Network, start};

const CALLS: usize = 20_000;
const CONCURRENT: usize = 64;
const IDLE: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    let a = node(&directory.path().join("a")).await;
    let b = node(&directory.path().join("b")).await;
    let mut members = Vec::new();
    for node in [&a, &b] {
        let (control, bulk) = node.handle.listen_addresses().await;
        members.push((node.handle.node_id().clone(), control, bulk));
    }
    a.handle.set_members(1, members.clone()).await;
    b.handle.set_members(1, members).await;
    let to = b.handle.node_id().clone();
    let caller = a.handle.clone();
    tokio::spawn(echo(a));
    tokio::spawn(echo(b));

    let request = Bytes::from(vec![7; 256]);
    for name in ["raft", "rpc", "bulk"] {
        let mut took = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let start = Instant::now();
            let answer = match name {
                "raft" => caller.raft_call(&to, request.clone(), DEADLINE).await,
                "rpc" => caller.rpc(&to, request.clone(), DEADLINE).await,
                _ => caller.bulk_call(&to, request.clone(), DEADLINE).await,
            };
            answer.unwrap();
            took.push(start.elapsed());
        }
        took.sort_unstable();
        let [p50, p99] = [CALLS / 2, CALLS * 99 / 100].map(|index| took[index]);
        println!("{name}: 256 B, one at a time: p50 {p50:?} p99 {p99:?}");
    }
    let start = Instant::now();
    let callers = (0..CONCURRENT).map(|_| {
        let (caller, to, request) = (caller.clone(), to.clone(), request.clone());
        tokio::spawn(async move {
            for _ in 0..CALLS / 16 {
                let call = caller.raft_call(&to, request.clone(), DEADLINE);
                call.await.unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let each = start.elapsed() / u32::try_from(CONCURRENT * (CALLS / 16)).unwrap();
    println!("raft: 256 B, {CONCURRENT} at a time: {each:?} per call");

    let before = cpu_ticks();
    tokio::time::sleep(IDLE).await;
    // The kernel counts in hundredths of a second.
    let percent = (cpu_ticks() - before) * 100 / (100 * IDLE.as_secs());
    let hundredths = (cpu_ticks() - before) * 10_000 / (100 * IDLE.as_secs()) % 100;
    println!("idle: two connected nodes use {percent}.{hundredths:02} % of a core");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let memory = status.lines().find(|line| line.starts_with("VmRSS"));
    println!("memory of both: {}", memory.unwrap_or_default());
}

/// User and system time of this process so far.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.split_whitespace().skip(13).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

async fn node(directory: &Path) -> Network {
    std::fs::create_dir(directory).unwrap();
    let listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    let config = Config {
        key_file: directory.join("node.key"),
        control_listen: listen.clone(),
        bulk_listen: listen,
        mdns: false,
        gossip_subscribe: true,
        bulk_bytes_per_second: None,
    };
    start(config).await.unwrap()
}

async fn echo(mut network: Network) {
    loop {
        tokio::select! {
            Some(call) = network.raft.recv() => call.reply.send(call.request),
            Some(event) = network.events.recv() => {
                if let Event::Rpc { request, reply, .. } | Event::BulkCall { request, reply, .. } = event {
                    reply.send(request);
                }
            }
            else => return,
        }
    }
}
