//! A worker that slept while all voters were replaced finds home.

use std::fs;

use service::view::NodesView;

use crate::harness::{Node, PATIENCE, wait_until};
use crate::lab::{NetLab, found, found_with, say};
use crate::load::{Plan, under_load_of};

/// Makes a machine that never votes: else it would be asked to stand by.
pub(crate) fn never_votes(node: &Node) {
    let file = node.data().join("muster.toml");
    let settings = fs::read_to_string(&file).expect("its settings");
    fs::write(&file, format!("may_vote = false\n{settings}")).expect("they are written");
}

fn nodes_of(at: &Node) -> Option<NodesView> {
    serde_json::from_str(&at.muster(&["--json", "nodes"]).out).ok() // an election may be under way
}

fn voters_of(at: &Node) -> Option<Vec<String>> {
    let votes = |role: &str| ["leader", "voter"].contains(&role);
    let view = nodes_of(at)?.nodes.into_iter();
    let mut names: Vec<_> = view
        .filter(|node| votes(&node.role))
        .map(|node| node.name)
        .collect();
    names.sort();
    Some(names)
}

/// Replaces a cluster of `old` by `new` while `sleeper` is off; then only `new` are there.
fn replace_all(old: &[Node], new: &[Node], sleeper: &Node) {
    wait_until(PATIENCE, "the worker has the list of members", || {
        let view = nodes_of(sleeper)?;
        (view.nodes.len() == old.len() + 1).then_some(())
    });
    sleeper.kill_machine();
    let token = old[0].first_token();
    for node in new {
        node.up(&["--join", &token]);
    }
    for (leaves, at) in old.iter().zip(old.iter().skip(1).chain([&new[0]])) {
        wait_until(PATIENCE, "it is drained", || {
            let output = at.muster(&["node", "drain", &leaves.name, "--wait"]);
            (output.code == 0).then_some(())
        });
        wait_until(PATIENCE, "it is taken out", || {
            let output = at.muster(&["node", "remove", &leaves.name]);
            (output.code == 0).then_some(())
        });
        leaves.kill_machine();
    }
    let mut names: Vec<_> = new.iter().map(|node| node.name.clone()).collect();
    names.sort();
    wait_until(PATIENCE, "the new ones vote", || {
        (voters_of(&new[0])? == names).then_some(())
    });
}

fn works_again(sleeper: &Node, new: &[Node], how: &str) {
    let woke = std::time::Instant::now();
    sleeper.up(&[]);
    wait_until(PATIENCE, "the worker is at home", || {
        let view = nodes_of(&new[0])?;
        let live =
            |node: &service::view::NodeView| node.name == sleeper.name && node.health == "live";
        view.nodes.iter().any(live).then_some(())
    });
    say(&format!(
        "a sleeper is at home {:?} after its start, {how}",
        woke.elapsed()
    ));
    let constraint = format!("machine={}", sleeper.name);
    let job = sleeper.submit(&["--constraint", &constraint, "--", "echo", "good morning"]);
    let ended = new[1].wait_end(&job);
    assert_eq!(ended.summary.state, "finished", "{ended:?}");
}

#[test]
fn a_worker_that_slept_while_all_voters_were_replaced_hears_where_home_is() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = ["a", "b", "c", "d", "e", "f", "w"].map(|name| lab.host(name));
    let (old, rest) = nodes.split_at(3);
    let (new, sleeper) = (&rest[..3], &rest[3]);
    never_votes(sleeper);
    // Seven nodes and their clients keep two cores busy: not with the shortest heartbeats.
    found_with(old, &["--new", "--timing", "wan"]);
    sleeper.up(&["--join", &old[0].first_token()]);
    let plan = Plan {
        gone: old.len(),
        ..Plan::small(81)
    };
    under_load_of(&lab, &nodes, plan, || {
        replace_all(old, new, sleeper);
        works_again(sleeper, new, "by multicast DNS");
    });
}

#[test]
fn a_sleeper_that_hears_nobody_is_found_by_those_who_know_it() {
    let Some(lab) = NetLab::new() else { return };
    let mut old = ["a", "b", "c"].map(|name| lab.host(name));
    let mut sleeper = lab.host("w");
    let mut new = ["d", "e", "f"].map(|name| lab.host(name));
    for node in old.iter_mut().chain([&mut sleeper]).chain(&mut new) {
        node.mdns = false;
    }
    never_votes(&sleeper);
    found(&old);
    sleeper.up(&["--join", &old[0].first_token()]);
    replace_all(&old, &new, &sleeper);
    works_again(&sleeper, &new, "by their knocking");
}
