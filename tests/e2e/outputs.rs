//! What experiments leave: kept however they end, fetched at any node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use service::view::{ErrorView, OutputsView};
use types::BlobHash;

use crate::harness::{Lab, Node, PATIENCE, leader_and_others, wait_until};

/// A job that leaves what people leave, and what they should not.
const LEAVES: &str = "mkdir -p out/empty out/deep/er; printf weights > out/model.pt; \
    printf '#!/bin/sh\\n' > out/run.sh; chmod +x out/run.sh; ln -s model.pt out/latest.pt; \
    ln -s /etc/passwd out/stolen; printf deep > out/deep/er/file; printf log > log.txt; \
    printf other > not-asked-for";

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn submit(node: &Node, options: &[&str], script: &str) -> String {
    let whole = [options, &["--", "sh", "-c", script]].concat();
    node.submit(&whole)
}

/// All that [`LEAVES`] leaves is in the directory, and nothing else.
fn expect_all(root: &Path) {
    assert_eq!(text(&root.join("out/model.pt")), "weights");
    assert_eq!(text(&root.join("out/latest.pt")), "weights");
    assert_eq!(text(&root.join("out/deep/er/file")), "deep");
    assert_eq!(text(&root.join("log.txt")), "log");
    assert!(root.join("out/empty").is_dir());
    let mode = |path: &str| root.join(path).metadata().unwrap().permissions().mode();
    assert_ne!(mode("out/run.sh") & 0o100, 0);
    assert_eq!(mode("out/model.pt") & 0o111, 0);
    let link = fs::symlink_metadata(root.join("out/latest.pt")).unwrap();
    assert!(link.is_symlink());
    assert!(!root.join("not-asked-for").exists());
    assert!(fs::symlink_metadata(root.join("out/stolen")).is_err());
}

#[test]
fn what_a_failed_experiment_leaves_is_fetched_at_any_node_and_outlives_its_machine() {
    let lab = Lab::new();
    let nodes = lab.three();
    let script = format!("{LEAVES}; exit 3");
    let options = [
        "--output", "out/", "--output", "log.txt", "--output", "never",
    ];
    let id = submit(&nodes[0], &options, &script);
    let detail = nodes[0].wait_end(&id);
    assert_eq!(detail.summary.state, "failed");
    let ran_on = detail.summary.node.unwrap().name;
    let page = nodes[0].muster(&["show", &id]).success();
    for said in [
        "keeps         log.txt, never, out",
        "outputs       4 files",
        "never (it is not there)",
        "out/stolen (a link that leads out",
    ] {
        assert!(page.contains(said), "{said:?} is not in\n{page}");
    }
    let list = nodes[1].muster(&["get", &id, "--list"]).success();
    println!("{list}");
    assert!(list.contains("out/latest.pt -> model.pt"), "{list}");
    for node in &nodes {
        let to = lab.path().join(format!("all-{}", node.name));
        let said = node.muster(&["get", &id, "--to", to.to_str().unwrap()]);
        assert!(said.err.contains("not kept: never"), "{said:?}");
        println!("{}", said.success());
        expect_all(&to);
    }
    let again = lab.path().join("all-a");
    let again = ["get", &id, "--to", again.to_str().unwrap()];
    let said = nodes[0].muster(&again).success();
    assert!(said.contains("4 were there already"), "{said}");
    // Its machine burns down; another keeps a copy of everything.
    let dead = nodes.iter().find(|node| node.name == ran_on).unwrap();
    dead.kill_machine();
    fs::remove_dir_all(dead.data()).unwrap();
    for node in nodes.iter().filter(|node| node.name != ran_on) {
        let to = lab.path().join(format!("after-{}", node.name));
        wait_until(PATIENCE, "a majority answers", || {
            let said = node.muster(&["get", &id, "out", "--to", to.to_str().unwrap()]);
            (said.code == 0).then_some(())
        });
        assert_eq!(text(&to.join("out/model.pt")), "weights");
        assert!(!to.join("log.txt").exists(), "only what was asked for");
        let printed = node.muster(&["get", &id, "log.txt", "--to", "-"]).success();
        assert_eq!(printed, "log");
    }
}

#[test]
fn outputs_of_stopped_and_timed_out_experiments_are_kept_too() {
    let lab = Lab::new();
    let a = lab.one();
    let script = "printf step-1 > checkpoint; echo ready; sleep 1000";
    let stopped = submit(&a, &["--output", "checkpoint"], script);
    wait_until(PATIENCE, "it has written", || {
        a.logs(&stopped).contains("ready").then_some(())
    });
    let early = a.muster(&["get", &stopped]).failure(1);
    assert!(early.contains("has not ended"), "{early}");
    a.muster(&["stop", &stopped]).success();
    let late = submit(&a, &["--output", "checkpoint", "--time", "1s"], script);
    for id in [stopped, late] {
        a.wait_end(&id);
        let kept = a.muster(&["get", &id, "checkpoint", "--to", "-"]).success();
        assert_eq!(kept, "step-1");
    }
}

#[test]
fn what_is_too_large_or_outside_is_refused_with_what_to_do() {
    let lab = Lab::new();
    let a = lab.one();
    let script = "truncate -s 3M big; printf small > small";
    let options = [
        "--output",
        "big",
        "--output",
        "small",
        "--output-limit",
        "2MiB",
    ];
    let id = submit(&a, &options, script);
    a.wait_end(&id);
    let list = a.muster(&["get", &id, "--list"]).success();
    assert!(
        list.contains("not kept: big (3 MiB): the outputs of an attempt may take 2 MiB, which --output-limit raises"),
        "{list}"
    );
    assert_eq!(
        a.muster(&["get", &id, "small", "--to", "-"]).success(),
        "small"
    );
    let missing = a.muster(&["get", &id, "big"]).failure(1);
    assert!(missing.contains("--list"), "{missing}");
    for bad in ["../x", "/etc/passwd", ".", "a/../../b"] {
        let whole = ["run", "--no-source", "--output", bad, "--", "true"];
        let refused = a.muster(&whole).failure(1);
        assert!(refused.contains("cannot be an output"), "{refused}");
    }
    let without = submit(&a, &[], "true");
    a.wait_end(&without);
    let nothing = a.muster(&["get", &without]).failure(1);
    assert!(nothing.contains("muster run --output PATH"), "{nothing}");
    let elsewhere = lab.path().join("to");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("small"), "mine").unwrap();
    let whole = ["get", &id, "--to", elsewhere.to_str().unwrap()];
    let refused = a.muster(&whole).failure(1);
    assert!(refused.contains("exists already"), "{refused}");
    assert_eq!(text(&elsewhere.join("small")), "mine");
}

#[test]
fn files_are_served_in_ranges_at_every_node() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [other, _]) = leader_and_others(&nodes);
    let id = submit(
        leader,
        &["--output", "digits"],
        "printf 0123456789 > digits",
    );
    leader.wait_end(&id);
    let file = format!("/api/v1/experiments/{id}/outputs/file?path=digits");
    for node in [leader, other] {
        let range = |range: &str| node.get_with(&file, &[("Range", range)]);
        assert_eq!(node.get(&file), (200, "0123456789".to_owned()));
        assert_eq!(range("bytes=2-4"), (206, "234".to_owned()));
        assert_eq!(range("bytes=-3"), (206, "789".to_owned()));
        let (status, body) = range("bytes=10-");
        assert!(
            status == 416 && body.contains("10 bytes"),
            "{status} {body}"
        );
    }
    let (status, body) = other.get(&format!("/api/v1/experiments/{id}/outputs"));
    assert_eq!(status, 200, "{body}");
    let view: OutputsView = serde_json::from_str(&body).unwrap();
    assert_eq!(
        view.entries[0].hash,
        BlobHash::of(b"0123456789").to_string()
    );
    let none = format!("/api/v1/experiments/{id}/outputs/file?path=../../order");
    let (status, body) = other.get(&none);
    let error: ErrorView = serde_json::from_str(&body).unwrap();
    assert_eq!((status, error.code.as_str()), (404, "no-output"));
}

#[test]
fn outputs_wait_for_a_node_that_was_away_when_they_were_left() {
    let lab = Lab::new();
    let a = lab.one();
    let release = lab.path().join("release");
    let script = format!(
        "echo ready; while ! test -e {}; do sleep 0.05; done; printf kept > file",
        release.display()
    );
    let id = submit(&a, &["--output", "file"], &script);
    wait_until(PATIENCE, "it runs", || {
        a.logs(&id).contains("ready").then_some(())
    });
    a.kill();
    fs::write(&release, "").unwrap();
    a.up(&[]);
    a.wait_end(&id);
    assert_eq!(
        a.muster(&["get", &id, "file", "--to", "-"]).success(),
        "kept"
    );
}
