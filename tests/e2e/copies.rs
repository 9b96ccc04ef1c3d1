//! Copies of blobs: two machines have each, a lost one's are made again, and what nothing names goes.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use service::view::TokenCreated;

use crate::harness::{Lab, Node, PATIENCE, wait_until};

/// Silence after which copies are made again, in these tests.
const REMADE_AFTER: &str = "8s";
/// Far beyond the 24 h for which a put protects a blob.
const LONG_AGO: Duration = Duration::from_secs(30 * 3_600);

/// A machine whose node looks after its blobs much more often than it should.
fn machine(lab: &Lab, name: &str) -> Node {
    let machine = lab.machine(name);
    let file = machine.data().join("muster.toml");
    let settings = fs::read_to_string(&file).unwrap();
    let times =
        format!("copies_remade_after = \"{REMADE_AFTER}\"\nblobs_collected_every = \"2s\"\n");
    fs::write(&file, format!("{times}{settings}")).unwrap();
    machine
}

fn blob(node: &Node, hash: &str) -> PathBuf {
    node.data().join("blobs").join(&hash[..2]).join(&hash[2..])
}

fn who_has<'a>(nodes: &[&'a Node], hash: &str) -> Vec<&'a str> {
    let having = nodes.iter().filter(|node| blob(node, hash).exists());
    having.map(|node| node.name.as_str()).collect()
}

/// Names of the blobs that a node has.
fn blobs_of(node: &Node) -> Vec<String> {
    let mut names = Vec::new();
    for shard in fs::read_dir(node.data().join("blobs")).unwrap() {
        let shard = shard.unwrap();
        let prefix = shard.file_name().to_string_lossy().into_owned();
        if prefix.len() == 2 {
            let files = fs::read_dir(shard.path()).unwrap();
            let file = |file: fs::DirEntry| file.file_name().to_string_lossy().into_owned();
            let names_here = files.map(|entry| format!("{prefix}{}", file(entry.unwrap())));
            names.extend(names_here.filter(|name| name.len() == 64));
        }
    }
    names
}

fn make_old(node: &Node, hash: &str) {
    // Opened for reading: the file is read-only, and times may be set all the same.
    let file = File::open(blob(node, hash)).unwrap();
    file.set_modified(SystemTime::now() - LONG_AGO).unwrap();
}

#[test]
fn copies_of_a_lost_machine_are_made_again_and_what_nothing_names_is_collected() {
    let lab = Lab::new();
    let nodes = ["a", "b", "c", "d"].map(|name| machine(&lab, name));
    let [a, others @ ..] = &nodes;
    a.up(&["--new"]);
    for node in others {
        let token: TokenCreated = a.ask(&["token", "new"]);
        node.up(&["--join", &token.token]);
    }
    // A source tree, and output that is too long for the report.
    let code = lab.path().join("code");
    fs::create_dir(&code).unwrap();
    fs::write(code.join("data.txt"), "some data of the experiment\n").unwrap();
    let mut run = a.client(&[
        "run",
        "--name",
        "long",
        "--",
        "sh",
        "-c",
        "cat data.txt; seq 1 3000",
    ]);
    let submitted = crate::harness::run(run.current_dir(&code), "muster run");
    assert_eq!(submitted.code, 0, "{submitted:?}");
    assert_eq!(a.wait_end("long").summary.state, "finished");
    let all: Vec<&Node> = nodes.iter().collect();
    let mut named: Vec<String> = all.iter().flat_map(|node| blobs_of(node)).collect();
    named.sort();
    named.dedup();
    assert!(named.len() >= 3, "a tree, its file, its output: {named:?}");
    for hash in &named {
        let has = || who_has(&all, hash);
        wait_until(PATIENCE, "each blob is on two machines", || {
            (has().len() >= 2).then_some(())
        });
    }

    // One that has something is lost for good; where only one copy is left another is made.
    let lost = all[1..]
        .iter()
        .max_by_key(|node| blobs_of(node).len())
        .unwrap();
    lost.kill_machine();
    let living: Vec<&Node> = all
        .iter()
        .filter(|node| node.name != lost.name)
        .copied()
        .collect();
    for hash in &named {
        let has = || who_has(&living, hash);
        wait_until(PATIENCE * 2, "two living machines have each blob", || {
            (has().len() >= 2).then_some(())
        });
    }

    // Put and never named; and a named one that is as old.
    let text = "nobody will ever name this";
    let orphan = types::BlobHash::of(text.as_bytes()).to_string();
    let (status, body) = a.http_put(&format!("/api/v1/blobs/{orphan}"), text);
    assert_eq!(status, 204, "{body}");
    let old = named.iter().find(|hash| blob(a, hash).exists());
    for hash in old.into_iter().chain([&orphan]) {
        make_old(a, hash);
    }
    wait_until(PATIENCE, "the orphan is collected", || {
        (!blob(a, &orphan).exists()).then_some(())
    });
    if let Some(hash) = old {
        assert!(blob(a, hash).exists(), "a named blob stays");
    }
    assert!(a.logs("long").ends_with("3000\n"));
}
