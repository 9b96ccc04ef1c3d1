//! Clients on all hosts that submit, read, move and stop while something else happens, and the verdict on it.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::clients::{Answer, Call, queue};
use crate::harness::{Node, PATIENCE, lock, wait_until};
use crate::history::{Story, Tally};
use crate::lab::{NetLab, stay};
use crate::linearizable::Action;
use crate::traces;
use crate::verdict;

/// Queues between which experiments are moved.
const QUEUES: u8 = 4;
/// Clients on each host, unless told otherwise.
const CLIENTS: usize = 2;
/// Operations on one experiment: the check of a history takes longer than in proportion to its length.
const MOST_OPERATIONS: usize = 60;
/// A client's rest between two requests, at most: two cores carry all nodes and clients.
const REST: Duration = Duration::from_millis(60);
/// Experiments that run meanwhile, so that some wait and most of the time is not theirs.
const MOST_RUNNING: usize = 8;
/// How long experiments run, in tenths of seconds.
const BEATS: std::ops::Range<u32> = 5..60;

/// What clients do besides what their seed says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Decides what they ask for, and when.
    pub(crate) seed: u64,
    /// Lease of the experiments that run; 0: the cluster's choice.
    pub(crate) lease_ms: u64,
    /// Clients on each host.
    pub(crate) clients: usize,
    /// So many of the nodes, the first ones, are gone for good in the end.
    pub(crate) gone: usize,
}

impl Plan {
    /// One client on each host: beside a scenario that measures, or has jobs of its own.
    pub(crate) fn small(seed: u64) -> Self {
        Self {
            seed,
            clients: 1,
            ..Self::default()
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 0,
            lease_ms: 0,
            clients: CLIENTS,
            gone: 0,
        }
    }
}

/// [`under_load_of`] with clients that differ only by a seed.
pub(crate) fn under_load(lab: &NetLab, nodes: &[Node], seed: u64, faults: impl FnOnce()) -> Tally {
    let plan = Plan {
        seed,
        ..Plan::default()
    };
    under_load_of(lab, nodes, plan, faults)
}

/// Lets clients work at these nodes while `faults` happen, which it must also undo; then waits until all is quiet,
/// and checks what was done and seen.
///
/// # Panics
/// Something was lost, done twice, seen in an order that cannot be, or does not end.
pub(crate) fn under_load_of(
    lab: &NetLab,
    nodes: &[Node],
    plan: Plan,
    faults: impl FnOnce(),
) -> Tally {
    let load = Load::new(lab, nodes, plan);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..nodes.len() * plan.clients)
            .map(|client| {
                let random = StdRng::seed_from_u64(plan.seed ^ (client as u64) << 32);
                let load = &load;
                scope.spawn(move || load.work(client, random))
            })
            .collect();
        let ends = EndOfLoad(&load);
        wait_until(PATIENCE, "clients get answers", || {
            (lock(&load.stories)
                .iter()
                .filter(|one| one.id.is_some())
                .count()
                > 3)
            .then_some(())
        });
        faults();
        drop(ends);
        for client in clients {
            client.join().expect("a client works");
        }
    });
    let stories = load.stories.into_inner().expect("no client panicked");
    let surprises = load.surprises.into_inner().expect("no client panicked");
    verdict::pass(lab, &nodes[plan.gone..], &stories, surprises)
}

/// The clients' world.
pub(crate) struct Load<'a> {
    pub(crate) nodes: &'a [Node],
    pub(crate) plan: Plan,
    pub(crate) traces: PathBuf,
    pub(crate) stories: Mutex<Vec<Story>>,
    over: AtomicBool,
    /// Answers that no client expects.
    pub(crate) surprises: Mutex<Vec<String>>,
}

/// Ends the load also when the faults panic: otherwise the test would hang.
struct EndOfLoad<'a, 'b>(&'a Load<'b>);

impl Drop for EndOfLoad<'_, '_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl<'a> Load<'a> {
    fn new(lab: &NetLab, nodes: &'a [Node], plan: Plan) -> Self {
        let traces = traces::directory(lab.shared());
        for number in 0..QUEUES {
            wait_until(PATIENCE, "a queue is made", || {
                let body = json!({"name": queue(number)});
                match Call::post("/api/v1/queues", body).send(&nodes[0].socket) {
                    Answer::Good(..) => Some(()),
                    Answer::Refused(code, _) if code == "name-taken" => Some(()), // by a request whose answer was lost
                    Answer::Refused(..) => panic!("a queue is refused"),
                    Answer::Unavailable(..) | Answer::NotSent | Answer::Lost => None,
                }
            });
        }
        Self {
            nodes,
            plan,
            traces,
            stories: Mutex::default(),
            over: AtomicBool::new(false),
            surprises: Mutex::default(),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// What one client does until the load is over.
    fn work(&self, client: usize, mut random: StdRng) {
        let mut seen = 0;
        while !self.is_over() {
            let dice = random.random_range(0..100);
            let open = self.pick(&mut random);
            match (dice, open) {
                (0..6, _) | (_, None) => self.submit(client, None),
                (6..16, _) if self.has_room() => {
                    self.submit(client, Some(random.random_range(BEATS)))
                }
                (16..22, Some(at)) => seen = self.read_stale(client, at, seen),
                (22..54, Some(at)) => self.read(client, at),
                (54..94, Some(at)) => {
                    self.change(client, at, Action::Move(random.random_range(0..QUEUES)))
                }
                (94.., Some(at)) => self.change(client, at, Action::Stop),
                (_, Some(at)) => self.read(client, at),
            }
            stay(random.random_range(Duration::ZERO..REST));
        }
    }

    /// An experiment on which something can still be tried; rather a young one.
    fn pick(&self, random: &mut StdRng) -> Option<usize> {
        let stories = lock(&self.stories);
        let young: Vec<_> = (0..stories.len())
            .rev()
            .filter(|at| stories[*at].operations.len() < MOST_OPERATIONS)
            .take(6)
            .collect();
        young.choose(random).copied()
    }

    fn has_room(&self) -> bool {
        let stories = lock(&self.stories);
        let running = stories
            .iter()
            .filter(|one| one.beats.is_some() && one.seen_over.is_none());
        running.count() < MOST_RUNNING
    }
}
