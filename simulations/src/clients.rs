//! People: they submit, repeat themselves when nobody answers, read, change their minds, and run the machines.

use state_machine::{
    AcceptLate, AdmitNode, Command, ExperimentPhase, FoundCluster, Outcome, RemoveNode,
    StopExperiment, SubmitExperiment,
};
use types::{
    ClusterId, Environment, ExperimentId, ExperimentSpec, LogIndex, Policy, QueueName, RequestId,
    ResourceRequest,
};

use crate::consensus::Then;
use crate::invariants::Fact;
use crate::network::Message;
use crate::world::{Event, FAULTS_END, World};

/// Wait before the same request is sent again.
const PATIENCE_MS: u64 = 3_000;
/// Experiments of a thousand that bear few lost machines. The others bear any number: they must come to their end
/// whatever happens.
const DELICATE_PERMILLE: u64 = 100;
/// How many lost machines those bear, less than this.
const FEW_LOST: u64 = 3;
/// Machines that must be left to take work.
const FEWEST_WORKERS: usize = 3;

/// One submission.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    request: RequestId,
    spec: ExperimentSpec,
    /// The answer.
    pub(crate) experiment: Option<ExperimentId>,
    /// Wants to stop it so long after the answer.
    stop_after: Option<u64>,
}

impl World {
    pub(crate) fn plan_clients(&mut self) {
        let count = 4 + self.random.index(16);
        // Of the first three one takes work for sure.
        let workers = u32::try_from(self.hosts.len() - 2).expect("a few");
        for number in 0..count {
            let resources = ResourceRequest {
                cpu_milli: self.random.range(500..4_000),
                memory_bytes: self.random.range(1..8) << 30,
                nodes: nodes_of(number).min(workers),
                ..ResourceRequest::default()
            };
            let policy = Policy {
                retries_node_lost: self.draw_patience(),
                retries_failed: u32::from(self.random.chance(300)),
                ..Policy::default()
            };
            let request = RequestId {
                session: [1; 16],
                sequence: number as u64,
            };
            let stop_after = self
                .random
                .chance(150)
                .then(|| self.random.range(0..30_000));
            self.clients.push(Client {
                request,
                spec: spec(format!("experiment-{number}"), resources, policy),
                experiment: None,
                stop_after,
            });
            let at = self.random.range(500..FAULTS_END / 2);
            self.after(at, Event::Client { number });
        }
    }

    /// After how many lost machines an experiment is tried again.
    fn draw_patience(&mut self) -> u32 {
        if self.random.chance(DELICATE_PERMILLE) {
            u32::try_from(self.random.range(0..FEW_LOST)).expect("a few")
        } else {
            u32::MAX
        }
    }

    pub(crate) fn client(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if let Some(experiment) = client.experiment {
            if let Some(again) = client.stop_after.take() {
                // Proposed twice as often as not: a stop is idempotent.
                let stop = Command::StopExperiment(StopExperiment { experiment });
                self.propose(None, stop, Then::Nobody);
                if self.leader.is_none() {
                    self.clients[number].stop_after = Some(again);
                    self.after(PATIENCE_MS, Event::Client { number });
                }
            }
            return;
        }
        let (request, spec) = (client.request, client.spec.clone());
        let submit = Command::SubmitExperiment(Box::new(SubmitExperiment { spec }));
        self.propose(Some(request), submit, Then::Client { number });
        self.after(PATIENCE_MS, Event::Client { number });
    }

    /// The answer may be lost on its way too.
    pub(crate) fn acknowledge(&mut self, number: usize, index: LogIndex, outcome: &Outcome) {
        if self.random.chance(self.weather.loss_permille) {
            return;
        }
        let request = self.clients[number].request;
        self.note(&Fact::Acknowledged {
            request,
            index,
            outcome,
        });
        self.told = self.told.max(index);
        if let Outcome::Submitted(experiment) = outcome {
            let client = &mut self.clients[number];
            client.experiment = Some(*experiment);
            if let Some(delay) = client.stop_after {
                self.after(delay, Event::Client { number });
            }
        }
    }

    /// Somebody looks, from some node.
    pub(crate) fn read(&mut self) {
        let node = self.random.index(self.hosts.len());
        let floor = self.told;
        self.send_to_leader(node, Message::Read { floor });
        let pause = self.random.range(500..4_000);
        if self.now < FAULTS_END {
            self.after(pause, Event::Read);
        }
    }

    /// An operator does something, wise or not.
    pub(crate) fn operate(&mut self) {
        if self.now >= FAULTS_END {
            return;
        }
        let pause = self.random.range(3_000..20_000);
        self.after(pause, Event::Operator);
        match self.random.range(0..10) {
            0..3 => self.remove_a_node(),
            3..5 => self.found_again(),
            5..7 => self.admit_without_token(),
            7 => self.submit_too_much(),
            _ => self.accept_late(),
        }
    }

    /// Takes a machine out for good, if enough others are left; the state refuses it while something runs there.
    fn remove_a_node(&mut self) {
        let node = self.random.index(self.hosts.len());
        let others = (0..self.hosts.len()).filter(|other| {
            let record = self.state.node(&self.hosts[*other].id);
            *other != node
                && !self.removed[*other]
                && record.is_some_and(|record| record.facts.takes_work)
        });
        if node < 3 || self.removed[node] || others.count() < FEWEST_WORKERS {
            return;
        }
        let leader = self.leader.as_ref().map(|leader| leader.node);
        let votes = leader.is_none_or(|leader| self.log.voters_of(leader).contains(&node));
        if votes {
            return;
        }
        let remove = Command::RemoveNode(RemoveNode {
            node: self.hosts[node].id.clone(),
            reason: "sold".to_owned(),
        });
        self.propose(None, remove, Then::Nobody);
    }

    fn found_again(&mut self) {
        let Some(record) = self.state.nodes().next() else {
            return;
        };
        let found = Command::FoundCluster(FoundCluster {
            cluster: ClusterId([2; 32]),
            public_key: Vec::new(),
            founder: record.node.clone(),
            facts: record.facts.clone(),
            timing: "wan".to_owned(),
        });
        self.propose(None, found, Then::Nobody);
    }

    fn admit_without_token(&mut self) {
        let Some(record) = self.state.nodes().next() else {
            return;
        };
        let admit = Command::AdmitNode(AdmitNode {
            token: "guessed".parse().expect("a token id"),
            node: "stranger".parse().expect("base58"),
            facts: record.facts.clone(),
        });
        self.propose(None, admit, Then::Nobody);
    }

    fn submit_too_much(&mut self) {
        let name = "too much".to_owned();
        let mut spec = spec(name, ResourceRequest::default(), Policy::default());
        spec.variables = vec![("X".to_owned(), "x".repeat(70 << 10))];
        let submit = Command::SubmitExperiment(Box::new(SubmitExperiment { spec }));
        self.propose(None, submit, Then::Nobody);
    }

    /// A person takes a late success for the result, if there is one.
    fn accept_late(&mut self) {
        let late = self.state.experiments().find_map(|experiment| {
            let over = matches!(experiment.phase, ExperimentPhase::Ended { .. });
            let late = experiment.attempts.iter().find(|attempt| {
                attempt
                    .late
                    .as_ref()
                    .is_some_and(|end| end.cause.is_success())
            });
            late.filter(|_| over).map(|attempt| attempt.token)
        });
        if let Some(token) = late {
            let (experiment, attempt) = (token.experiment, token.attempt);
            let accept = AcceptLate {
                experiment,
                attempt,
            };
            self.propose(None, Command::AcceptLate(accept), Then::Nobody);
        }
    }
}

/// Some are gangs, by their number: the chance of everything else is as it was.
fn nodes_of(number: usize) -> u32 {
    match number % 12 {
        5 | 8 => 2,
        11 => 3,
        _ => 1,
    }
}

fn spec(name: String, resources: ResourceRequest, policy: Policy) -> ExperimentSpec {
    ExperimentSpec {
        name,
        command: vec!["work".to_owned()],
        source: None,
        working_directory: String::new(),
        variables: Vec::new(),
        environment: Environment::Host,
        parameters: Vec::new(),
        resources,
        learned: Vec::new(),
        prefer_nodes: Vec::new(),
        queue: QueueName::default(),
        policy,
        outputs: types::Outputs::default(),
        origin: None,
    }
}
