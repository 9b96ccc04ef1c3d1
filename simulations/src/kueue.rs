//! The workload generator of Kueue's own scheduler benchmark (kubernetes-sigs/kueue, test/performance/scheduler/configs),
//! on virtual time: how long the pure core takes to get through it when deciding takes none.
//!
//! A cohort, whose queues may lend all they have to each other, is a machine that has what they have together; a
//! queue's nominal quota and what it may borrow are its limit. Priorities are kept: 50, 100 and 200 are three classes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use state_machine::{
    Command, CreateQueue, LabelNode, Limits, PlaceAttempt, PreemptFor, ShapeQueue,
};
use types::{
    AttemptToken, CauseKind, DurationMs, NodeId, Policy, QueueName, ResourceRequest, Timestamp,
};

use crate::decisions::{Decider, node_id};
use crate::placement::TraceNode;

/// When the generator begins; any time after that at which the machines joined.
const BEGIN: Timestamp = Timestamp(2_000_000);
/// What each queue has of its own, and what it may borrow of its cohort.
const NOMINAL_UNITS: u64 = 20;
const BORROWED_UNITS: u64 = 100;
/// A unit is a core and no memory to speak of.
const UNIT_CPU_MILLI: u64 = 1_000;
const UNIT_MEMORY_BYTES: u64 = 1 << 20;
/// The longest time between two reports of a machine.
const REPORT_EVERY: DurationMs = DurationMs::from_secs(5);
/// Name of the label that says which cohort a machine is.
const COHORT: &str = "cohort";

/// One of the published sizes.
#[derive(Clone, Debug)]
pub struct Generator {
    /// As it is written on the command line.
    pub name: &'static str,
    /// Groups of queues that lend to each other.
    cohorts: u32,
    /// Queues of each.
    queues: u32,
    /// What comes into each queue.
    streams: [Stream; 3],
    /// The published wall time, in seconds.
    pub published_s: f64,
}

/// Workloads of one kind that come into each queue, one after the other.
#[derive(Clone, Copy, Debug)]
struct Stream {
    count: u64,
    every_ms: u64,
    units: u64,
    runs_ms: u64,
    priority: i32,
}

impl Stream {
    const fn new(count: u64, every_ms: u64, units: u64, runs_ms: u64, priority: i32) -> Self {
        Self {
            count,
            every_ms,
            units,
            runs_ms,
            priority,
        }
    }
}

impl Generator {
    /// 15,000 workloads in 30 queues.
    #[must_use]
    pub fn small() -> Self {
        Self {
            name: "small",
            cohorts: 5,
            queues: 6,
            streams: [
                Stream::new(350, 100, 1, 200, 50),
                Stream::new(100, 500, 5, 500, 100),
                Stream::new(50, 1_200, 20, 1_000, 200),
            ],
            published_s: 351.1,
        }
    }

    /// 50,000 workloads in 1,000 queues.
    #[must_use]
    pub fn large() -> Self {
        Self {
            name: "large",
            cohorts: 10,
            queues: 100,
            streams: [
                Stream::new(35, 60, 1, 150, 50),
                Stream::new(11, 300, 5, 350, 100),
                Stream::new(4, 700, 20, 700, 200),
            ],
            published_s: 1_179.0,
        }
    }

    /// Workloads in all.
    #[must_use]
    pub fn workloads(&self) -> u64 {
        let each: u64 = self.streams.iter().map(|stream| stream.count).sum();
        each * u64::from(self.cohorts * self.queues)
    }

    /// No scheduler is done before: all that is asked for, over all that there is; or the last to come and its run.
    #[must_use]
    pub fn bound(&self) -> Duration {
        let streams = self.streams.iter();
        let unit_ms: u64 = streams.map(|one| one.count * one.units * one.runs_ms).sum();
        let streams = self.streams.iter();
        let last = streams.map(|one| (one.count - 1) * one.every_ms + one.runs_ms);
        Duration::from_millis((unit_ms / NOMINAL_UNITS).max(last.max().unwrap_or(0)))
    }

    fn queue_name(cohort: u32, queue: u32) -> QueueName {
        let name = format!("cohort{cohort}-queue{queue}");
        name.parse().expect("letters, digits and a dash")
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// From the first workload to the end of the last, in virtual time.
    pub wall: Duration,
    /// Real time that decisions took.
    pub deciding: Duration,
    /// Real time that applying took.
    pub applying: Duration,
    /// Rounds of placements.
    pub rounds: u64,
    /// Workloads that are done.
    pub finished: u64,
    /// Attempts that were started.
    pub placed: u64,
    /// Attempts that had to make room, and run again.
    pub preempted: u64,
    /// Mean time from submission to the first start, by stream, in milliseconds.
    pub mean_wait_ms: [u64; 3],
}

/// What happens next, by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The next workload of a stream comes into every queue.
    Arrive { stream: usize, left: u64 },
    /// A process is done, if it still runs.
    End { token: AttemptToken, node: NodeId },
}

struct Run<'a> {
    generator: &'a Generator,
    decider: Decider,
    events: BinaryHeap<Reverse<(Timestamp, u64, Event)>>,
    sequence: u64,
    now: Timestamp,
    reported: Timestamp,
    figures: Figures,
    waited_ms: [u64; 3],
}

/// Runs the generator to its end.
///
/// # Panics
/// If the state refuses a command: a bug in this file, or in the scheduler.
#[must_use]
pub fn generate(generator: &Generator) -> Figures {
    let mut run = Run::new(generator);
    while let Some(at) = run.next_at() {
        run.pass_to(at);
        // What happens at the same moment is one look.
        while run.next_at() == Some(at)
            && let Some(Reverse((_, _, event))) = run.events.pop()
        {
            run.happen(event);
        }
        run.decide();
    }
    run.finish()
}

impl<'a> Run<'a> {
    fn new(generator: &'a Generator) -> Self {
        let units = NOMINAL_UNITS * u64::from(generator.queues);
        let machine = TraceNode {
            cpu_milli: units * UNIT_CPU_MILLI,
            memory_mib: (units * UNIT_MEMORY_BYTES) >> 20,
            gpus: 0,
            model: String::new(),
        };
        let machines = (0..generator.cohorts).map(|_| machine.clone());
        let mut decider = Decider::of_nodes(&machines.collect::<Vec<_>>());
        for cohort in 0..generator.cohorts {
            decider.apply(Command::LabelNode(LabelNode {
                node: node_id(cohort),
                labels: vec![(COHORT.to_owned(), Some(cohort.to_string()))],
            }));
            for queue in 0..generator.queues {
                make_queue(&mut decider, Generator::queue_name(cohort, queue));
            }
        }
        let mut run = Self {
            generator,
            decider,
            events: BinaryHeap::new(),
            sequence: 0,
            now: BEGIN,
            reported: Timestamp(0),
            figures: Figures::default(),
            waited_ms: [0; 3],
        };
        for (stream, one) in generator.streams.iter().enumerate() {
            let left = one.count;
            run.schedule(BEGIN, Event::Arrive { stream, left });
        }
        run
    }

    fn schedule(&mut self, at: Timestamp, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn next_at(&self) -> Option<Timestamp> {
        self.events.peek().map(|Reverse((at, _, _))| *at)
    }

    fn pass_to(&mut self, at: Timestamp) {
        self.now = at;
        if at.since(self.reported) >= REPORT_EVERY {
            self.reported = at;
            self.decider.report_all(at);
        }
        self.decider.pass_to(at);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { stream, left } => self.arrive(stream, left),
            Event::End { token, node } => {
                if self.decider.runs(token) {
                    self.decider.end_one(token, &node, CauseKind::Finished);
                    self.figures.wall = Duration::from_millis(self.now.since(BEGIN).0);
                    self.figures.finished += 1;
                }
            }
        }
    }

    fn arrive(&mut self, stream: usize, left: u64) {
        let one = self.generator.streams[stream];
        for cohort in 0..self.generator.cohorts {
            let resources = ResourceRequest {
                cpu_milli: one.units * UNIT_CPU_MILLI,
                memory_bytes: one.units * UNIT_MEMORY_BYTES,
                constraints: vec![(COHORT.to_owned(), cohort.to_string())],
                ..ResourceRequest::default()
            };
            let policy = Policy {
                priority: one.priority,
                ..Policy::default()
            };
            for queue in 0..self.generator.queues {
                let queue = Generator::queue_name(cohort, queue);
                let (resources, policy) = (resources.clone(), policy.clone());
                self.decider
                    .submit_request("bench", queue, resources, policy);
            }
        }
        if left > 1 {
            let next = self.now + DurationMs(one.every_ms);
            let left = left - 1;
            self.schedule(next, Event::Arrive { stream, left });
        }
    }

    /// Places what fits, then lets others make room, until there is nothing left to decide.
    fn decide(&mut self) {
        loop {
            let begun = Instant::now();
            let round = self.decider.decide();
            self.figures.deciding += begun.elapsed();
            self.figures.rounds += 1;
            let is_last = round.len() < self.decider.most();
            let begun = Instant::now();
            for placement in round {
                self.place(placement);
            }
            self.figures.applying += begun.elapsed();
            if !is_last {
                continue;
            }
            let begun = Instant::now();
            let room = self.decider.decide_room();
            self.figures.deciding += begun.elapsed();
            match room {
                Some(room) => self.make_room(room),
                None => return,
            }
        }
    }

    fn place(&mut self, placement: PlaceAttempt) {
        let Some((token, node)) = self.decider.place_one(placement) else {
            return;
        };
        self.figures.placed += 1;
        let Some(experiment) = self.decider.state().experiment(token.experiment) else {
            return;
        };
        let priority = experiment.priority;
        let waited = self.now.since(experiment.submitted_at).0;
        let streams = self.generator.streams.iter().enumerate();
        for (number, stream) in streams.filter(|(_, one)| one.priority == priority) {
            self.waited_ms[number] += if token.attempt == 1 { waited } else { 0 };
            let end = self.now + DurationMs(stream.runs_ms);
            self.sequence += 1;
            let event = Event::End {
                token,
                node: node.clone(),
            };
            self.events.push(Reverse((end, self.sequence, event)));
        }
    }

    /// What makes room ends at once: a process that sleeps does so at the first signal.
    fn make_room(&mut self, room: PreemptFor) {
        // A workload has one node.
        let Some(node) = room.places.first().map(|place| place.node.clone()) else {
            return;
        };
        let victims = room.victims.clone();
        self.decider.apply(Command::PreemptFor(Box::new(room)));
        for token in victims {
            self.figures.preempted += 1;
            let by = "the scheduler".to_owned();
            self.decider
                .end_one(token, &node, CauseKind::Stopped { by });
        }
    }

    fn finish(mut self) -> Figures {
        let queues = u64::from(self.generator.cohorts * self.generator.queues);
        let streams = self.generator.streams.iter().zip(self.waited_ms);
        let means: Vec<_> = streams
            .map(|(one, sum)| sum / (one.count * queues))
            .collect();
        self.figures.mean_wait_ms.copy_from_slice(&means);
        self.figures
    }
}

fn make_queue(decider: &mut Decider, name: QueueName) {
    decider.apply(Command::CreateQueue(CreateQueue {
        name: name.clone(),
        priority: 0,
    }));
    let limits = Limits {
        cpu_milli: (NOMINAL_UNITS + BORROWED_UNITS) * UNIT_CPU_MILLI,
        ..Limits::default()
    };
    decider.apply(Command::ShapeQueue(ShapeQueue {
        queue: name,
        priority: None,
        weight: None,
        limits: Some(limits),
        user_limits: None,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_workloads_end_and_no_bound_is_beaten() {
        let stream = |count, units, priority| Stream {
            count,
            every_ms: 100,
            units,
            runs_ms: 200,
            priority,
        };
        let generator = Generator {
            cohorts: 2,
            queues: 2,
            streams: [stream(20, 1, 50), stream(10, 5, 100), stream(5, 20, 200)],
            ..Generator::small()
        };
        let figures = generate(&generator);
        assert_eq!(generator.workloads(), 140);
        assert_eq!(figures.finished, 140);
        assert_eq!(figures.placed, 140 + figures.preempted);
        // The last small ones come after 1.9 s; there is room for all until then but what the large ones take.
        let bound = generator.bound();
        assert_eq!(bound, Duration::from_millis(2_100));
        assert!(figures.wall >= bound, "{figures:?}");
        assert!(figures.wall < bound * 2, "{figures:?}");
    }
}
