//! A majority of the voters is lost for good: the survivor goes on alone, and nothing runs twice.

use std::fs;
use std::path::PathBuf;

use service::view::{NodesView, TokenCreated};

use crate::harness::{
    Lab, Node, Output, PATIENCE, cluster_of, counting, run, wait_lines, wait_until,
};
use crate::restarts::fixed_address;

/// Long enough for a recovery on a loaded machine: what runs then goes on.
const LEASE: &str = "45s";

fn recover(node: &Node, more: &[&str]) -> Output {
    let mut command = node.program();
    command.arg("recover").args(more);
    command.arg("--data-dir").arg(node.data());
    run(&mut command, "muster recover")
}

/// A machine that keeps its address over restarts.
fn machine(lab: &Lab, name: &str) -> Node {
    let mut machine = lab.machine(name);
    machine.listen = fixed_address();
    machine
}

/// Takes the disk of a machine away, with all that runs on it.
fn destroy(node: &Node) -> PathBuf {
    node.kill_machine();
    let away = node.home.with_extension("away");
    fs::rename(node.data(), &away).unwrap();
    away
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one story, told from its beginning to its end"
)]
fn the_survivor_of_a_lost_majority_goes_on_with_its_workers_and_old_voters_stay_out() {
    let lab = Lab::new();
    let [a, b, c] = cluster_of(["a", "b", "c"].map(|name| machine(&lab, name)));
    let worker = machine(&lab, "w");
    let settings = fs::read_to_string(worker.data().join("muster.toml")).unwrap();
    fs::write(
        worker.data().join("muster.toml"),
        format!("may_vote = false\n{settings}"),
    )
    .unwrap();
    let token: TokenCreated = a.ask(&["token", "new"]);
    worker.up(&["--join", &token.token]);
    let stop = lab.path().join("stop");
    let script = counting(&stop);
    let on_worker = ["--constraint", "machine=w", "--lease", LEASE];
    let submit = |more: &[&str]| c.submit(&[&on_worker[..], more].concat());
    let job = submit(&["--", "sh", "-c", &script]);
    let before = wait_lines(&c, &job, 5);
    let waits = submit(&["--cpus", "4", "--", "echo", "waited"]);

    // Nothing but the whole ceremony does anything.
    let running = recover(&c, &["--force", "--i-have-lost", "a,b"]).failure(1);
    assert!(running.contains("in use by a live node"), "{running}");
    let gone = destroy(&a);
    c.kill();
    let said = recover(&c, &[]);
    assert_eq!(said.code, 1);
    for word in ["a (", "b (", "is LOST", "put out for ever", "w\n", &job] {
        assert!(said.out.contains(word), "{word} is not in {}", said.out);
    }
    assert!(said.err.contains("nothing was changed"), "{}", said.err);
    let unnamed = recover(&c, &["--force", "--i-have-lost", "a"]).failure(1);
    assert!(unnamed.contains("and b ("), "{unnamed}");
    let unknown = recover(&c, &["--force", "--i-have-lost", "a,b,w"]).failure(1);
    assert!(unknown.contains("w is no other voter"), "{unknown}");
    let alive = recover(&c, &["--force", "--i-have-lost", "a,b"]).failure(1);
    assert!(alive.contains("the voter b answers"), "{alive}");
    let on_a_worker = recover(&worker, &[]).failure(1);
    assert!(on_a_worker.contains("in use"), "{on_a_worker}");

    let kept = destroy(&b);
    let done = recover(&c, &["--force", "--i-have-lost", "a,b"]).success();
    assert!(done.contains("incarnation 2 begins"), "{done}");
    c.up(&[]);
    wait_until(PATIENCE, "the worker follows", || {
        let nodes = worker.muster(&["--json", "nodes"]);
        let view: NodesView = serde_json::from_str(&nodes.out).ok()?; // it looks for its leader
        let names: Vec<_> = view.nodes.iter().map(|node| node.name.as_str()).collect();
        (names.len() == 2 && !names.contains(&"a")).then_some(())
    });
    // The job went on under its old token; it is finished by its first attempt.
    wait_lines(&c, &job, before + 20);
    let why = c.muster(&["why", &waits]).success();
    assert!(why.contains("history 2"), "{why}");
    let new = worker.submit(&["--", "echo", "new"]);
    assert_eq!(c.wait_end(&new).summary.state, "finished");
    fs::write(&stop, "").unwrap();
    let ended = c.wait_end(&job);
    assert_eq!(
        (ended.summary.state.as_str(), ended.attempts.len()),
        ("finished", 1),
        "{ended:?}"
    );
    let waited = c.wait_end(&waits);
    assert_eq!(
        (waited.summary.state.as_str(), waited.attempts.len()),
        ("finished", 1)
    );
    c.muster(&["audit", "verify"]).success();

    // A voter whose disk comes back after all is told that it is out, and comes back as a new machine.
    fs::rename(&kept, b.data()).unwrap();
    let out = b.up_in_vain(&[]).failure(1);
    assert!(
        out.contains("recovered on c") && out.contains("--rejoin"),
        "{out}"
    );
    let token: TokenCreated = c.ask(&["token", "new"]);
    b.up(&["--rejoin", &token.token]);
    wait_until(PATIENCE, "b is back", || {
        let nodes = c.ask::<NodesView>(&["nodes"]).nodes;
        nodes
            .iter()
            .any(|node| node.name == "b" && node.health == "live")
            .then_some(())
    });
    assert!(b.list().iter().any(|one| one.id == job));
    drop(gone);
}

#[test]
fn recovery_is_only_for_those_who_held_the_state_and_lack_others() {
    let lab = Lab::new();
    let a = lab.one();
    a.kill();
    let alone = recover(&a, &["--force"]).failure(1);
    assert!(alone.contains("only voter"), "{alone}");
    let nobody = lab.machine("n");
    let nothing = recover(&nobody, &[]).failure(1);
    assert!(nothing.contains("no data directory of a node"), "{nothing}");
}
