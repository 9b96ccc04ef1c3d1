//! What a leader that was replaced still says: nothing by default, and the past only to who asks for it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::clients::{Answer, Call, boottime_ns, far, queue};
use crate::harness::{Node, PATIENCE, lock, wait_until};
use crate::lab::{NetLab, leader_seen_by, say, split_leader, stay, test_name};
use crate::linearizable::{self, Action, Operation, Outcome, State};

const NAME: &str = "moved";
const PATH: &str = "/api/v1/experiments?all=true&name=moved";

/// Sends until it is answered; the operation as it went.
fn write(node: &Node, action: Action, call: &Call<'_>) -> Operation {
    let invoked = boottime_ns();
    wait_until(PATIENCE, "a write is acknowledged", || {
        matches!(call.send(&node.socket), Answer::Good(..)).then_some(())
    });
    operation(action, Outcome::Done, invoked)
}

fn operation(action: Action, outcome: Outcome, invoked: u64) -> Operation {
    Operation {
        client: 0,
        action,
        outcome,
        invoked,
        returned: boottime_ns(),
    }
}

/// A look; none if it was not answered.
fn look(node: &Node, call: &Call<'_>) -> Option<Operation> {
    let invoked = boottime_ns();
    match call.send(&node.socket) {
        Answer::Good(good) => {
            let seen = Outcome::Saw(queue_of(&good.body["experiments"][0]));
            Some(operation(Action::Read, seen, invoked))
        }
        Answer::Unavailable(..) | Answer::Lost => None,
        answer => panic!("{answer:?}"),
    }
}

fn queue_of(one: &Value) -> State {
    let name = one["queue"].as_str().expect("it is there");
    State::Waiting(
        name.strip_prefix('q')
            .expect("ours")
            .parse()
            .expect("a number"),
    )
}

#[test]
fn a_replaced_leader_tells_the_past_only_as_stale_and_the_check_would_find_it() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let (leader, others) = split_leader(&nodes);
    for number in 0..2 {
        leader
            .muster(&["queue", "create", &queue(number)])
            .success();
    }
    let submitted = write(leader, Action::Submit, &Call::submit(NAME, far(NAME)));
    let id = leader.show(NAME).summary.id;
    let over = AtomicBool::new(false);
    let seen = Mutex::new(vec![submitted]);
    let mut asked = 0;
    let past = std::thread::scope(|scope| {
        // It is asked all the time, from before it can know that it was replaced.
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                lock(&seen).extend(look(leader, &Call::get(PATH)));
                asked += 1;
            }
            asked
        });
        wait_until(PATIENCE, "it answers", || {
            (lock(&seen).len() > 10).then_some(())
        });
        lab.lan.isolate(leader);
        wait_until(PATIENCE, "the others elect", || {
            leader_seen_by(others[0], &others)
        });
        let path = format!("/api/v1/experiments/{id}/move");
        let moved = write(
            others[0],
            Action::Move(1),
            &Call::post(&path, json!({"queue": queue(1)})),
        );
        lock(&seen).push(moved);
        stay(Duration::from_secs(2));
        let stale = format!("{PATH}&consistency=stale");
        let past = look(leader, &Call::get_stale(&stale, None)).expect("an answer");
        lab.lan.heal();
        let back = wait_until(PATIENCE, "it answers again", || {
            look(leader, &Call::get(PATH))
        });
        assert_eq!(back.outcome, Outcome::Saw(State::Waiting(1)));
        over.store(true, Ordering::Relaxed);
        asked = asking.join().expect("it asks");
        past
    });
    let mut history = seen.into_inner().expect("nobody panicked");
    linearizable::check(&history).expect("all answers fit into one order");
    say(&format!(
        "{}: {} of {asked} reads answered",
        test_name(),
        history.len() - 2
    ));
    // The same check on what is known to be from the past: it would have found it.
    assert_eq!(past.outcome, Outcome::Saw(State::Waiting(0)));
    history.push(past);
    linearizable::check(&history).expect_err("a read from the past");
}
