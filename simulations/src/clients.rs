//! People: they submit, repeat themselves when nobody answers, and change their minds.

use state_machine::{Command, Outcome, StopExperiment, SubmitExperiment};
use types::{
    Environment, ExperimentId, ExperimentSpec, Policy, QueueName, RequestId, ResourceRequest,
};

use crate::consensus::Then;
use crate::world::{Event, FAULTS_END, World};

/// Wait before the same request is sent again.
const PATIENCE_MS: u64 = 3_000;

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
        for number in 0..count {
            let resources = ResourceRequest {
                cpu_milli: self.random.range(500..4_000),
                memory_bytes: self.random.range(1..8) << 30,
                ..ResourceRequest::default()
            };
            let policy = Policy {
                // Lost nodes are what this is about: nothing may end for having met too many.
                retries_node_lost: u32::MAX,
                retries_failed: u32::from(self.random.chance(300)),
                ..Policy::default()
            };
            let spec = ExperimentSpec {
                name: format!("experiment-{number}"),
                command: vec!["work".to_owned()],
                source: None,
                working_directory: String::new(),
                variables: Vec::new(),
                environment: Environment::Host,
                parameters: Vec::new(),
                resources,
                queue: QueueName::default(),
                policy,
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
                spec,
                experiment: None,
                stop_after,
            });
            let at = self.random.range(500..FAULTS_END / 2);
            self.after(at, Event::Client { number });
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
    pub(crate) fn acknowledge(&mut self, number: usize, outcome: &Outcome) {
        if self.random.chance(self.weather.loss_permille) {
            return;
        }
        if let Outcome::Submitted(experiment) = outcome {
            let client = &mut self.clients[number];
            client.experiment = Some(*experiment);
            if let Some(delay) = client.stop_after {
                self.after(delay, Event::Client { number });
            }
        }
    }
}
