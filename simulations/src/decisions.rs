//! Decisions per second of the scheduler with all that it weighs, over a state that its decisions are applied to.

use std::collections::VecDeque;
use std::sync::Arc;

use membership::View;
use scheduler::{Experience, Memory, SchedulerConfig, place_next_with, preempt_next};
use state_machine::{
    AdmitNode, AttemptEnd, AttemptReport, ClusterState, Command, CreateJoinToken, CreateQueue,
    FoundCluster, Limits, LogEntry, Outcome, PlaceAttempt, PreemptFor, ReportAttempt, ShapeQueue,
    SubmitExperiment,
};
use types::{
    AttemptToken, Author, Cause, CauseKind, ClusterId, DurationMs, Environment, ExperimentSpec,
    GpuReport, LogIndex, NodeFacts, NodeId, NodeReport, Policy, QueueName, ResourceRequest,
    Timestamp,
};

use crate::placement::{Task, Trace, TraceNode};
use crate::random::Random;

const NOW: Timestamp = Timestamp(1_000_000);
/// Memory of a GPU in lists that do not say.
const VRAM_BYTES: u64 = 40 << 30;
/// People and queues of the invented load.
const USERS: u64 = 50;
const QUEUES: u64 = 8;
/// Requests that one person makes.
const FAVOURITES: u64 = 3;

/// A leader that decides.
#[derive(Debug)]
pub struct Decider {
    state: ClusterState,
    view: View,
    config: SchedulerConfig,
    memory: Memory,
    running: VecDeque<(AttemptToken, NodeId)>,
    now: Timestamp,
}

impl Decider {
    /// A cluster and its tasks out of files: one queue, one user.
    ///
    /// # Panics
    /// If the state refuses a command that builds the cluster: a bug in this file.
    #[must_use]
    pub fn of_trace(trace: &Trace) -> Self {
        let mut decider = Self::of_nodes(&trace.nodes);
        for task in &trace.tasks {
            decider.submit("ann", QueueName::default(), task, Policy::default());
        }
        decider.learn();
        decider
    }

    /// Machines with 8 GPUs, and experiments of 50 people in 8 queues with parts and limits, of all priorities; of two
    /// thirds it is known how long they run.
    ///
    /// # Panics
    /// If the state refuses a command that builds the cluster: a bug in this file.
    #[must_use]
    pub fn of_all_policies(machines: u32, waiting: u32) -> Self {
        let machine = TraceNode {
            cpu_milli: 128_000,
            memory_mib: 1 << 20,
            gpus: 8,
            model: "NVIDIA H100 80GB HBM3".to_owned(),
        };
        let nodes = usize::try_from(machines).unwrap_or(usize::MAX);
        let mut decider = Self::of_nodes(&vec![machine; nodes]);
        for number in 1..QUEUES {
            decider.make_queue(number);
        }
        let mut random = Random::new(1);
        for _ in 0..waiting {
            let queue = match random.range(0..QUEUES) {
                0 => QueueName::default(),
                number => queue_name(number),
            };
            let number = random.range(0..USERS);
            // People run the same few things again and again.
            let favourite = number * FAVOURITES + random.range(0..FAVOURITES);
            let task = task(&mut Random::new(favourite));
            let policy = policy(&mut random);
            decider.submit(&format!("user{number}"), queue, &task, policy);
        }
        decider.learn();
        decider
    }

    pub(crate) fn of_nodes(nodes: &[TraceNode]) -> Self {
        let mut decider = Self {
            state: ClusterState::default(),
            view: View::default(),
            config: SchedulerConfig {
                clock: NOW,
                ..SchedulerConfig::default()
            },
            memory: Memory::default(),
            running: VecDeque::new(),
            now: NOW,
        };
        let token = || "t-1".parse().expect("a token id");
        decider.apply(Command::FoundCluster(FoundCluster {
            cluster: ClusterId([1; 32]),
            public_key: Vec::new(),
            founder: node_id(0),
            facts: facts(0),
            timing: "lan".to_owned(),
        }));
        decider.apply(Command::CreateJoinToken(CreateJoinToken {
            id: token(),
            verifier: [0; 32],
            uses: u32::MAX,
            expires_at: Timestamp(u64::MAX),
        }));
        for (number, node) in (0..).zip(nodes) {
            decider.apply(Command::AdmitNode(AdmitNode {
                token: token(),
                node: node_id(number),
                facts: facts(number),
            }));
            decider.view.observe(report(number, node), NOW);
        }
        decider
    }

    fn make_queue(&mut self, number: u64) {
        let name = queue_name(number);
        self.apply(Command::CreateQueue(CreateQueue {
            name: name.clone(),
            priority: i32::from(number == 1),
        }));
        let most = |gpu_milli: u64| Limits {
            gpu_milli,
            ..Limits::default()
        };
        let limited = number.is_multiple_of(2);
        self.apply(Command::ShapeQueue(ShapeQueue {
            queue: name,
            priority: None,
            weight: u32::try_from(number).ok(),
            limits: limited.then(|| most(200_000)),
            user_limits: limited.then(|| most(8_000)),
        }));
    }

    fn learn(&mut self) {
        self.config.experience = Arc::new(Experience::of(&self.state));
    }

    /// Proposes one round.
    #[must_use]
    pub fn decide(&mut self) -> Vec<PlaceAttempt> {
        let memory = &mut self.memory;
        place_next_with(&self.state, &self.view, self.now, &self.config, memory)
    }

    /// Proposes who makes room; for when nothing more can be placed.
    #[must_use]
    pub fn decide_room(&self) -> Option<PreemptFor> {
        preempt_next(&self.state, &self.view, self.now, &self.config)
    }

    /// Applies a round.
    pub fn place(&mut self, placements: Vec<PlaceAttempt>) {
        for placement in placements {
            if let Some(placed) = self.place_one(placement) {
                self.running.push_back(placed);
            }
        }
    }

    /// Applies one placement: what runs now, and where.
    pub(crate) fn place_one(&mut self, placement: PlaceAttempt) -> Option<(AttemptToken, NodeId)> {
        let node = placement.ranks[0].0.node.clone();
        match self.apply(Command::PlaceAttempt(placement)) {
            Outcome::Placed(token) => Some((token, node)),
            _ => None,
        }
    }

    /// Ends so many of those that were placed first; how many there were.
    pub fn end(&mut self, count: usize) -> usize {
        let over: Vec<_> = self
            .running
            .drain(..count.min(self.running.len()))
            .collect();
        for (token, node) in &over {
            self.end_one(*token, node, CauseKind::Finished);
        }
        over.len()
    }

    /// One that runs ends.
    pub(crate) fn end_one(&mut self, token: AttemptToken, node: &NodeId, kind: CauseKind) {
        let end = AttemptEnd {
            cause: Cause::new(kind, vec!["simulated".to_owned()]),
            at: self.now,
            peak_memory_bytes: 0,
            peak_vram_bytes: 0,
            cpu_ms: DurationMs(0),
            tree_kill_method: String::new(),
            outputs: None,
        };
        self.apply(Command::ReportAttempt(Box::new(ReportAttempt {
            token,
            node: node.clone(),
            rank: 0,
            report: AttemptReport::Ended {
                end,
                segments: Vec::new(),
                inline_records: bytes::Bytes::new(),
            },
        })));
    }

    /// It is later now.
    pub(crate) fn pass_to(&mut self, now: Timestamp) {
        self.now = now;
        self.config.clock = now;
    }

    /// All machines report again.
    pub(crate) fn report_all(&mut self, now: Timestamp) {
        let nodes: Vec<_> = self.state.nodes().map(|node| node.node.clone()).collect();
        let known = nodes.iter().filter_map(|node| self.view.get(node));
        let reports: Vec<_> = known.map(|known| known.report.clone()).collect();
        for mut report in reports {
            report.sequence += 1;
            self.view.observe(report, now);
        }
    }

    /// Whether this attempt still runs.
    pub(crate) fn runs(&self, token: AttemptToken) -> bool {
        let experiment = self.state.experiment(token.experiment);
        let attempt = experiment.and_then(|one| one.current_attempt());
        attempt.is_some_and(|attempt| attempt.token == token)
    }

    pub(crate) fn state(&self) -> &ClusterState {
        &self.state
    }

    /// Most placements of a round: one that has fewer leaves nothing that fits.
    #[must_use]
    pub fn most(&self) -> usize {
        self.config.max_placements_per_round
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state.waiting_count()
    }

    fn submit(&mut self, user: &str, queue: QueueName, task: &Task, policy: Policy) {
        let resources = ResourceRequest {
            cpu_milli: task.cpu_milli,
            memory_bytes: task.memory_mib << 20,
            gpu_milli: task.gpu_milli(),
            gpu_models: task.models.clone(),
            ..ResourceRequest::default()
        };
        self.submit_request(user, queue, resources, policy);
    }

    pub(crate) fn submit_request(
        &mut self,
        user: &str,
        queue: QueueName,
        resources: ResourceRequest,
        policy: Policy,
    ) -> Outcome {
        let spec = ExperimentSpec {
            name: "x".to_owned(),
            command: vec!["work".to_owned()],
            source: None,
            working_directory: String::new(),
            variables: Vec::new(),
            environment: Environment::Host,
            parameters: Vec::new(),
            resources,
            learned: Vec::new(),
            prefer_nodes: Vec::new(),
            queue,
            policy,
            outputs: types::Outputs::default(),
            origin: None,
        };
        let author = Author {
            user: user.to_owned(),
            ..Author::node(node_id(0))
        };
        self.apply_by(
            author,
            Command::SubmitExperiment(Box::new(SubmitExperiment { spec })),
        )
    }

    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        self.apply_by(Author::node(node_id(0)), command)
    }

    fn apply_by(&mut self, author: Author, command: Command) -> Outcome {
        let index = LogIndex(self.state.applied().0 + 1);
        let entry = LogEntry {
            time: self.now,
            author,
            request: None,
            command,
        };
        let outcome = self.state.apply(index, &entry).outcome;
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        outcome
    }
}

/// Shares, single GPUs, some whole machines, some without GPUs.
fn task(random: &mut Random) -> Task {
    let (gpus, milli) = match random.range(0..10) {
        0 => (0, 0),
        1..4 => (1, 250 * random.range(1..4)),
        4..7 => (1, 1_000),
        7..9 => (2 * random.range(1..3), 1_000),
        _ => (8, 1_000),
    };
    Task {
        cpu_milli: 1_000 * random.range(1..9) * gpus.max(1),
        memory_mib: 4_096 * random.range(1..5) * gpus.max(1),
        gpus,
        milli,
        models: match random.range(0..5) {
            0 => vec!["H100".to_owned()],
            _ => Vec::new(),
        },
    }
}

fn policy(random: &mut Random) -> Policy {
    let minutes = random.range(0..3) * random.range(1..240);
    let class = match random.range(0..100) {
        0 => 100,
        1 => -100,
        _ => 0,
    };
    let within = i32::try_from(random.range(0..10)).unwrap_or(0);
    Policy {
        time_limit_ms: DurationMs::from_secs(60 * minutes),
        priority: class + within,
        ..Policy::default()
    }
}

fn queue_name(number: u64) -> QueueName {
    let name = format!("queue{number}");
    name.parse().expect("letters and a digit")
}

pub(crate) fn node_id(number: u32) -> NodeId {
    let digits = format!("n{}", 1_000_000 + number).replace('0', "z");
    digits.parse().expect("without zeros it is base58")
}

pub(crate) fn facts(number: u32) -> NodeFacts {
    NodeFacts {
        name: format!("box{number}"),
        version: String::new(),
        control_addresses: Vec::new(),
        bulk_addresses: Vec::new(),
        takes_work: true,
        may_vote: true,
        keeps_blobs: true,
        labels: Vec::new(),
    }
}

fn report(number: u32, node: &TraceNode) -> NodeReport {
    let gpu = |index: usize| GpuReport {
        uuid: format!("gpu-{index}"),
        model: node.model.clone(),
        vram_total_bytes: VRAM_BYTES,
        vram_used_bytes: 0,
        vram_foreign_bytes: 0,
        utilisation_percent: 0,
        links: 0,
        numa_node: None,
    };
    NodeReport {
        node: node_id(number),
        node_started_at: NOW,
        sequence: 1,
        taken_at: NOW,
        boot_id: 1,
        cpu_milli: node.cpu_milli,
        cpu_busy_milli: 0,
        memory_bytes: node.memory_mib << 20,
        memory_used_bytes: 0,
        disk_free_bytes: 100 << 30,
        gpus: (0..node.gpus).map(gpu).collect(),
        declared: Vec::new(),
        warnings: Vec::new(),
        refuses_work: false,
    }
}
