//! People: they submit, look, stop, and repeat themselves under the same request id when nobody answers.

use std::sync::Arc;
use std::time::Duration;

use state_machine::{Command, Outcome, StopExperiment, SubmitExperiment};
use types::{
    Environment, ExperimentId, ExperimentSpec, Policy, QueueName, RequestId, ResourceRequest,
};

use crate::network::{PERSON, Request, Response};
use crate::plant::Plant;
use crate::seen::Seen;
use crate::world::World;

/// Time until a person gives up waiting and asks again.
const PATIENCE: Duration = Duration::from_secs(4);

/// Experiments of a thousand that bear few lost machines. The others bear any number: they must come to their end
/// whatever happens.
const DELICATE_PERMILLE: u64 = 100;
/// How many lost machines those bear, less than this.
const FEW_LOST: u64 = 3;

/// After how many lost machines an experiment is tried again.
fn draw_patience(world: &World) -> u32 {
    if world.chance(DELICATE_PERMILLE) {
        u32::try_from(world.range(0..FEW_LOST)).expect("a few")
    } else {
        u32::MAX
    }
}

/// One person with a list of things to do.
pub(crate) struct Client {
    pub(crate) world: Arc<World>,
    pub(crate) number: u64,
    sequence: u64,
    submitted: Vec<ExperimentId>,
}

impl Client {
    pub(crate) fn new(world: Arc<World>, number: u64) -> Self {
        Self {
            world,
            number,
            sequence: 0,
            submitted: Vec::new(),
        }
    }

    /// Does `operations` things, each until it is answered; stops early when the world says so.
    pub(crate) async fn run(mut self, operations: u64, longest_pause_ms: u64) {
        for operation in 0..operations {
            let pause = self.world.range(10..longest_pause_ms);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.world.range(0..10) {
                0..4 => self.submit(operation).await,
                4 if !self.submitted.is_empty() => self.stop().await,
                _ => self.read().await,
            }
        }
    }

    async fn submit(&mut self, operation: u64) {
        let is_long = self.world.with(|inner| inner.random.range(0..400) == 0);
        let kind = if is_long { "long" } else { "short" };
        let name = format!("{kind}-{}-{operation}", self.number);
        let spec = self.spec(name);
        let command = Command::SubmitExperiment(Box::new(SubmitExperiment { spec }));
        if let Outcome::Submitted(id) = self.write(command).await {
            self.submitted.push(id);
        }
    }

    fn spec(&self, name: String) -> ExperimentSpec {
        let world = &self.world;
        let resources = ResourceRequest {
            cpu_milli: world.range(300..3_000),
            memory_bytes: world.range(1..6) << 30,
            ..ResourceRequest::default()
        };
        let policy = Policy {
            retries_node_lost: draw_patience(world),
            retries_failed: u32::from(world.chance(300)),
            ..Policy::default()
        };
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

    async fn stop(&mut self) {
        let place = self
            .world
            .with(|inner| inner.random.index(self.submitted.len()));
        let experiment = self.submitted.swap_remove(place);
        self.write(Command::StopExperiment(StopExperiment { experiment }))
            .await;
    }

    /// Asks any node until it is answered, under one request id.
    pub(crate) async fn write(&mut self, command: Command) -> Outcome {
        self.sequence += 1;
        loop {
            let request = RequestId {
                session: [u8::try_from(self.number).unwrap_or(u8::MAX); 16],
                sequence: self.sequence + (self.number << 32),
            };
            let message = Request::Call(request, Box::new(command.clone()));
            let answer = self.ask(message).await;
            if let Some(Response::Outcome(index, outcome)) = answer {
                self.world.see(&Seen::Acknowledged {
                    request,
                    index,
                    outcome: &outcome,
                });
                self.world.with(|inner| {
                    inner.counts.writes += 1;
                    inner.shown = inner.shown.max(index);
                });
                return outcome;
            }
            self.world.with(|inner| inner.counts.retries += 1);
            if self.world.plant == Plant::ForgetfulClient {
                self.sequence += 1;
            }
            self.pause().await;
        }
    }

    /// Looks until it is answered.
    pub(crate) async fn read(&mut self) {
        loop {
            let floor = self.world.with(|inner| inner.shown);
            if let Some(Response::Index(index)) = self.ask(Request::Read).await {
                self.world.see(&Seen::Read { floor, index });
                self.world.with(|inner| {
                    inner.counts.reads += 1;
                    inner.shown = inner.shown.max(index);
                });
                return;
            }
            self.world.with(|inner| inner.counts.retries += 1);
            self.pause().await;
        }
    }

    /// Any node will do; each try goes to another.
    async fn ask(&self, message: Request) -> Option<Response> {
        let node = self.world.range(0..self.world.size());
        self.world.call(PERSON, node, message, PATIENCE).await.ok()
    }

    async fn pause(&self) {
        let pause = self.world.range(20..400);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}
