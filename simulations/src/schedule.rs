//! A full cluster with a long queue: what one scheduling round costs.

use membership::View;
use scheduler::{SchedulerConfig, place_next};
use state_machine::{
    AdmitNode, ClusterState, Command, CreateJoinToken, FoundCluster, LogEntry, Outcome,
    SubmitExperiment,
};
use types::{
    Author, ClusterId, Environment, ExperimentSpec, LogIndex, NodeReport, Policy, QueueName,
    ResourceRequest, Timestamp,
};

use crate::decisions::{facts, node_id};
use crate::random::Random;

const NOW: Timestamp = Timestamp(1_000);

/// A leader's state and view.
#[derive(Debug, Default)]
pub struct Backlog {
    state: ClusterState,
    view: View,
}

impl Backlog {
    /// A cluster of `nodes` full machines with `waiting` experiments of many shapes.
    ///
    /// # Panics
    /// If the state refuses a command that builds the cluster: a bug in this file.
    #[must_use]
    pub fn new(nodes: u32, waiting: u32) -> Self {
        let mut backlog = Self::default();
        let mut random = Random::new(1);
        let token = || "t-1".parse().expect("a token id");
        backlog.apply(Command::FoundCluster(FoundCluster {
            cluster: ClusterId([1; 32]),
            public_key: Vec::new(),
            founder: node_id(0),
            facts: facts(0),
            timing: "lan".to_owned(),
        }));
        backlog.apply(Command::CreateJoinToken(CreateJoinToken {
            id: token(),
            verifier: [0; 32],
            uses: u32::MAX,
            expires_at: Timestamp(u64::MAX),
        }));
        for number in 0..nodes {
            backlog.apply(Command::AdmitNode(AdmitNode {
                token: token(),
                node: node_id(number),
                facts: facts(number),
            }));
            backlog.view.observe(report(number), NOW);
        }
        for _ in 0..nodes * 4 {
            backlog.submit(4_000, 4 << 30);
        }
        while backlog.place() > 0 {}
        for _ in 0..waiting {
            let (cpu_milli, memory) = (random.range(500..16_000), random.range(1..32));
            backlog.submit(cpu_milli, memory << 30);
        }
        backlog
    }

    /// One round; returns how many it places.
    #[must_use]
    pub fn round(&self) -> usize {
        place_next(&self.state, &self.view, NOW, &SchedulerConfig::default()).len()
    }

    fn place(&mut self) -> usize {
        let placements = place_next(&self.state, &self.view, NOW, &SchedulerConfig::default());
        let count = placements.len();
        for placement in placements {
            self.apply(Command::PlaceAttempt(placement));
        }
        count
    }

    fn submit(&mut self, cpu_milli: u64, memory_bytes: u64) {
        let spec = ExperimentSpec {
            name: "x".to_owned(),
            command: vec!["work".to_owned()],
            source: None,
            working_directory: String::new(),
            variables: Vec::new(),
            environment: Environment::Host,
            parameters: Vec::new(),
            resources: ResourceRequest {
                cpu_milli,
                memory_bytes,
                ..ResourceRequest::default()
            },
            learned: Vec::new(),
            prefer_nodes: Vec::new(),
            queue: QueueName::default(),
            policy: Policy::default(),
            outputs: types::Outputs::default(),
            origin: None,
        };
        self.apply(Command::SubmitExperiment(Box::new(SubmitExperiment {
            spec,
        })));
    }

    fn apply(&mut self, command: Command) {
        let index = LogIndex(self.state.applied().0 + 1);
        let entry = LogEntry {
            time: NOW,
            author: Author::node(node_id(0)),
            request: None,
            command,
        };
        let outcome = self.state.apply(index, &entry).outcome;
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }
}

/// Most memory that this process had resident so far; 0 where `/proc` does not tell.
#[must_use]
pub fn most_resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

/// 16.4 cores, of which four experiments of four leave less than anybody asks for.
fn report(number: u32) -> NodeReport {
    NodeReport {
        node: node_id(number),
        node_started_at: NOW,
        sequence: 1,
        taken_at: NOW,
        boot_id: 1,
        cpu_milli: 16_400,
        cpu_busy_milli: 0,
        memory_bytes: 64 << 30,
        memory_used_bytes: 0,
        disk_free_bytes: 100 << 30,
        gpus: Vec::new(),
        declared: Vec::new(),
        warnings: Vec::new(),
        refuses_work: false,
    }
}
