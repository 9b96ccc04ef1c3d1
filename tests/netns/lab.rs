//! Nodes on the hosts of a network, and clusters of them.

use std::io::Write;
use std::sync::OnceLock;
use std::time::Duration;

use service::view::{ClusterView, NodeView, NodesView};

use crate::harness::{Lab, Node, PATIENCE, wait_until};
use crate::lan::{self, Lan};

/// Whether the laboratory may, must not or need not run.
const SWITCH: &str = "MUSTER_NETNS";

/// Machines on a network, all of one test.
pub(crate) struct NetLab {
    // Dropped first: it ends the processes in the namespaces of the other.
    machines: Lab,
    /// Their network.
    pub(crate) lan: Lan,
}

impl NetLab {
    /// A laboratory, after its turn has come; none, said in a line, where namespaces are not permitted.
    pub(crate) fn new() -> Option<Self> {
        static PERMISSION: OnceLock<Result<(), String>> = OnceLock::new();
        Self::if_permitted(|| PERMISSION.get_or_init(lan::permission).clone())
    }

    /// The same where hosts can have TAP devices too, which weather takes.
    pub(crate) fn with_weather() -> Option<Self> {
        static PERMISSION: OnceLock<Result<(), String>> = OnceLock::new();
        let probe = || lan::permission().and_then(|()| lan::tap_permission());
        Self::if_permitted(|| PERMISSION.get_or_init(probe).clone())
    }

    fn if_permitted(probe: impl FnOnce() -> Result<(), String>) -> Option<Self> {
        let wish = std::env::var(SWITCH).unwrap_or_default();
        let permission = match wish.as_str() {
            "skip" => Err(format!("{SWITCH}=skip")),
            _ => probe(),
        };
        if let Err(why) = permission {
            assert_ne!(wish, "required", "the laboratory cannot run: {why}");
            say(&format!("skipped {}: {why}", test_name()));
            return None;
        }
        let machines = Lab::new();
        Some(Self {
            machines,
            lan: Lan::new(),
        })
    }

    /// Files that all hosts see: one disk and one boot clock for all.
    pub(crate) fn shared(&self) -> &std::path::Path {
        self.machines.path()
    }

    /// A host with a node that was not started yet.
    pub(crate) fn host(&self, name: &str) -> Node {
        let mut node = self.machines.machine(name);
        self.lan.settle(&mut node);
        node
    }

    /// A host's node for who asks it and neither starts nor ends it.
    pub(crate) fn door(&self, name: &str) -> Node {
        self.machines.machine(name)
    }

    /// A cluster; the first host made it, and all that should vote do.
    pub(crate) fn cluster<const N: usize>(&self, names: [&str; N]) -> [Node; N] {
        let nodes = names.map(|name| self.host(name));
        found(&nodes);
        nodes
    }

    /// The same of as many hosts as there are names, made with these flags.
    pub(crate) fn cluster_of(&self, names: &[&str], flags: &[&str]) -> Vec<Node> {
        let nodes: Vec<_> = names.iter().map(|name| self.host(name)).collect();
        found_with(&nodes, flags);
        nodes
    }
}

/// Starts all nodes as one cluster; the first makes it.
pub(crate) fn found(nodes: &[Node]) {
    found_with(nodes, &["--new"]);
}

/// The same, made with these flags.
pub(crate) fn found_with(nodes: &[Node], flags: &[&str]) {
    let (first, others) = nodes.split_first().expect("a cluster has a node");
    first.up(flags);
    let token = first.first_token();
    for node in others {
        node.spawn(&["--join", &token]);
    }
    for node in others {
        node.wait_up();
    }
    wait_whole(nodes);
}

/// Waits until every node sees all live, and as many votes as there should be.
pub(crate) fn wait_whole(nodes: &[Node]) {
    let voters = match nodes.len() {
        0..3 => 1,
        3..7 => 3,
        _ => 5,
    };
    for node in nodes {
        let what = format!("{} sees {} live nodes", node.name, nodes.len());
        wait_until(PATIENCE, &what, || {
            let output = node.muster(&["--json", "nodes"]);
            let view: NodesView = serde_json::from_str(&output.out).ok()?; // an election may be under way
            let votes = |node: &&NodeView| ["leader", "voter"].contains(&&*node.role);
            let live = view.nodes.iter().filter(|node| node.health == "live");
            let whole = live.clone().count() == nodes.len() && live.filter(votes).count() == voters;
            whole.then_some(())
        });
    }
}

/// The name of the leader, if this node knows one among these.
pub(crate) fn leader_seen_by(node: &Node, among: &[&Node]) -> Option<String> {
    let leader = seen_by(node).leader?.name;
    among
        .iter()
        .any(|node| node.name == leader)
        .then_some(leader)
}

/// The cluster as a node sees it without asking anybody.
pub(crate) fn seen_by(node: &Node) -> ClusterView {
    node.cluster()
}

/// Splits nodes into the one that leads and the others.
pub(crate) fn split_leader(nodes: &[Node]) -> (&Node, Vec<&Node>) {
    let leader = wait_until(PATIENCE, "somebody leads, and all know", || {
        let leaders = nodes.iter().map(|node| Some(seen_by(node).leader?.name));
        let mut leaders: Vec<_> = leaders.collect::<Option<_>>()?;
        leaders.dedup();
        let [leader] = leaders.as_slice() else {
            return None;
        };
        nodes.iter().find(|node| node.name == *leader)
    });
    let others = nodes.iter().filter(|node| node.name != leader.name);
    (leader, others.collect())
}

/// Lets a fault last, or a healthy cluster work.
#[expect(
    clippy::disallowed_methods,
    reason = "how long a fault lasts is what a scenario says; nothing is awaited"
)]
pub(crate) fn stay(time: Duration) {
    std::thread::sleep(time);
}

/// Says something past the capture of the test runner: what was skipped, and figures.
pub(crate) fn say(line: &str) {
    // Nobody may be reading; a test does not fail for it.
    writeln!(std::io::stderr(), "netns: {line}").unwrap_or_default();
}

/// The name of the test that runs.
pub(crate) fn test_name() -> String {
    let thread = std::thread::current();
    thread.name().unwrap_or("a test").to_owned()
}
