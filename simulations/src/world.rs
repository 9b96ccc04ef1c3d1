//! Virtual time and everything in it.

use std::collections::{BTreeMap, VecDeque};

use membership::View;
use state_machine::{ClusterState, ExperimentPhase};
use types::LogIndex;

use crate::clients::Client;
use crate::faults::Fault;
use crate::host::{Effect, Host, HostBugs, Timer};
use crate::invariants::{self, Fact, Invariant, Scene};
use crate::leader::Leader;
use crate::log::LogModel;
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
    /// The leader acknowledges what only its own disk has.
    AckEarly,
    /// Disks lose the last entries that they had acknowledged when their node dies.
    LyingDisk,
    /// A leader that lost its majority without knowing answers reads.
    StaleRead,
    /// The leader makes the next change of voters before the last one is committed.
    TwoChangesAtOnce,
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
    /// Faults, repairs not counted.
    pub faults: u64,
    /// Experiments that ended.
    pub experiments: usize,
    /// Those of them that failed because they lost more machines than they bear.
    pub bereft: usize,
    /// Attempts that they took.
    pub attempts: usize,
    /// Results that came after their attempt was given up.
    pub late: usize,
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
    Host {
        node: usize,
        timer: Timer,
    },
    LeaderWake {
        term: u64,
    },
    /// A follower has the leader's log up to a length on its disk.
    Persist {
        term: u64,
        node: usize,
        length: usize,
    },
    /// The leader sends again what somebody lacks.
    Heartbeat {
        term: u64,
    },
    /// The leader looks at who votes.
    Membership {
        term: u64,
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
    Read,
    Operator,
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
    pub(crate) hosts: Vec<Host>,
    /// What each node process knows by gossip.
    pub(crate) views: Vec<View>,
    /// Nodes that a person has taken out.
    pub(crate) removed: Vec<bool>,
    pub(crate) weather: Weather,
    /// Group of each node: messages pass inside a group only.
    pub(crate) groups: Vec<u64>,
    /// Nodes that hear and are not heard.
    pub(crate) muted: Vec<bool>,
    /// Disks that take long.
    pub(crate) slow: Vec<bool>,
    pub(crate) log: LogModel,
    /// All committed entries applied.
    pub(crate) state: ClusterState,
    /// Follows the log through snapshots; must always have the same bytes.
    pub(crate) twin: ClusterState,
    /// The last states, for nodes that lag.
    pub(crate) history: VecDeque<ClusterState>,
    pub(crate) term: u64,
    pub(crate) leader: Option<Leader>,
    /// Leaders that lost their majority and do not know it, by node.
    pub(crate) deposed: BTreeMap<usize, Leader>,
    /// Whom the leader that stepped down wants to lead.
    pub(crate) heir: Option<usize>,
    pub(crate) clients: Vec<Client>,
    /// The newest index that anybody was told.
    pub(crate) told: LogIndex,
    /// Messages that will come once more, much later.
    pub(crate) kept: Vec<(usize, usize, Message)>,
    pub(crate) faults: u64,
    invariants: Vec<(u32, Box<dyn Invariant>)>,
    /// The first invariant that broke.
    wrong: Option<String>,
}

impl World {
    fn new(seed: u64, plant: Plant) -> Self {
        let mut random = Random::new(seed);
        let count = 3 + random.index(6);
        let bugs = HostBugs {
            count_from_answer: plant == Plant::CountFromAnswer,
            deaf_holder: plant == Plant::DeafHolder,
        };
        let hosts: Vec<_> = (0..count)
            .map(|number| Host::new(number, bugs, &mut random))
            .collect();
        Self {
            plant,
            now: 0,
            random,
            queue: BTreeMap::new(),
            scheduled: 0,
            views: vec![View::default(); count],
            removed: vec![false; count],
            weather: Weather::fair(),
            groups: vec![0; count],
            muted: vec![false; count],
            slow: vec![false; count],
            log: LogModel::new(count),
            hosts,
            state: ClusterState::default(),
            twin: ClusterState::default(),
            history: VecDeque::new(),
            term: 0,
            leader: None,
            deposed: BTreeMap::new(),
            heir: None,
            clients: Vec::new(),
            told: LogIndex(0),
            kept: Vec::new(),
            faults: 0,
            invariants: invariants::all(),
            wrong: None,
        }
    }

    /// Plans an event `delay` milliseconds from now; equal times keep their order.
    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((self.now + delay, self.scheduled), event);
    }

    /// Shows a fact to all invariants; the first that it breaks ends the history after this step.
    pub(crate) fn note(&mut self, fact: &Fact<'_>) {
        let scene = Scene {
            now: self.now,
            state: &self.state,
            twin: &self.twin,
            hosts: &self.hosts,
        };
        for (number, invariant) in &mut self.invariants {
            if let Err(what) = invariant.note(fact, &scene) {
                self.wrong
                    .get_or_insert(format!("invariant {number}: {what}"));
            }
        }
    }

    /// Does something on a machine and follows its effects.
    pub(crate) fn on_host(&mut self, node: usize, act: impl FnOnce(&mut Host, u64) -> Vec<Effect>) {
        let effects = act(&mut self.hosts[node], self.now);
        for effect in effects {
            self.follow_effect(node, effect);
        }
    }

    fn follow_effect(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::AskLeases {
                tokens,
                sent_at,
                start,
            } => self.send_to_leader(
                node,
                Message::LeaseRequest {
                    tokens,
                    sent_at,
                    start,
                },
            ),
            Effect::Report(report) => self.send_to_leader(node, Message::Report(report)),
            Effect::Timer(after, timer) => self.after(after, Event::Host { node, timer }),
            Effect::Started(token) => self.note(&Fact::Started { host: node, token }),
            Effect::Over(token) => self.note(&Fact::Over { host: node, token }),
            Effect::Stopped(token, reason) => self.note(&Fact::Stopped {
                host: node,
                token,
                reason: &reason,
            }),
            Effect::Granted(token) => self.note(&Fact::Granted { host: node, token }),
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Host { node, timer } => self.on_host(node, |host, now| host.fire(now, timer)),
            Event::LeaderWake { term } => self.wake_leader(term),
            Event::Persist { term, node, length } => self.persist(term, node, length),
            Event::Heartbeat { term } => self.heartbeat(term),
            Event::Membership { term } => self.review_voters(term),
            Event::Elect => self.elect(),
            Event::Confirm {
                leader,
                asker,
                message,
            } => self.confirmed(leader, asker, message),
            Event::Gossip { node, start } => self.gossip(node, start),
            Event::Poll { node, start } => self.poll_wanted(node, start),
            Event::Client { number } => self.client(number),
            Event::Read => self.read(),
            Event::Operator => self.operate(),
            Event::Fault => self.fault(),
            Event::Repair(fault) => self.repair(fault),
        }
        self.note(&Fact::Step);
    }

    fn run(&mut self) -> (Outcome, u64) {
        let mut steps = 0;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            steps += 1;
            self.step(event);
            if let Some(what) = self.wrong.take() {
                return (Outcome::Wrong(format!("at {at} ms: {what}")), steps);
            }
            if at > FAULTS_END && self.all_done() {
                return (self.conclude(), steps);
            }
            if at > LIVENESS_END || steps > MAX_STEPS {
                break;
            }
        }
        (Outcome::Stuck(self.unfinished()), steps)
    }

    /// What must hold when everything is over.
    fn conclude(&mut self) -> Outcome {
        let scene = Scene {
            now: self.now,
            state: &self.state,
            twin: &self.twin,
            hosts: &self.hosts,
        };
        for (number, invariant) in &mut self.invariants {
            if let Err(what) = invariant.at_the_end(&scene) {
                return Outcome::Wrong(format!("at the end: invariant {number}: {what}"));
            }
        }
        match self.check_whole() {
            Ok(()) => Outcome::Sound,
            Err(what) => Outcome::Wrong(format!("at the end: {what}")),
        }
    }
}

/// Runs the history of one seed.
#[must_use]
pub fn run(seed: u64, plant: Plant) -> Report {
    let mut world = World::new(seed, plant);
    world.found();
    world.plan_clients();
    for node in 0..world.hosts.len() {
        world.start_node(node);
    }
    world.after(5_000, Event::Fault);
    world.after(7_000, Event::Operator);
    world.after(1_000, Event::Read);
    world.after(0, Event::Elect);
    let (outcome, steps) = world.run();
    let attempts: Vec<_> = world
        .state
        .experiments()
        .flat_map(|experiment| &experiment.attempts)
        .collect();
    let late = attempts.iter().filter(|attempt| attempt.late.is_some());
    let bereft = world.state.experiments().filter(|experiment| {
        matches!(&experiment.phase, ExperimentPhase::Ended { cause, .. } if cause.is_node_failure())
    });
    Report {
        outcome,
        virtual_ms: world.now,
        steps,
        entries: world.state.applied().0,
        terms: world.term,
        faults: world.faults,
        experiments: world.state.experiments().count(),
        bereft: bereft.count(),
        attempts: attempts.len(),
        late: late.count(),
        state_hash: world.state.state_hash(),
    }
}
