//! What a node sends and receives while nothing happens, by the size of its cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use service::view::{NodesView, TokenCreated};

use crate::harness::{Node, read_lossy};
use crate::lab::{NetLab, say, stay, wait_whole};

/// How many nodes; `MUSTER_TRAFFIC_NODES=3,10` asks for others.
const SIZES: &str = "3,10,20";
/// Nodes that join at the same time.
const AT_ONCE: usize = 3;
/// Time after the start until only what is steady is left: copies and votes are settled, links that nobody uses closed.
const SETTLE: Duration = Duration::from_secs(100);
/// Time over which bytes are counted: six rounds of reports.
const COUNTED: Duration = Duration::from_secs(30);

/// Bytes that a host has received and sent on its network.
fn bytes_of(node: &Node) -> [u64; 2] {
    let path = format!("/proc/{}/net/dev", node.process_id());
    let text = read_lossy(path.as_ref());
    let mut sums = [0; 2];
    for line in text.lines() {
        let Some((name, fields)) = line.split_once(':') else {
            continue; // a head
        };
        if name.trim() == "lo" {
            continue;
        }
        let fields: Vec<u64> = fields
            .split_ascii_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        sums[0] += fields[0];
        sums[1] += fields[8];
    }
    sums
}

/// Makes one cluster of them, some at a time.
fn found(nodes: &[Node]) {
    let (first, others) = nodes.split_first().expect("a cluster has a node");
    // Elections of a second: so many nodes share the cores of one machine.
    first.up(&["--new", "--timing", "wan"]);
    let uses = others.len().to_string();
    let token: TokenCreated = first.ask(&["token", "new", "--uses", &uses]);
    for some in others.chunks(AT_ONCE) {
        for node in some {
            node.spawn(&["--join", &token.token]);
        }
        for node in some {
            node.wait_up();
        }
    }
    wait_whole(nodes);
}

#[test]
#[ignore = "a measurement of minutes that prints a table"]
fn bytes_per_second_of_a_node_by_the_size_of_its_cluster() {
    let sizes = std::env::var("MUSTER_TRAFFIC_NODES").unwrap_or_else(|_unset| SIZES.to_owned());
    for size in sizes.split(',') {
        let size: usize = size.parse().expect("numbers with commas between them");
        let Some(lab) = NetLab::new() else { return };
        let nodes: Vec<_> = (1..=size)
            .map(|number| lab.host(&format!("n{number}")))
            .collect();
        found(&nodes);
        stay(SETTLE);
        let before: Vec<_> = nodes.iter().map(bytes_of).collect();
        stay(COUNTED);
        let after: Vec<_> = nodes.iter().map(bytes_of).collect();
        let view: NodesView = nodes[0].ask(&["nodes"]);
        let mut by_role: BTreeMap<&str, Vec<[u64; 2]>> = BTreeMap::new();
        for ((node, before), after) in nodes.iter().zip(&before).zip(&after) {
            let seen = view.nodes.iter().find(|seen| seen.name == node.name);
            let role = seen.map_or("unknown", |seen| seen.role.as_str());
            let rates = [0, 1].map(|way| (after[way] - before[way]) / COUNTED.as_secs());
            by_role.entry(role).or_default().push(rates);
        }
        for (role, rates) in by_role {
            let count = rates.len() as u64;
            let mean = |way: usize| rates.iter().map(|rate| rate[way]).sum::<u64>() / count;
            say(&format!(
                "traffic nodes={size} role={role} count={count} received={} B/s sent={} B/s",
                mean(0),
                mean(1)
            ));
        }
    }
}
