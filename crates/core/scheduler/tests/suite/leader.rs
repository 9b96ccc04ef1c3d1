//! State, view and clock of a leader.

use membership::View;
use scheduler::{Memory, SchedulerConfig, explain, place_next, place_next_with, preempt_next};
use state_machine::{
    AdmitNode, AttemptEnd, AttemptReport, ClusterState, Command, CreateJoinToken, FoundCluster,
    LogEntry, LoseAttempt, Outcome, PlaceAttempt, ReportAttempt, SubmitExperiment,
};
use types::{
    AttemptToken, Author, Cause, CauseKind, ClusterId, DurationMs, Environment, ExperimentId,
    ExperimentSpec, GpuReport, LogIndex, NodeFacts, NodeId, NodeReport, Policy, QueueName,
    ResourceRequest, Timestamp,
};

pub(crate) const GIB: u64 = 1 << 30;

/// State, view and clock of a leader.
pub(crate) struct Leader {
    pub(crate) state: ClusterState,
    pub(crate) view: View,
    pub(crate) now: Timestamp,
    /// What is submitted would like these nodes.
    pub(crate) prefer: Vec<NodeId>,
}

pub(crate) fn id(name: &str) -> NodeId {
    name.parse().expect("a base58 name")
}

pub(crate) fn facts(name: &str) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        version: String::new(),
        control_addresses: Vec::new(),
        bulk_addresses: Vec::new(),
        takes_work: true,
        may_vote: true,
        keeps_blobs: true,
        labels: Vec::new(),
    }
}

pub(crate) fn report(name: &str, cpus: u64, memory_gib: u64, gpus: &[(u64, u64)]) -> NodeReport {
    let gpu = |(number, (total, used)): (usize, &(u64, u64))| GpuReport {
        uuid: format!("gpu-{number}"),
        model: "H100".to_owned(),
        vram_total_bytes: total * GIB,
        vram_used_bytes: used * GIB,
        vram_foreign_bytes: used * GIB,
        utilisation_percent: 0,
        links: 0,
        numa_node: None,
    };
    NodeReport {
        node: id(name),
        node_started_at: Timestamp(1),
        sequence: 1,
        taken_at: Timestamp(1),
        boot_id: 1,
        cpu_milli: cpus * 1_000,
        cpu_busy_milli: 0,
        memory_bytes: memory_gib * GIB,
        memory_used_bytes: 0,
        disk_free_bytes: 100 * GIB,
        gpus: gpus.iter().enumerate().map(gpu).collect(),
        declared: Vec::new(),
        warnings: Vec::new(),
        refuses_work: false,
    }
}

pub(crate) fn ask(cpus: u64, memory_gib: u64) -> ResourceRequest {
    ResourceRequest {
        cpu_milli: cpus * 1_000,
        memory_bytes: memory_gib * GIB,
        ..ResourceRequest::default()
    }
}

pub(crate) fn ask_gpu(gpu_milli: u64, vram_gib: u64) -> ResourceRequest {
    ResourceRequest {
        gpu_milli,
        vram_bytes: vram_gib * GIB,
        ..ask(1, 1)
    }
}

impl Leader {
    /// A cluster of these nodes, each of which has reported.
    pub(crate) fn of(reports: Vec<NodeReport>) -> Self {
        let named = reports.iter().map(|report| facts(report.node.as_str()));
        let facts = named.collect();
        Self::with_facts(reports, facts)
    }

    pub(crate) fn with_facts(reports: Vec<NodeReport>, facts: Vec<NodeFacts>) -> Self {
        let mut leader = Self {
            state: ClusterState::default(),
            view: View::default(),
            now: Timestamp(1_000_000),
            prefer: Vec::new(),
        };
        let token = "t-1".parse().expect("a token id");
        leader.apply(Command::FoundCluster(FoundCluster {
            cluster: ClusterId([1; 32]),
            public_key: Vec::new(),
            founder: reports[0].node.clone(),
            facts: facts[0].clone(),
            timing: "lan".to_owned(),
        }));
        leader.apply(Command::CreateJoinToken(CreateJoinToken {
            id: token,
            verifier: [0; 32],
            uses: 1_000,
            expires_at: Timestamp(u64::MAX),
        }));
        for (report, facts) in reports.into_iter().zip(facts) {
            let admit = AdmitNode {
                token: "t-1".parse().expect("a token id"),
                node: report.node.clone(),
                facts,
            };
            leader.apply(Command::AdmitNode(admit));
            leader.view.observe(report, leader.now);
        }
        leader
    }

    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        self.apply_by("head", command)
    }

    /// Applies what this user says.
    pub(crate) fn apply_by(&mut self, user: &str, command: Command) -> Outcome {
        let index = LogIndex(self.state.applied().0 + 1);
        let entry = LogEntry {
            time: self.now,
            author: Author {
                user: user.to_owned(),
                ..Author::node(id("head"))
            },
            request: None,
            command,
        };
        self.state.apply(index, &entry).outcome
    }

    pub(crate) fn submit(&mut self, resources: ResourceRequest) -> ExperimentId {
        self.submit_with(resources, Policy::default())
    }

    pub(crate) fn submit_with(
        &mut self,
        resources: ResourceRequest,
        policy: Policy,
    ) -> ExperimentId {
        self.submit_by("head", resources, policy)
    }

    /// Submits as this user.
    pub(crate) fn submit_by(
        &mut self,
        user: &str,
        resources: ResourceRequest,
        policy: Policy,
    ) -> ExperimentId {
        let spec = ExperimentSpec {
            name: "x".to_owned(),
            command: vec!["true".to_owned()],
            source: None,
            working_directory: String::new(),
            variables: Vec::new(),
            environment: Environment::Host,
            parameters: Vec::new(),
            resources,
            learned: Vec::new(),
            prefer_nodes: self.prefer.clone(),
            queue: QueueName::default(),
            policy,
            outputs: types::Outputs::default(),
            origin: None,
        };
        let command = Command::SubmitExperiment(Box::new(SubmitExperiment { spec }));
        match self.apply_by(user, command) {
            Outcome::Submitted(id) => id,
            other => unreachable!("{other:?}"),
        }
    }

    /// A round with what earlier ones have found out.
    pub(crate) fn round_with(&self, memory: &mut Memory) -> Vec<PlaceAttempt> {
        place_next_with(&self.state, &self.view, self.now, &self.config(), memory)
    }

    pub(crate) fn round(&self) -> Vec<PlaceAttempt> {
        place_next(&self.state, &self.view, self.now, &self.config())
    }

    pub(crate) fn config(&self) -> SchedulerConfig {
        SchedulerConfig {
            clock: self.now,
            ..SchedulerConfig::default()
        }
    }

    /// Applies one round; all of it must be accepted.
    pub(crate) fn place(&mut self) -> Vec<AttemptToken> {
        let placements = self.round();
        let outcomes = placements
            .into_iter()
            .map(|placement| self.apply(Command::PlaceAttempt(placement)));
        let tokens = outcomes.map(|outcome| match outcome {
            Outcome::Placed(token) => token,
            other => unreachable!("{other:?}"),
        });
        tokens.collect()
    }

    pub(crate) fn home(&self, experiment: ExperimentId) -> Option<String> {
        let experiment = self.state.experiment(experiment)?;
        let attempt = experiment.current_attempt()?;
        Some(attempt.ranks[0].placement.node.to_string())
    }

    pub(crate) fn explain(&self, experiment: ExperimentId) -> scheduler::Explanation {
        let experiment = self.state.experiment(experiment).expect("it is hot");
        explain(
            &self.state,
            &self.view,
            self.now,
            experiment,
            &self.config(),
        )
    }

    pub(crate) fn lose(&mut self, token: AttemptToken) {
        self.apply(Command::LoseAttempt(LoseAttempt {
            token,
            rank: 0,
            cause: Cause::new(CauseKind::NodeLost, vec!["test".to_owned()]),
            segments: Vec::new(),
        }));
    }

    /// Time passes, and all nodes report again.
    pub(crate) fn pass(&mut self, time: DurationMs) {
        self.now = self.now + time;
        let nodes: Vec<_> = self
            .state
            .nodes()
            .map(|record| record.node.clone())
            .collect();
        for node in nodes {
            let mut again = self.view.get(&node).expect("it reported").report.clone();
            again.sequence += 1;
            self.view.observe(again, self.now);
        }
    }

    /// The attempt ends by itself.
    pub(crate) fn finish(&mut self, token: AttemptToken) {
        self.end(token, CauseKind::Finished);
    }

    pub(crate) fn end(&mut self, token: AttemptToken, kind: CauseKind) {
        let experiment = self.state.experiment(token.experiment).expect("it is hot");
        let attempt = experiment.current_attempt().expect("it runs");
        let cause = Cause::new(kind, vec!["test".to_owned()]);
        let open: Vec<_> = attempt
            .open_ranks()
            .map(|(rank, record)| (rank, record.placement.node.clone()))
            .collect();
        for (rank, node) in open {
            self.end_rank((token, rank), node, cause.clone());
        }
    }

    fn end_rank(&mut self, (token, rank): (AttemptToken, u32), node: NodeId, cause: Cause) {
        let end = AttemptEnd {
            cause,
            at: self.now,
            peak_memory_bytes: 0,
            peak_vram_bytes: 0,
            cpu_ms: DurationMs(0),
            tree_kill_method: String::new(),
            outputs: None,
        };
        let report = AttemptReport::Ended {
            end,
            segments: Vec::new(),
            inline_records: bytes::Bytes::new(),
        };
        let outcome = self.apply(Command::ReportAttempt(Box::new(ReportAttempt {
            token,
            node,
            rank,
            report,
        })));
        assert_eq!(outcome, Outcome::Done);
    }

    /// Applies one decision to make room; who has to go.
    pub(crate) fn preempt(&mut self) -> Vec<AttemptToken> {
        let config = self.config();
        let Some(decision) = preempt_next(&self.state, &self.view, self.now, &config) else {
            return Vec::new();
        };
        let victims = decision.victims.clone();
        let outcome = self.apply(Command::PreemptFor(Box::new(decision)));
        assert_eq!(outcome, Outcome::Done);
        victims
    }
}
