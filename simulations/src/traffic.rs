//! What a node sends and receives while nothing happens, by the size of its cluster: reports, the leader's questions,
//! Raft's heartbeats and the pings of links, on virtual time.
//!
//! Real here: the report's encoding, the detector of the membership crate, the rules of who is told what. Modelled: gossip
//! after gossipsub 1.1 as the network crate sets it (fanout and mesh of 4, ids of what came lately to 2 others each 2 s),
//! and what each packet costs on the wire. `cargo test --test netns traffic -- --ignored` measures real nodes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use membership::{Action, Detector, Input, MAX_LEARNERS, Timing, size_for};
use types::{DurationMs, GpuReport, NodeId, NodeReport, Timestamp, codec};

use crate::decisions::node_id;
use crate::random::Random;

/// Time before bytes are counted, and time over which they are.
const SETTLE_MS: u64 = 30_000;
const COUNTED_MS: u64 = 120_000;
/// Virtual time moves by this much.
const STEP_MS: u64 = 50;
/// Subscribers that an author tells, and that a subscriber hands on to.
const MESH: usize = 4;
/// Subscribers that are told the ids of what came in the last three rounds of so many ms.
const LAZY: usize = 2;
const ROUND_MS: u64 = 2_000;
const ROUNDS_TOLD: usize = 3;
/// An id is its author's, in base 58, and a number of 19 digits.
const ID_BYTES: u64 = 52 + 19 + 2;
/// Author, number, topic and signature around a report, and the framing.
const AROUND_REPORT: u64 = 40 + 10 + 26 + 66 + 8;
/// Both ends of a link ping each other so often, with so many bytes.
const PING_MS: u64 = 5_000;
const PING_BYTES: u64 = 32;
/// A question of the detector and its answer.
const ASK_BYTES: u64 = 80;
const ANSWER_BYTES: u64 = 40;
/// Naming the protocol of a new stream, from each end.
const NEGOTIATION_BYTES: u64 = 12 + 20 + 28;
/// A heartbeat of Raft without entries, and its answer: ids of nodes in full make most of them.
const BEAT_BYTES: u64 = 300;
const BEAT_ANSWER_BYTES: u64 = 130;
/// Ethernet, IPv4, TCP with timestamps; then Noise's length and tag, and yamux' head.
const PACKET_BYTES: u64 = 14 + 20 + 32;
const FRAME_BYTES: u64 = 18 + 12;
/// What one packet carries.
const SEGMENT_BYTES: u64 = 1_448;

/// What a node is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The voter that leads.
    Leader,
    /// Another voter.
    Voter,
    /// A replica without a vote.
    Learner,
    /// Neither.
    Worker,
}

/// Which links there are at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Between any two nodes.
    All,
    /// Between replicas, and of each worker with each replica.
    WithReplicas,
}

/// Mean of one role.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// What these nodes are.
    pub role: Role,
    /// How many they are.
    pub count: u64,
    /// Links of each.
    pub links: u64,
    /// Bytes a second of each, in and out.
    pub received: u64,
    /// Out.
    pub sent: u64,
}

struct Traffic {
    roles: Vec<Role>,
    subscribers: Vec<usize>,
    /// Of each subscriber those that it hands on to.
    mesh: BTreeMap<usize, Vec<usize>>,
    ids: Vec<NodeId>,
    places: BTreeMap<NodeId, usize>,
    /// Received and sent.
    bytes: Vec<[u64; 2]>,
    /// Ids that each subscriber has got in each of the last rounds.
    lately: BTreeMap<usize, VecDeque<u64>>,
    random: Random,
    report_bytes: u64,
    links: Vec<u64>,
    report_ms: u64,
    beat_ms: u64,
    detector: Detector,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Machines.
    pub nodes: usize,
    /// GPUs of each.
    pub gpus: usize,
    /// Profile of the cluster's times: `lan` or `wan`.
    pub timing: &'a str,
    /// A machine reports so often, and up to a quarter earlier: 5,000 at rest, down to 1,000 when all that it does
    /// changes each second.
    pub report_ms: u64,
    /// Links.
    pub kept: Kept,
    /// Of chance.
    pub seed: u64,
}

/// Means by role; the first node leads.
#[must_use]
pub fn traffic(question: &Question<'_>) -> Vec<Rate> {
    let mut traffic = Traffic::new(question);
    traffic.run();
    traffic.rates()
}

impl Traffic {
    fn new(question: &Question<'_>) -> Self {
        let (nodes, timing) = (question.nodes.max(1), question.timing);
        let voters = size_for(nodes);
        let role = |node: usize| match node {
            0 => Role::Leader,
            node if node < voters => Role::Voter,
            node if node < voters + MAX_LEARNERS => Role::Learner,
            _ => Role::Worker,
        };
        let roles: Vec<_> = (0..nodes).map(role).collect();
        let subscribers: Vec<_> = (0..nodes)
            .filter(|node| roles[*node] != Role::Worker)
            .collect();
        let ids: Vec<_> = (0..nodes)
            .map(|node| node_id(u32::try_from(node).unwrap_or(u32::MAX)))
            .collect();
        let replicas = subscribers.len() as u64;
        let links = roles.iter().map(|role| match (question.kept, role) {
            (Kept::WithReplicas, Role::Worker) => replicas,
            _ => nodes as u64 - 1,
        });
        let links = links.collect();
        let mut detector = Detector::new(Timing::named(timing));
        detector.watch(ids.iter().skip(1).cloned(), true, Timestamp(0));
        Self {
            mesh: mesh(&subscribers),
            lately: subscribers
                .iter()
                .map(|one| (*one, VecDeque::from([0])))
                .collect(),
            places: ids.iter().cloned().zip(0..).collect(),
            bytes: vec![[0; 2]; nodes],
            random: Random::new(question.seed),
            report_bytes: codec::encode(&report(&ids[0], question.gpus)).len() as u64
                + AROUND_REPORT,
            links,
            report_ms: question.report_ms.max(4),
            beat_ms: if timing == "wan" { 600 } else { 100 },
            detector,
            roles,
            subscribers,
            ids,
        }
    }

    fn run(&mut self) {
        let mut due: Vec<_> = (0..self.roles.len())
            .map(|_| self.random.range(0..self.report_ms))
            .collect();
        let mut now = 0;
        while now < SETTLE_MS + COUNTED_MS {
            if now == SETTLE_MS {
                self.bytes.fill([0; 2]);
            }
            for (node, due) in due.iter_mut().enumerate() {
                if *due <= now {
                    *due = now + self.report_ms - self.random.range(0..self.report_ms / 4);
                    self.publish(node, Timestamp(now));
                }
            }
            if now % ROUND_MS == 0 {
                self.tell_ids();
            }
            if now % self.beat_ms == 0 {
                self.beat(Timestamp(now));
            }
            self.look(Timestamp(now));
            now += STEP_MS;
        }
        let pings = COUNTED_MS / PING_MS;
        for (bytes, links) in self.bytes.iter_mut().zip(&self.links) {
            // Its own question, answer and acknowledgement, and those of the other end.
            let each = 2 * on_wire(PING_BYTES) + PACKET_BYTES;
            *bytes = bytes.map(|sum| sum + pings * links * each);
        }
    }

    /// A message on a stream that is open, and its acknowledgement.
    fn message(&mut self, from: usize, to: usize, bytes: u64) {
        self.packets(from, to, on_wire(bytes));
        self.packets(to, from, PACKET_BYTES);
    }

    fn packets(&mut self, from: usize, to: usize, bytes: u64) {
        self.bytes[from][1] += bytes;
        self.bytes[to][0] += bytes;
    }

    /// One report goes to all subscribers: the author tells some, each hands it on to those of its mesh from whom it
    /// did not come.
    fn publish(&mut self, author: usize, now: Timestamp) {
        let mut told = match self.mesh.get(&author) {
            Some(mesh) => mesh.clone(),
            None => self.some_subscribers(&[author], MESH),
        };
        let mut has = BTreeSet::from([author]);
        let mut hops: VecDeque<_> = told.drain(..).map(|to| (author, to)).collect();
        while !hops.is_empty() {
            // Any of those under way comes first.
            let at = self.random.index(hops.len());
            let Some((from, to)) = hops.remove(at) else {
                break;
            };
            self.message(from, to, self.report_bytes);
            if !has.insert(to) {
                continue;
            }
            if let Some(count) = self.lately.get_mut(&to).and_then(VecDeque::front_mut) {
                *count += 1;
            }
            if to == 0 {
                self.heard(author, now);
            }
            let next = self.mesh.get(&to).into_iter().flatten();
            hops.extend(
                next.filter(|next| **next != from && **next != author)
                    .map(|next| (to, *next)),
            );
        }
    }

    fn some_subscribers(&mut self, but: &[usize], count: usize) -> Vec<usize> {
        let mut others: Vec<_> = self
            .subscribers
            .iter()
            .copied()
            .filter(|one| !but.contains(one))
            .collect();
        while others.len() > count {
            let at = self.random.index(others.len());
            others.swap_remove(at);
        }
        others
    }

    /// Each subscriber tells some that it hands nothing on to what it has got.
    fn tell_ids(&mut self) {
        for from in self.subscribers.clone() {
            let counts = self
                .lately
                .get_mut(&from)
                .expect("every subscriber has counts");
            let ids: u64 = counts.iter().sum();
            counts.push_front(0);
            counts.truncate(ROUNDS_TOLD);
            let mut but = self.mesh[&from].clone();
            but.push(from);
            let others = self.some_subscribers(&but, LAZY);
            for to in others.into_iter().filter(|_| ids > 0) {
                self.message(from, to, ids * ID_BYTES);
            }
        }
    }

    /// The leader's heartbeat to each replica; its answer acknowledges the packet.
    fn beat(&mut self, now: Timestamp) {
        for to in self.subscribers.clone().into_iter().filter(|to| *to != 0) {
            self.packets(0, to, on_wire(BEAT_BYTES));
            self.message(to, 0, BEAT_ANSWER_BYTES);
            self.heard(to, now);
        }
    }

    fn heard(&mut self, node: usize, now: Timestamp) {
        let heard = Input::Heard(self.ids[node].clone());
        self.detector.step(now, heard);
    }

    /// Whom the leader's detector asks answers at once.
    fn look(&mut self, now: Timestamp) {
        let late = DurationMs(0);
        for action in self.detector.step(now, Input::Look { late }) {
            let Action::Ask { node, .. } = action else {
                continue; // All answer: nobody is asked through others.
            };
            let to = self.places[&node];
            for bytes in [NEGOTIATION_BYTES, ASK_BYTES] {
                self.packets(0, to, on_wire(bytes));
            }
            for bytes in [NEGOTIATION_BYTES, ANSWER_BYTES] {
                self.packets(to, 0, on_wire(bytes));
            }
            self.packets(0, to, PACKET_BYTES);
            self.heard(to, now);
        }
    }

    fn rates(&self) -> Vec<Rate> {
        let mut sums: BTreeMap<Role, Rate> = BTreeMap::new();
        for ((role, bytes), links) in self.roles.iter().zip(&self.bytes).zip(&self.links) {
            let rate = sums.entry(*role).or_insert(Rate {
                role: *role,
                count: 0,
                links: *links,
                received: 0,
                sent: 0,
            });
            rate.count += 1;
            rate.received += bytes[0];
            rate.sent += bytes[1];
        }
        let seconds = COUNTED_MS / 1_000;
        let mean = |rate: Rate| Rate {
            received: rate.received / rate.count / seconds,
            sent: rate.sent / rate.count / seconds,
            ..rate
        };
        sums.into_values().map(mean).collect()
    }
}

/// Each hands on to those next to it on a ring, up to [`MESH`] of them.
fn mesh(subscribers: &[usize]) -> BTreeMap<usize, Vec<usize>> {
    let count = subscribers.len();
    let near = |at: usize| {
        let around = (1..=MESH / 2).flat_map(move |far| [at + far, at + count * MESH - far]);
        let near: BTreeSet<_> = around.map(|at| subscribers[at % count]).collect();
        near.into_iter()
            .filter(|one| *one != subscribers[at])
            .collect()
    };
    (0..count).map(|at| (subscribers[at], near(at))).collect()
}

fn on_wire(bytes: u64) -> u64 {
    let packets = (bytes + FRAME_BYTES).div_ceil(SEGMENT_BYTES);
    bytes + FRAME_BYTES + packets * PACKET_BYTES
}

/// A busy machine's report.
fn report(node: &NodeId, gpus: usize) -> NodeReport {
    let gpu = |number: usize| GpuReport {
        uuid: format!("GPU-5c1e8a52-7a3f-4c11-9d2e-00000000000{}", number % 10),
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        vram_total_bytes: 80 << 30,
        vram_used_bytes: (60 << 30) + number as u64,
        vram_foreign_bytes: 0,
        utilisation_percent: 97,
        links: 0xff,
        numa_node: Some(u8::from(number > 3)),
    };
    NodeReport {
        node: node.clone(),
        node_started_at: Timestamp(1_790_000_000_000),
        sequence: 100_000,
        taken_at: Timestamp(1_790_000_500_000),
        boot_id: u64::MAX,
        cpu_milli: 128_000,
        cpu_busy_milli: 77_000,
        memory_bytes: 1 << 40,
        memory_used_bytes: 700 << 30,
        disk_free_bytes: 3 << 40,
        gpus: (0..gpus).map(gpu).collect(),
        declared: Vec::new(),
        warnings: Vec::new(),
        refuses_work: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(nodes: usize, kept: Kept) -> Question<'static> {
        Question {
            nodes,
            gpus: 8,
            timing: "lan",
            report_ms: 5_000,
            kept,
            seed: 1,
        }
    }

    fn worker(nodes: usize, kept: Kept) -> Rate {
        let rates = traffic(&question(nodes, kept));
        let worker = rates.into_iter().find(|rate| rate.role == Role::Worker);
        worker.expect("there are workers")
    }

    #[test]
    fn a_worker_of_a_large_cluster_sends_and_receives_no_more_than_one_of_a_small() {
        let (small, large) = (
            worker(20, Kept::WithReplicas),
            worker(400, Kept::WithReplicas),
        );
        assert!(large.sent <= small.sent, "{small:?} {large:?}");
        assert!(large.received <= small.received, "{small:?} {large:?}");
        let all = worker(400, Kept::All);
        assert!(
            all.sent > 5 * small.sent,
            "links with all others cost: {all:?}"
        );
    }

    #[test]
    fn every_subscriber_gets_every_report_and_the_leader_asks_nobody_that_it_hears() {
        let mut traffic = Traffic::new(&question(12, Kept::All));
        traffic.publish(11, Timestamp(0));
        let got = traffic.lately.values().filter(|counts| counts[0] == 1);
        assert_eq!(got.count(), 7);
        traffic.bytes.fill([0; 2]);
        for node in 1..12 {
            traffic.heard(node, Timestamp(900));
        }
        traffic.look(Timestamp(1_000));
        assert_eq!(traffic.bytes[0], [0, 0]);
        traffic.look(Timestamp(2_500));
        assert!(traffic.bytes[0][1] > 0, "all were silent for 1.6 s");
    }
}
