//! Wall clocks that jump by an hour: nobody is elected, no lease ends, and the times of the log go on as if nothing had
//! happened.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use service::view::ExperimentDetail;

use crate::harness::{FAR, Lab, Node, PATIENCE, counting, wait_lines, wait_until};
use crate::lab::{NetLab, found, found_with, say, seen_by, split_leader, stay};
use crate::load::{Plan, under_load_of};

/// Where Debian puts the library that tells a process another time.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];

/// The library; none, said in a line, where it is not installed.
pub(crate) fn library() -> Option<&'static str> {
    let found = LIBRARIES.into_iter().find(|path| Path::new(path).exists());
    if found.is_none() {
        let required = std::env::var("MUSTER_NETNS").is_ok_and(|wish| wish == "required");
        assert!(
            !required,
            "libfaketime is missing: install the package faketime"
        );
        say("skipped: libfaketime is not installed (package faketime)");
    }
    found
}

/// The file from which a node reads how far its wall clock is off.
fn clock_file(node: &Node) -> PathBuf {
    node.home.with_extension("clock")
}

/// Sets the wall clock of a node off by so much: `+3600`, or a date.
pub(crate) fn set_clock(node: &Node, to: &str) {
    let file = clock_file(node);
    let new = file.with_extension("new");
    fs::write(&new, format!("{to}\n")).expect("a file");
    fs::rename(new, file).expect("it is replaced in one step");
}

/// Lets a node read its wall clock, and no other clock, from [`set_clock`].
fn give_clock(node: &mut Node, library: &str) {
    set_clock(node, "+0");
    let file = clock_file(node).display().to_string();
    for (name, value) in [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", &file),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_NO_CACHE", "1"),
    ] {
        node.variables.push((name.to_owned(), value.to_owned()));
    }
}

/// Three hosts, whose wall clocks [`set_clock`] sets.
pub(crate) fn hosts_with_clocks(lab: &NetLab, library: &str) -> [Node; 3] {
    let mut nodes = ["a", "b", "c"].map(|name| lab.host(name));
    for node in &mut nodes {
        give_clock(node, library);
    }
    nodes
}

/// The wall clock, which all hosts share while nothing is done to it.
pub(crate) fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.expect("after 1970").as_millis()).expect("before the end of time")
}

/// When the log says that an experiment was submitted.
fn submitted_at(node: &Node) -> u64 {
    let id = node.submit(&FAR);
    let detail: ExperimentDetail = node.show(&id);
    detail.summary.submitted_at
}

#[test]
fn wall_clocks_that_jump_cost_no_lease_and_the_log_keeps_the_time_of_the_majority() {
    let Some(library) = library() else { return };
    let Some(lab) = NetLab::new() else { return };
    let nodes = hosts_with_clocks(&lab, library);
    // Its elections wait for longer: none is to be laid on the clocks that a busy machine has made.
    found_with(&nodes, &["--new", "--timing", "wan"]);
    let stop = lab.shared().join("stop");
    let jobs = nodes.each_ref().map(|node| {
        let constraint = format!("machine={}", node.name);
        let job = counting(&stop);
        let id = node.submit(&["--constraint", &constraint, "--", "sh", "-c", &job]);
        wait_lines(node, &id, 2);
        id
    });
    under_load_of(&lab, &nodes, Plan::small(61), || {
        let (_, others) = split_leader(&nodes);
        let follower = others[0].name.clone();
        let (first_term, mut last) = (seen_by(&nodes[0]).term, submitted_at(&nodes[0]));

        let by_name = |name: &str| nodes.iter().find(|node| node.name == name).unwrap();
        for to in ["+3600", "-3600", "+0"] {
            set_clock(by_name(&follower), to);
            stay(Duration::from_secs(6)); // Longer than a short lease.
            let at = submitted_at(&nodes[0]);
            assert!(
                at >= last && at.abs_diff(wall_ms()) < 30_000,
                "{at} after {last}"
            );
            last = at;
        }
        let term = seen_by(&nodes[0]).term;
        assert_eq!(term, first_term, "a follower's clock elects nobody");

        for to in ["+3600", "-3600"] {
            let (leader, others) = split_leader(&nodes);
            set_clock(leader, to);
            let at = submitted_at(others[0]);
            assert!(
                at >= last && at.abs_diff(wall_ms()) < 30_000,
                "the log's time is {at} after {last}, it is {}",
                wall_ms()
            );
            last = at;
            let name = leader.name.clone();
            wait_until(
                PATIENCE,
                "the lead goes to one whose clock is right",
                || {
                    let now = seen_by(others[0]).leader?.name;
                    (now != name).then_some(())
                },
            );
            set_clock(leader, "+0");
            split_leader(&nodes);
        }
        let last_term = seen_by(&nodes[0]).term;
        for (node, job) in nodes.iter().zip(&jobs) {
            let detail = node.show(job);
            assert_eq!(
                (detail.summary.state.as_str(), detail.attempts.len()),
                ("running", 1),
                "{detail:?}"
            );
        }
        say(&format!(
            "wall clocks ±1 h: {} changes of the lead, both handed over; no lease lost",
            last_term - first_term
        ));
    });
    fs::write(&stop, "").unwrap();
    for job in &jobs {
        let ended = nodes[0].wait_end(job);
        assert_eq!(ended.summary.state, "finished", "{ended:?}");
    }
}

#[test]
fn young_work_of_a_machine_whose_clock_is_an_hour_off_keeps_the_short_lease() {
    let Some(library) = library() else { return };
    let Some(lab) = NetLab::new() else { return };
    let nodes = hosts_with_clocks(&lab, library);
    found(&nodes);
    let (leader, others) = split_leader(&nodes);
    let stop = lab.shared().join("stop");
    let mut jobs = Vec::new();
    for (node, to) in others.iter().zip(["-3600", "+3600"]) {
        set_clock(node, to);
        let constraint = format!("machine={}", node.name);
        let job = counting(&stop);
        let id = node.submit(&["--constraint", &constraint, "--", "sh", "-c", &job]);
        let detail = leader.wait_state(&id, &["running"]);
        let attempt = &detail.attempts[0];
        let started = attempt.started_at.expect("it runs");
        assert!(
            started >= attempt.placed_at && started.abs_diff(wall_ms()) < 30_000,
            "{to}: {attempt:?}"
        );
        set_clock(node, "+0");
        jobs.push(id);
    }
    for node in &nodes {
        set_clock(node, "+601");
    }
    // Each gets the long lease when it is ten minutes old, and the ledger says how old it was: neither before nor after.
    for id in &jobs {
        let extended = wait_until(PATIENCE, "it gets the long lease", || {
            let mut history = leader.show(id).history.into_iter();
            history.find(|entry| entry.action == "lease-extended")
        });
        assert!(extended.detail.contains("for 10 min"), "{extended:?}");
    }
    fs::write(&stop, "").unwrap();
    for id in &jobs {
        let ended = leader.wait_end(id);
        assert_eq!(
            (ended.summary.state.as_str(), ended.attempts.len()),
            ("finished", 1)
        );
    }
}

#[test]
fn a_machine_whose_clock_says_1970_checks_no_tokens_and_says_why() {
    let Some(library) = library() else { return };
    let lab = Lab::new();
    let mut node = lab.machine("a");
    give_clock(&mut node, library);
    node.up(&["--new"]);
    let text = node.muster(&["--json", "user", "add", "ann"]).success();
    let token: serde_json::Value = serde_json::from_str(&text).unwrap();
    let bearer = format!("Bearer {}", token["token"].as_str().expect(&text));
    let ask = || node.http("GET", "/api/v1/nodes", &[("Authorization", &bearer)], "");
    assert_eq!(ask().0, 200);
    set_clock(&node, "@1970-01-02 00:00:00");
    let (status, body) = ask();
    assert_ne!(status, 200, "{body}");
    assert!(body.contains("clock"), "{body}");
    let refused = node.muster(&["token", "new"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.err.contains("clock"), "{refused:?}");
    set_clock(&node, "+0");
    assert_eq!(ask().0, 200);
}
