//! A local network of namespaces: a bridge in a namespace of its own, a cable to each host, and what goes wrong with
//! them. Nothing outside the namespaces is touched, and no packet leaves them.
//!
//! A namespace is named after the process that made it, so that what a crashed run left behind can be told from what
//! another run uses.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once};

use crate::harness::{Node, entries, lock};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
/// First word of the names of our namespaces; the others are process id, its start, number of the network, host.
const PREFIX: &str = "musterlab";
/// Networks of all tests are apart, so all use the same addresses.
const SUBNET: &str = "10.77.0";
/// Port for other nodes, the default of the product.
const PORT: u16 = 7718;

/// A bridge with hosts. Dropped, it is gone; processes in it must have ended before.
pub(crate) struct Lan {
    /// Beginning of the names of its namespaces, with the last dot.
    prefix: String,
    /// Names of the hosts in the order in which they were made.
    hosts: Mutex<Vec<String>>,
    /// Pairs of hosts between which nothing passes, from the first to the second.
    cut: Mutex<BTreeSet<(String, String)>>,
}

impl Lan {
    /// A bridge without hosts.
    pub(crate) fn new() -> Self {
        static LEFT_OVER: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(1);
        LEFT_OVER.call_once(remove_left_over);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let me = std::process::id();
        let start = start_of(me).expect("this process lives");
        let lan = Self {
            prefix: format!("{PREFIX}.{me}.{start}.{number}."),
            hosts: Mutex::default(),
            cut: Mutex::default(),
        };
        ip(&["netns", "add", &lan.switch()]);
        let bridge = "link set lo up\nlink add br0 type bridge\nlink set br0 up\n";
        batch(&lan.switch(), bridge);
        lan
    }

    /// The namespace of the bridge.
    pub(crate) fn switch(&self) -> String {
        self.name_of("switch")
    }

    fn name_of(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    /// The file that stands for a host's namespace.
    pub(crate) fn namespace(&self, host: &str) -> PathBuf {
        Path::new(NAMES).join(self.name_of(host))
    }

    /// Runs `ip` with these lines in the namespace of a host, for what this type has no word for.
    pub(crate) fn in_host(&self, host: &str, lines: &str) {
        batch(&self.name_of(host), lines);
    }

    /// Makes a host: a namespace with an address of its own and a cable to the bridge. Gives its address.
    pub(crate) fn add_host(&self, host: &str) -> String {
        let mut hosts = lock(&self.hosts);
        let name = self.name_of(host);
        let address = format!("{SUBNET}.{}", hosts.len() + 1);
        ip(&["netns", "add", &name]);
        batch(
            &self.switch(),
            &format!(
                "link add {0} type veth peer name eth0 netns {name}\nlink set {0} master br0 up\n",
                port_of(host)
            ),
        );
        batch(&name, &format!("link set lo up\n{}", dress(&address)));
        hosts.push(host.to_owned());
        address
    }

    /// Puts a node without one on a host of this network, with multicast DNS.
    pub(crate) fn settle(&self, node: &mut Node) {
        let address = self.add_host(&node.name);
        node.namespace = Some(self.namespace(&node.name));
        node.listen = format!("{address}:{PORT}");
        node.mdns = true;
    }

    /// Gives a host another address instead of the one it has, as another lease of DHCP would.
    pub(crate) fn move_host(&self, node: &mut Node, last_byte: u8) {
        let address = format!("{SUBNET}.{last_byte}");
        let lines = format!("addr flush dev eth0\n{}", dress(&address));
        batch(&self.name_of(&node.name), &lines);
        node.listen = format!("{address}:{PORT}");
    }

    /// Nothing passes between the two groups any more, either way.
    pub(crate) fn cut(&self, left: &[&Node], right: &[&Node]) {
        self.cut_pairs(pairs(left, right).chain(pairs(right, left)));
    }

    /// Nothing passes from the first group to the second any more; the other way it does.
    pub(crate) fn cut_one_way(&self, from: &[&Node], to: &[&Node]) {
        self.cut_pairs(pairs(from, to));
    }

    /// Nothing passes between this host and any other.
    pub(crate) fn isolate(&self, node: &Node) {
        let hosts = lock(&self.hosts).clone();
        let others = hosts.iter().filter(|host| **host != node.name);
        let both = others.flat_map(|other| {
            let (one, other) = (node.name.clone(), other.clone());
            [(one.clone(), other.clone()), (other, one)]
        });
        self.cut_pairs(both);
    }

    fn cut_pairs(&self, more: impl Iterator<Item = (String, String)>) {
        let mut cut = lock(&self.cut);
        cut.extend(more);
        self.enforce(&cut);
    }

    /// Everything passes again.
    pub(crate) fn heal(&self) {
        let mut cut = lock(&self.cut);
        cut.clear();
        self.enforce(&cut);
    }

    /// Replaces the rules of the bridge in one step.
    fn enforce(&self, cut: &BTreeSet<(String, String)>) {
        let mut rules = "add table bridge lab\ndelete table bridge lab\n".to_owned();
        if !cut.is_empty() {
            rules += "add table bridge lab\n\
                      add chain bridge lab cuts { type filter hook forward priority 0; policy accept; }\n";
        }
        for (from, to) in cut {
            let (from, to) = (port_of(from), port_of(to));
            rules +=
                &format!("add rule bridge lab cuts iifname \"{from}\" oifname \"{to}\" drop\n");
        }
        let mut nft = inside(&self.switch(), "nft");
        feed(nft.args(["-f", "-"]), &rules);
    }

    /// Pulls the cable out of a host.
    pub(crate) fn unplug(&self, node: &Node) {
        batch(
            &self.switch(),
            &format!("link set {} down", port_of(&node.name)),
        );
    }

    /// Puts the cable back.
    pub(crate) fn plug(&self, node: &Node) {
        batch(
            &self.switch(),
            &format!("link set {} up", port_of(&node.name)),
        );
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in names().filter(|name| name.starts_with(&self.prefix)) {
            remove(&name);
        }
    }
}

/// A host's side of the bridge.
fn port_of(host: &str) -> String {
    format!("to-{host}")
}

/// Lines that give `eth0` an address and a way for multicast.
fn dress(address: &str) -> String {
    format!("addr add {address}/24 dev eth0\nlink set eth0 up\nroute add 224.0.0.0/4 dev eth0\n")
}

fn pairs<'a>(
    from: &'a [&'a Node],
    to: &'a [&'a Node],
) -> impl Iterator<Item = (String, String)> + use<'a> {
    from.iter().flat_map(move |from| {
        to.iter()
            .map(move |to| (from.name.clone(), to.name.clone()))
    })
}

/// A program in a namespace. Not by `ip netns exec`, which mounts another `/sys`.
fn inside(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={NAMES}/{namespace}"))
        .arg(program);
    command
}

fn ip(arguments: &[&str]) {
    feed(Command::new("ip").args(arguments), "");
}

/// Lines for `ip` in a namespace.
fn batch(namespace: &str, lines: &str) {
    feed(
        Command::new("ip").args(["-n", namespace, "-batch", "-"]),
        lines,
    );
}

fn feed(command: &mut Command, input: &str) {
    try_feed(command, input).unwrap_or_else(|why| panic!("{why}"));
}

/// Runs a command with this input; otherwise says what it said.
fn try_feed(command: &mut Command, input: &str) -> Result<(), String> {
    let spawned = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| format!("{command:?} cannot be run: {error}"))?;
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).unwrap_or_default(); // It ended early: it says why.
    drop(stdin);
    let done = child.wait_with_output().expect("its end can be waited for");
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("{command:?} failed: {}", said.trim()))
}

/// Whether namespaces can be made here and filled; otherwise why not.
pub(crate) fn permission() -> Result<(), String> {
    let name = format!("{PREFIX}.{}.probe", std::process::id());
    let install = "it takes root (or a user namespace) and the packages iproute2 and nftables";
    let probe = || {
        try_feed(Command::new("ip").args(["netns", "add", &name]), "")?;
        let link = "link add br0 type bridge\nlink add one type veth peer name two\n";
        try_feed(Command::new("ip").args(["-n", &name, "-batch", "-"]), link)?;
        let mut nft = inside(&name, "nft");
        try_feed(nft.args(["add", "table", "bridge", "lab"]), "")
    };
    let answer = probe();
    if Path::new(NAMES).join(&name).exists() {
        remove(&name);
    }
    answer.map_err(|why| format!("{why}; {install}"))
}

/// Whether TAP devices can be made here; otherwise why not.
pub(crate) fn tap_permission() -> Result<(), String> {
    let name = format!("tapprobe{}", std::process::id());
    let switch = tap_switch::Switch::start(&[name], tap_switch::Weather::calm(), 1);
    let made = switch.map(drop);
    made.map_err(|why| format!("{why:?}; it takes /dev/net/tun, and the right to use it"))
}

fn names() -> impl Iterator<Item = String> {
    let names = entries(Path::new(NAMES)).into_iter();
    names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())) // ours are text
}

fn remove(name: &str) {
    // Left behind rather than a second panic while a test fails; the next run removes it.
    if let Err(why) = try_feed(Command::new("ip").args(["netns", "del", name]), "") {
        eprintln!("{why}");
    }
}

/// When a process was started, in ticks since boot; none if there is no such process.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?; // gone
    // The name in brackets may hold anything; the start is the 20th word after it.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Removes the namespaces of runs that are dead, with what still runs in them.
fn remove_left_over() {
    for name in names().filter(|name| name.starts_with(PREFIX)) {
        let mut words = name.split('.').skip(1);
        let mut number = || words.next()?.parse::<u64>().ok();
        let (Some(pid), Some(start)) = (number(), number()) else {
            continue;
        };
        let lives = u32::try_from(pid).ok().and_then(start_of) == Some(start);
        if !lives {
            end_processes_in(&name);
            remove(&name);
        }
    }
}

fn end_processes_in(namespace: &str) {
    let Ok(wanted) = fs::metadata(Path::new(NAMES).join(namespace)) else {
        return;
    };
    use std::os::unix::fs::MetadataExt;
    let same = |pid: &rustix::process::Pid| {
        fs::metadata(format!("/proc/{}/ns/net", pid.as_raw_pid()))
            .is_ok_and(|its| (its.dev(), its.ino()) == (wanted.dev(), wanted.ino()))
    };
    let all = entries(Path::new("/proc")).into_iter();
    let pids = all.filter_map(|path| path.file_name()?.to_str()?.parse().ok()); // others are no processes
    for pid in pids.filter_map(rustix::process::Pid::from_raw).filter(same) {
        // An error means that it is gone.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
    }
}
