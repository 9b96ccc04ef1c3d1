//! Clients on all hosts that submit, read, move and stop while something else happens, and the verdict on it.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::clients::{Answer, Call, boottime_ns, far, queue, running};
use crate::harness::{Node, PATIENCE, lock, wait_until};
use crate::history::{self, Story, Tally};
use crate::lab::{NetLab, stay};
use crate::linearizable::{Action, Operation, Outcome, State};
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
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 0,
            lease_ms: 0,
            clients: CLIENTS,
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
    verdict::pass(lab, nodes, &stories, surprises)
}

struct Load<'a> {
    nodes: &'a [Node],
    plan: Plan,
    traces: PathBuf,
    stories: Mutex<Vec<Story>>,
    over: AtomicBool,
    /// Answers that no client expects.
    surprises: Mutex<Vec<String>>,
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

    fn is_over(&self) -> bool {
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

    /// Submits and repeats until it is answered, at one node after the other, always under the same key.
    fn submit(&self, client: usize, beats: Option<u32>) {
        let (at, name) = {
            let mut stories = lock(&self.stories);
            let name = format!(
                "{}{}",
                if beats.is_some() { "job" } else { "far" },
                stories.len()
            );
            stories.push(Story {
                name: name.clone(),
                beats,
                ..Story::default()
            });
            (stories.len() - 1, name)
        };
        let body = match beats {
            Some(beats) => {
                let script = traces::script(&self.traces, &name, beats);
                running(&name, &script, self.plan.lease_ms)
            }
            None => far(&name),
        };
        let invoked = boottime_ns();
        let mut outcome = Outcome::Open;
        let mut given_up = None;
        for attempt in 0.. {
            let node = &self.nodes[(client + attempt) % self.nodes.len()];
            match Call::submit(&name, body.clone()).send(&node.socket) {
                Answer::Good(reply) => {
                    let id = reply.body["id"].as_str().expect("an id").to_owned();
                    lock(&self.stories)[at].id = Some(id);
                    outcome = Outcome::Done;
                    break;
                }
                Answer::Refused(code, message) => {
                    self.surprise(&format!("submit of {name}: {code}: {message}"));
                    break;
                }
                answer => self.expect_unavailable(&answer),
            }
            if self.is_over() {
                let deadline = *given_up.get_or_insert_with(|| Instant::now() + PATIENCE);
                if Instant::now() > deadline {
                    break;
                }
            }
            stay(Duration::from_millis(100));
        }
        self.record(at, client, Action::Submit, outcome, invoked);
    }

    /// Looks it up by its name, which also finds what was not acknowledged yet.
    fn read(&self, client: usize, at: usize) {
        let name = lock(&self.stories)[at].name.clone();
        let path = format!("/api/v1/experiments?all=true&name={name}");
        let invoked = boottime_ns();
        let list = match Call::get(&path).send(&self.node_of(client).socket) {
            Answer::Good(good) => good.body,
            Answer::Refused(code, message) => {
                return self.surprise(&format!("read of {name}: {code}: {message}"));
            }
            answer => return self.expect_unavailable(&answer),
        };
        let listed = list["experiments"].as_array().expect("a list");
        if listed.len() > 1 {
            self.surprise(&format!("{name} is there {} times", listed.len()));
        }
        let state = listed.first().map_or(State::Absent, state_of);
        self.record(at, client, Action::Read, Outcome::Saw(state), invoked);
        lock(&self.stories)[at].saw(state, boottime_ns());
    }

    /// Looks it up at any node without a majority, but not before what this client saw already.
    fn read_stale(&self, client: usize, at: usize, seen: u64) -> u64 {
        let name = lock(&self.stories)[at].name.clone();
        let path = format!("/api/v1/experiments?all=true&consistency=stale&name={name}");
        let node = &self.nodes[at % self.nodes.len()];
        match Call::get_stale(&path, Some(seen)).send(&node.socket) {
            Answer::Good(good) => {
                if good.index < seen {
                    let (name, index) = (&node.name, good.index);
                    self.surprise(&format!(
                        "client {client} saw {seen}, and {name} answers from {index}"
                    ));
                }
                good.index
            }
            Answer::Refused(code, message) => {
                self.surprise(&format!("stale read: {code}: {message}"));
                seen
            }
            answer => {
                self.expect_unavailable(&answer);
                seen
            }
        }
    }

    /// Moves or stops it, once its id is known.
    fn change(&self, client: usize, at: usize, action: Action) {
        let (id, runs) = {
            let story = &lock(&self.stories)[at];
            (story.id.clone(), story.beats.is_some())
        };
        let (Some(id), true) = (id, !runs || action == Action::Stop) else {
            return self.read(client, at);
        };
        let (path, body) = match action {
            Action::Move(number) => (
                format!("/api/v1/experiments/{id}/move"),
                json!({"queue": queue(number)}),
            ),
            _ => (format!("/api/v1/experiments/{id}/stop"), Value::Null),
        };
        let invoked = boottime_ns();
        let outcome = match Call::post(&path, body).send(&self.node_of(client).socket) {
            Answer::Good(..) => Outcome::Done,
            Answer::Refused(code, _) if ["already-ended", "not-waiting"].contains(&&*code) => {
                Outcome::Over
            }
            Answer::Refused(code, _) if code == "unknown-experiment" => Outcome::Unknown,
            Answer::Refused(code, message) => {
                return self.surprise(&format!("{action:?} of {id}: {code}: {message}"));
            }
            Answer::NotSent => return,
            answer => {
                self.expect_unavailable(&answer);
                Outcome::Open
            }
        };
        if (action, outcome) == (Action::Stop, Outcome::Done) {
            lock(&self.stories)[at].stop_acknowledged = true;
        }
        self.record(at, client, action, outcome, invoked);
    }

    fn node_of(&self, client: usize) -> &Node {
        &self.nodes[client % self.nodes.len()]
    }

    fn record(&self, at: usize, client: usize, action: Action, outcome: Outcome, invoked: u64) {
        let returned = boottime_ns();
        lock(&self.stories)[at].operations.push(Operation {
            client,
            action,
            outcome,
            invoked,
            returned,
        });
    }

    /// 503 is what faults may cause; any other failure of the node is not.
    fn expect_unavailable(&self, answer: &Answer) {
        if let Answer::Unavailable(code, message) = answer
            && (code == "internal" || message.is_empty())
        {
            self.surprise(&format!("{answer:?}"));
        }
    }

    fn surprise(&self, what: &str) {
        lock(&self.surprises).push(what.to_owned());
    }
}

fn state_of(one: &Value) -> State {
    let text = |name: &str| one[name].as_str().expect("a word");
    let number = text("queue")
        .strip_prefix('q')
        .and_then(|number| number.parse().ok());
    let queue = number.unwrap_or(0);
    if history::is_over(text("state")) {
        State::Ended(queue)
    } else {
        State::Waiting(queue)
    }
}
