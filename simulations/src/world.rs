//! Virtual time and everything in it.

use std::collections::{BTreeMap, VecDeque};

use state_machine::ClusterState;
use types::{AttemptToken, ExperimentId};

use crate::clients::Client;
use crate::consensus::Pending;
use crate::executor::ProcessStep;
use crate::faults::Fault;
use crate::leader::Leader;
use crate::machine::Machine;
use crate::network::{Message, Weather};
use crate::random::Random;

/// Faults and submissions happen before this virtual time, in milliseconds.
pub(crate) const FAULTS_END: u64 = 120_000;
/// Everything must be over by then: the longest work, four attempts of it, and a long lease after each.
const LIVENESS_END: u64 = FAULTS_END + 8_000_000;
/// A history with more steps than this runs in circles.
const MAX_STEPS: u64 = 5_000_000;

/// A bug on purpose, to see the harness catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// No bug.
    Nothing,
    /// A new leader does not hold the leases that the one before granted.
    NoHold,
    /// A leader that lost its majority without knowing grants leases.
    UnconfirmedGrant,
    /// The node counts its lease from the answer instead of the request.
    CountFromAnswer,
    /// The holder does not end its process tree at the deadline.
    DeafHolder,
    /// A voter that lags answers from its old state as if it were the newest, confirmed.
    WrongIndex,
}

/// How a history went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything held.
    Sound,
    /// Something that must never be, was.
    Wrong(String),
    /// Something that must happen, did not.
    Stuck(String),
}

/// A history in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it went.
    pub outcome: Outcome,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Events.
    pub steps: u64,
    /// Log entries.
    pub entries: u64,
    /// Leaders.
    pub terms: u64,
    /// Experiments that ended.
    pub experiments: usize,
    /// Attempts that they took.
    pub attempts: usize,
    /// BLAKE3 of the last state: the same seed gives the same.
    pub state_hash: [u8; 32],
}

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Deliver {
        from: usize,
        to: usize,
        message: Message,
    },
    AgentWake {
        node: usize,
    },
    Process {
        node: usize,
        boot: u64,
        token: AttemptToken,
        step: ProcessStep,
    },
    LeaderWake {
        term: u64,
    },
    Commit {
        proposal: u64,
    },
    Elect,
    Confirm {
        leader: usize,
        asker: usize,
        message: Message,
    },
    Gossip {
        node: usize,
        start: u64,
    },
    Poll {
        node: usize,
        start: u64,
    },
    Client {
        number: usize,
    },
    Fault,
    Repair(Fault),
}

/// Everything.
pub(crate) struct World {
    pub(crate) plant: Plant,
    pub(crate) now: u64,
    pub(crate) random: Random,
    queue: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) weather: Weather,
    /// Group of each node: messages pass inside a group only.
    pub(crate) groups: Vec<u64>,
    /// Nodes that hear and are not heard.
    pub(crate) muted: Vec<bool>,
    pub(crate) state: ClusterState,
    /// Follows the log through snapshots; must always have the same bytes.
    pub(crate) replica: ClusterState,
    /// The last states, for voters that lag.
    pub(crate) history: VecDeque<ClusterState>,
    pub(crate) pending: BTreeMap<u64, Pending>,
    pub(crate) proposals: u64,
    pub(crate) last_commit_at: u64,
    pub(crate) term: u64,
    pub(crate) leader: Option<Leader>,
    /// Leaders that lost their majority and do not know it, by node.
    pub(crate) deposed: BTreeMap<usize, Leader>,
    pub(crate) clients: Vec<Client>,
    /// Processes that run now.
    pub(crate) running: BTreeMap<ExperimentId, Vec<(usize, AttemptToken)>>,
    /// What a check deep inside an event found.
    pub(crate) wrong: Option<String>,
    /// Attempts whose process ever ran.
    pub(crate) ran: BTreeMap<AttemptToken, u32>,
}

impl World {
    fn new(seed: u64, plant: Plant) -> Self {
        let mut random = Random::new(seed);
        let count = 3 + random.index(4);
        let machines: Vec<_> = (0..count)
            .map(|number| Machine::new(number, &mut random))
            .collect();
        Self {
            plant,
            now: 0,
            random,
            queue: BTreeMap::new(),
            scheduled: 0,
            groups: vec![0; machines.len()],
            muted: vec![false; machines.len()],
            machines,
            weather: Weather::fair(),
            state: ClusterState::default(),
            replica: ClusterState::default(),
            history: VecDeque::new(),
            pending: BTreeMap::new(),
            proposals: 0,
            last_commit_at: 0,
            term: 0,
            leader: None,
            deposed: BTreeMap::new(),
            clients: Vec::new(),
            running: BTreeMap::new(),
            wrong: None,
            ran: BTreeMap::new(),
        }
    }

    /// Plans an event `delay` milliseconds from now; equal times keep their order.
    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((self.now + delay, self.scheduled), event);
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, message)?,
            Event::AgentWake { node } => self.wake_agent(node),
            Event::Process {
                node,
                boot,
                token,
                step,
            } => self.process(node, boot, token, step)?,
            Event::LeaderWake { term } => self.wake_leader(term),
            Event::Commit { proposal } => self.commit(proposal)?,
            Event::Elect => self.elect()?,
            Event::Confirm {
                leader,
                asker,
                message,
            } => self.confirmed(leader, asker, message),
            Event::Gossip { node, start } => self.gossip(node, start),
            Event::Poll { node, start } => self.poll_wanted(node, start),
            Event::Client { number } => self.client(number),
            Event::Fault => self.fault(),
            Event::Repair(fault) => self.repair(fault),
        }
        self.wrong.take().map_or(Ok(()), Err)
    }

    fn run(&mut self) -> (Outcome, u64) {
        let mut steps = 0;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            steps += 1;
            if let Err(what) = self.step(event) {
                return (Outcome::Wrong(format!("at {at} ms: {what}")), steps);
            }
            if at > FAULTS_END && self.all_done() {
                return match self.check_end() {
                    Ok(()) => (Outcome::Sound, steps),
                    Err(what) => (Outcome::Wrong(what), steps),
                };
            }
            if at > LIVENESS_END || steps > MAX_STEPS {
                break;
            }
        }
        (Outcome::Stuck(self.unfinished()), steps)
    }
}

/// Runs the history of one seed.
#[must_use]
pub fn run(seed: u64, plant: Plant) -> Report {
    let mut world = World::new(seed, plant);
    world.found();
    world.plan_clients();
    for node in 0..world.machines.len() {
        world.start_process(node);
    }
    world.after(5_000, Event::Fault);
    world.after(0, Event::Elect);
    let (outcome, steps) = world.run();
    let attempts = world
        .state
        .experiments()
        .map(|experiment| experiment.attempts.len());
    Report {
        outcome,
        virtual_ms: world.now,
        steps,
        entries: world.state.applied().0,
        terms: world.term,
        experiments: world.state.experiments().count(),
        attempts: attempts.sum(),
        state_hash: world.state.state_hash(),
    }
}
