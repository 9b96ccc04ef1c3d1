//! Machines that are drained, promoted, removed, lost for good, or come back under a new key.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use service::view::{ExperimentDetail, NodeView, NodesView, TokenCreated};

use crate::harness::{Lab, Node, PATIENCE, cluster_of, leader_and_others, wait_until};

/// Placed again without waiting for the lease of 5 s, on a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(4);
/// A voter is replaced after 30 s; the rest for a loaded machine.
const REPLACED: Duration = Duration::from_secs(90);

/// A cluster of three voters and one machine that stands by.
fn four(lab: &Lab) -> [Node; 4] {
    let [a, b, c] = cluster_of(["a", "b", "c"].map(|name| lab.machine(name)));
    let d = lab.machine("d");
    d.up(&["--join", &a.first_token()]);
    wait_role(&a, "d", "learner");
    [a, b, c, d]
}

fn look(at: &Node, name: &str) -> Option<NodeView> {
    let output = at.muster(&["--json", "nodes"]);
    let view: NodesView = serde_json::from_str(&output.out).ok()?; // an election may be under way
    view.nodes.into_iter().find(|node| node.name == name)
}

fn wait_role(at: &Node, name: &str, role: &str) -> NodeView {
    wait_until(PATIENCE, &format!("{name} is a {role}"), || {
        look(at, name).filter(|node| node.role == role)
    })
}

fn votes(node: &NodeView) -> bool {
    ["leader", "voter"].contains(&&*node.role)
}

fn voters(at: &Node) -> Vec<String> {
    let view: NodesView = at.ask(&["nodes"]);
    let voting = view.nodes.into_iter().filter(votes);
    let mut names: Vec<_> = voting.map(|node| node.name).collect();
    names.sort();
    names
}

/// Runs until the file `stop` of the lab is there.
fn long_job(lab: &Lab, at: &Node, machine: &str) -> String {
    let stop = lab.path().join("stop");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", stop.display());
    let constraint = format!("machine={machine}");
    let job = at.submit(&["--constraint", &constraint, "--", "sh", "-c", &script]);
    at.wait_state(&job, &["running"]);
    job
}

#[test]
fn a_drained_node_finishes_its_work_and_gives_its_vote_back() {
    let lab = Lab::new();
    let [a, _b, c, d] = four(&lab);
    let job = long_job(&lab, &a, "c");
    let mut drain = a
        .client(&["node", "drain", "c", "--wait", "--reason", "new disk"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let drained = wait_until(PATIENCE, "c has no vote", || {
        look(&a, "c").filter(|node| node.role == "worker")
    });
    assert!(drained.draining.unwrap().contains("new disk"));
    assert!(
        drained.role_reason.contains("drains it"),
        "{}",
        drained.role_reason
    );
    wait_role(&a, "d", "voter");
    assert_eq!(voters(&a), ["a", "b", "d"]);
    assert_eq!(a.show(&job).summary.state, "running", "it finishes there");
    assert!(drain.try_wait().unwrap().is_none(), "it waits for the work");

    let next = a.submit(&["--constraint", "machine=c", "--", "true"]);
    let why = a.muster(&["why", &next]).success();
    assert!(why.contains("is draining"), "{why}");
    // A worker that stood by and voted before still answers for the cluster.
    wait_until(PATIENCE, "c answers without the state", || {
        let output = c.muster(&["--json", "show", &job]);
        let detail: ExperimentDetail = serde_json::from_str(&output.out).ok()?; // an election may be under way
        (detail.summary.state == "running").then_some(())
    });

    fs::write(lab.path().join("stop"), "").unwrap();
    let output = drain.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("c is empty"),
        "{said}"
    );
    assert_eq!(a.wait_end(&job).attempts.len(), 1);

    a.muster(&["node", "undrain", "c"]).success();
    assert_eq!(a.wait_end(&next).summary.state, "finished");
    wait_role(&a, "c", "learner");
    let ledger = d.muster(&["audit"]).success();
    assert!(ledger.contains("new disk"), "{ledger}");
}

#[test]
fn what_runs_on_an_evacuated_node_moves_and_nobody_is_blamed() {
    let lab = Lab::new();
    let [a, b, c] = lab.three();
    let stop = lab.path().join("stop");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", stop.display());
    let job = a.submit(&["--retries", "0", "--", "sh", "-c", &script]);
    let detail = a.wait_state(&job, &["running"]);
    let on = detail.attempts[0].nodes[0].name.clone();
    let said = b.muster(&["node", "drain", &on, "--now"]).success();
    assert!(said.contains("its 1 attempts are moved"), "{said}");
    let moved: ExperimentDetail = wait_until(PATIENCE, "it runs elsewhere", || {
        let detail = c.show(&job);
        let second = detail.attempts.get(1)?;
        second.started_at?;
        Some(detail)
    });
    assert_ne!(moved.attempts[1].nodes[0].name, on);
    let cause = moved.attempts[0].cause.as_ref().unwrap();
    assert_eq!(cause.kind, "moved", "{cause:?}");
    fs::write(&stop, "").unwrap();
    assert_eq!(a.wait_end(&job).summary.state, "finished");
}

#[test]
fn roles_are_given_and_left_to_the_rule_again() {
    let lab = Lab::new();
    let [a, b, c, d] = four(&lab);
    c.muster(&["node", "demote", "b"]).success();
    wait_role(&a, "d", "voter");
    let demoted = wait_role(&a, "b", "worker");
    assert!(demoted.pinned.unwrap().starts_with("worker"));
    assert!(
        demoted.role_reason.contains("wants it so"),
        "{}",
        demoted.role_reason
    );
    // It was a replica until now, and knows that it is none any more.
    wait_until(PATIENCE, "b answers without the state", || {
        (look(&b, "d").is_some_and(|node| votes(&node))).then_some(())
    });
    c.muster(&["node", "promote", "b"]).success();
    let promoted = wait_role(&a, "b", "voter");
    assert!(promoted.role_reason.contains("a person wants it"));
    wait_until(PATIENCE, "three vote", || {
        let view: NodesView = serde_json::from_str(&a.muster(&["--json", "nodes"]).out).ok()?; // an election may be under way
        (view.nodes.iter().filter(|node| votes(node)).count() == 3).then_some(())
    });
    c.muster(&["node", "unpin", "b"]).success();
    wait_until(PATIENCE, "the rule decides again", || {
        look(&a, "b").filter(|node| node.pinned.is_none())
    });
    let table = d.muster(&["nodes"]).success();
    assert!(table.contains("one of 3"), "{table}");

    let refused = a.muster(&["node", "promote", "nobody"]).failure(1);
    assert!(refused.contains("muster nodes"), "{refused}");
    let laptop = lab.machine("laptop");
    laptop.up(&["--no-work", "--join", &a.first_token()]);
    let refused = a.muster(&["node", "promote", "laptop"]).failure(1);
    assert!(refused.contains("may not vote"), "{refused}");
}

#[test]
fn a_removed_leader_hands_over_goes_and_comes_back_only_under_a_new_key() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, second]) = leader_and_others(&nodes);
    let id = look(first, &leader.name).unwrap().id;
    let job = long_job(&lab, first, &leader.name);
    let refused = first.muster(&["node", "remove", &leader.name]).failure(1);
    assert!(
        refused.contains("drain") && refused.contains("--is-dead"),
        "{refused}"
    );
    let refused = first
        .muster(&["node", "remove", &leader.name, "--is-dead"])
        .failure(1);
    assert!(refused.contains("is not dead"), "{refused}");
    fs::write(lab.path().join("stop"), "").unwrap();
    first.wait_end(&job);

    let said = first
        .muster(&["node", "remove", &leader.name, "--reason", "sold"])
        .success();
    assert!(said.contains("is no member any more"), "{said}");
    let status = leader.wait_exit();
    assert!(!status.success());
    let log = leader.log();
    assert!(
        log.contains("was removed from the cluster by") && log.contains("sold"),
        "{log}"
    );
    let view: NodesView = second.ask(&["nodes"]);
    assert_eq!(view.nodes.len(), 2);
    let again = leader.up_in_vain(&[]).failure(1);
    assert!(
        again.contains("sold") && again.contains("--rejoin"),
        "{again}"
    );
    let gone = first.muster(&["node", "drain", &leader.name]).failure(1);
    assert!(gone.contains("was removed by"), "{gone}");

    let token: TokenCreated = first.ask(&["token", "new"]);
    leader.up(&["--rejoin", &token.token]);
    let back = wait_until(PATIENCE, "it is a member again", || {
        look(first, &leader.name)
    });
    assert_ne!(back.id, id);
    wait_until(PATIENCE, "three vote again", || {
        (voters(first).len() == 3).then_some(())
    });
}

#[test]
fn a_machine_that_is_said_to_be_dead_frees_its_experiment_at_once() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, _) = leader_and_others(&nodes);
    let stop = lab.path().join("stop");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", stop.display());
    let job = leader.submit(&["--lease", "10m", "--", "sh", "-c", &script]);
    let detail = leader.wait_state(&job, &["running"]);
    let on = &detail.attempts[0].nodes[0].name;
    let lost = nodes.iter().find(|node| node.name == *on).unwrap();
    let witness = nodes.iter().find(|node| node.name != *on).unwrap();
    lost.kill_machine();
    wait_until(PATIENCE, "somebody else leads", || {
        let output = witness.muster(&["--json", "nodes"]);
        (output.code == 0).then_some(())
    });
    let said = Instant::now();
    let text = wait_until(PATIENCE, "it is removed", || {
        let output = witness.muster(&["node", "remove", on, "--is-dead"]);
        (output.code == 0).then_some(output.out)
    });
    assert!(text.contains("placed again now"), "{text}");
    let placed = wait_until(PATIENCE, "it is placed again", || {
        let detail = witness.show(&job);
        (detail.attempts.len() == 2).then_some(detail)
    });
    let took = said.elapsed();
    assert!(took < AT_ONCE, "placed again after {took:?}");
    let cause = placed.attempts[0].cause.as_ref().unwrap();
    assert!(cause.evidence[0].contains("is dead"), "{cause:?}");
    fs::write(&stop, "").unwrap();
    assert_eq!(witness.wait_end(&job).summary.state, "finished");
}

#[test]
fn a_node_that_is_removed_at_once_stops_its_work_as_soon_as_it_hears() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, _]) = leader_and_others(&nodes);
    let job = long_job(&lab, leader, &first.name);
    leader
        .muster(&["node", "remove", &first.name, "--now"])
        .success();
    let status = first.wait_exit();
    assert!(!status.success());
    assert!(
        first.log().contains("what ran here was stopped"),
        "{}",
        first.log()
    );
    assert!(first.processes().is_empty(), "nothing of it is left");
    wait_until(PATIENCE, "it waits for a machine like that", || {
        let detail = leader.show(&job);
        (detail.summary.state == "queued").then_some(())
    });
}

#[test]
fn a_machine_that_lost_its_disk_comes_back_and_its_old_identity_is_gone() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, _]) = leader_and_others(&nodes);
    let old = look(leader, &first.name).unwrap().id;
    first.kill();
    fs::remove_dir_all(first.data().join("raft")).unwrap();
    let token: TokenCreated = leader.ask(&["token", "new"]);
    first.up(&["--rejoin", &token.token]);
    let back = wait_until(PATIENCE, "it is a member again", || {
        look(leader, &first.name).filter(|node| node.id != old && node.health == "live")
    });
    assert_ne!(back.id, old);
    let view: NodesView = leader.ask(&["nodes"]);
    assert_eq!(view.nodes.len(), 3, "{:?}", view.nodes);
    wait_until(PATIENCE, "three vote again", || {
        (voters(leader).len() == 3).then_some(())
    });
    let ledger = leader.muster(&["audit"]).success();
    assert!(ledger.contains("joined again as"), "{ledger}");
}

#[test]
fn a_machine_that_was_off_when_it_was_removed_hears_of_it_when_it_is_back() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, _]) = leader_and_others(&nodes);
    first.kill();
    wait_until(PATIENCE, "it is removed", || {
        let output = leader.muster(&["node", "remove", &first.name, "--reason", "stolen"]);
        (output.code == 0).then_some(())
    });
    first.spawn(&[]);
    assert!(!first.wait_exit().success());
    let log = first.log();
    assert!(
        log.contains("was removed from the cluster by") && log.contains("stolen"),
        "{log}"
    );
    let again = first.up_in_vain(&[]).failure(1);
    assert!(
        again.contains("stolen") && again.contains("--rejoin"),
        "{again}"
    );
}

#[test]
fn a_leader_that_stops_in_order_hands_over_and_keeps_its_vote() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, _]) = leader_and_others(&nodes);
    assert!(leader.terminate().success());
    assert!(
        leader.log().contains("handed the lead over"),
        "{}",
        leader.log()
    );
    let view = look(first, &leader.name);
    let view = view.or_else(|| look(first, &leader.name)).unwrap();
    assert_eq!(view.role, "voter", "a restart is short");
    wait_until(PATIENCE, "the risk is named", || {
        let view: NodesView = first.ask(&["nodes"]);
        let risk = |text: &String| text.contains("stops the cluster");
        view.warnings.iter().any(risk).then_some(())
    });
    leader.up(&[]);
    wait_until(PATIENCE, "nothing is at risk", || {
        let view: NodesView = first.ask(&["nodes"]);
        view.warnings.is_empty().then_some(())
    });
}

#[test]
fn a_voter_that_is_gone_is_replaced_and_stands_by_when_it_is_back() {
    let lab = Lab::new();
    let [a, _b, c, _d] = four(&lab);
    c.kill();
    wait_until(REPLACED, "d votes in its place", || {
        look(&a, "d").filter(votes)
    });
    assert_eq!(voters(&a), ["a", "b", "d"]);
    c.up(&[]);
    wait_role(&a, "c", "learner");
    assert_eq!(
        voters(&a),
        ["a", "b", "d"],
        "who is back takes no vote away"
    );
}
