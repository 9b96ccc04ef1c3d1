//! What a client asks for, one request after the other, and what it notes down about each.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clients::{Answer, Call, boottime_ns, far, queue, running};
use crate::harness::{Node, PATIENCE, lock};
use crate::history::{self, Story};
use crate::lab::stay;
use crate::linearizable::{Action, Operation, Outcome, State};
use crate::load::Load;
use crate::traces;

impl Load<'_> {
    /// Submits and repeats until it is answered, at one node after the other, always under the same key.
    pub(crate) fn submit(&self, client: usize, beats: Option<u32>) {
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
        let outcome = match self.insist(client, &Call::submit(&name, body)) {
            Some(Answer::Good(reply)) => {
                let id = reply.body["id"].as_str().expect("an id").to_owned();
                lock(&self.stories)[at].id = Some(id);
                Outcome::Done
            }
            Some(answer) => {
                self.surprise(&format!("submit of {name}: {answer:?}"));
                Outcome::Open
            }
            None => Outcome::Open,
        };
        self.record(at, client, Action::Submit, outcome, invoked);
    }

    /// Repeats a request with a key until it is answered, at one node after the other; none if it never is.
    fn insist(&self, client: usize, call: &Call<'_>) -> Option<Answer> {
        let mut given_up = None;
        for attempt in 0.. {
            let node = &self.nodes[(client + attempt) % self.nodes.len()];
            match call.send(&node.socket) {
                answer @ (Answer::Good(..) | Answer::Refused(..)) => return Some(answer),
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
        None
    }

    /// Looks it up by its name, which also finds what was not acknowledged yet.
    pub(crate) fn read(&self, client: usize, at: usize) {
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
    pub(crate) fn read_stale(&self, client: usize, at: usize, seen: u64) -> u64 {
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
    pub(crate) fn change(&self, client: usize, at: usize, action: Action) {
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
        let key = format!("{client}-{invoked}");
        let call = Call::post(&path, body).key(&key);
        // Some ask once and never learn what came of it; the others repeat it, and it may happen once only.
        let answer = if invoked.is_multiple_of(4) {
            call.send(&self.node_of(client).socket)
        } else {
            self.insist(client, &call).unwrap_or(Answer::Lost)
        };
        let outcome = match answer {
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
