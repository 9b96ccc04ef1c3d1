//! Requests that are repeated under their key, at other nodes and under other leaders: each happens once.

use serde_json::{Value, json};

use crate::clients::{Answer, Call, far, queue};
use crate::harness::{Node, PATIENCE, wait_until};
use crate::lab::{NetLab, leader_seen_by, split_leader};

/// Asks until there is an answer that is one.
fn ask(node: &Node, call: &Call<'_>) -> Answer {
    wait_until(PATIENCE, "an answer", || match call.send(&node.socket) {
        answer @ (Answer::Good(..) | Answer::Refused(..)) => Some(answer),
        Answer::Unavailable(..) | Answer::NotSent | Answer::Lost => None,
    })
}

fn good(answer: Answer) -> Value {
    match answer {
        Answer::Good(good) => good.body,
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn a_request_repeated_under_its_key_is_the_same_request_at_any_node_and_under_any_leader() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    for number in 0..3 {
        nodes[0]
            .muster(&["queue", "create", &queue(number)])
            .success();
    }
    let (leader, others) = split_leader(&nodes);
    let submit = Call::submit("k", far("once"));
    let id = good(ask(leader, &submit))["id"].clone();
    let id = id.as_str().expect("an id");
    let path = format!("/api/v1/experiments/{id}/move");
    let first = Call::post(&path, json!({"queue": queue(1)})).key("k");
    let second = Call::post(&path, json!({"queue": queue(2)})).key("k");
    good(ask(leader, &first));
    good(ask(others[0], &second));
    leader.kill();
    wait_until(PATIENCE, "the others elect", || {
        leader_seen_by(others[0], &others)
    });
    // It was answered already: it does not happen again.
    assert_eq!(good(ask(others[0], &submit))["id"], id);
    good(ask(others[1], &first));
    assert_eq!(others[0].show(id).summary.queue, queue(2));
    let path = format!("/api/v1/experiments/{id}/stop");
    let stop = Call::post(&path, Value::Null).key("k");
    for node in &others {
        assert_eq!(good(ask(node, &stop))["state"], "stopped");
    }
    let another = ask(others[0], &Call::post(&path, Value::Null).key("l"));
    assert!(
        matches!(&another, Answer::Refused(code, _) if code == "already-ended"),
        "{another:?}"
    );
    leader.up(&[]);
    good(ask(leader, &stop));
    assert_eq!(leader.list().len(), 1);
}
