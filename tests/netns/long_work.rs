//! Work that has run for ten minutes outlives the loss of the majority; young work is stopped by its own machine.
//!
//! The ten minutes pass on the wall clocks of all machines at once, by libfaketime; the lease, the loss and everything
//! else take their real time, on the clock since boot.

use std::fs;
use std::time::{Duration, Instant};

use service::view::ExperimentDetail;

use crate::clocks::{hosts_with_clocks, library, set_clock};
use crate::harness::{Node, PATIENCE, counted, counting, wait_lines, wait_until};
use crate::lab::{NetLab, found, say, split_leader, stay};

/// Loss of the majority: what the long lease is made for. `MUSTER_QUORUM_LOSS_SECONDS=20`, four short leases, is quicker.
const LOSS: Duration = Duration::from_secs(240);
/// The long lease.
const LONG_LEASE_MS: u64 = 300_000;

fn loss() -> Duration {
    let wish = std::env::var("MUSTER_QUORUM_LOSS_SECONDS").ok();
    let seconds = wish.map(|text| text.parse().expect("a number of seconds"));
    seconds.map_or(LOSS, Duration::from_secs)
}

fn lease_ms(detail: &ExperimentDetail) -> u64 {
    detail.attempts.last().map_or(0, |attempt| attempt.lease_ms)
}

fn count_on(node: &Node, name: &str, script: &str) -> String {
    let constraint = format!("machine={}", node.name);
    node.submit(&[
        "--name",
        name,
        "--constraint",
        &constraint,
        "--",
        "sh",
        "-c",
        script,
    ])
}

#[test]
fn four_minutes_without_a_majority_kill_no_experiment_that_has_run_for_ten() {
    let Some(library) = library() else { return };
    let Some(lab) = NetLab::new() else { return };
    let nodes = hosts_with_clocks(&lab, library);
    found(&nodes);
    let (_, others) = split_leader(&nodes);
    let keeper = others[0];
    let script = counting(&lab.shared().join("stop"));
    let old = count_on(keeper, "old", &script);
    wait_lines(keeper, &old, 3);
    assert_eq!(lease_ms(&keeper.show(&old)), 5_000);
    for node in &nodes {
        set_clock(node, "+601");
    }
    wait_until(PATIENCE, "it gets the long lease", || {
        (lease_ms(&keeper.show(&old)) == LONG_LEASE_MS).then_some(())
    });
    let young = count_on(keeper, "young", &script);
    let before = wait_lines(keeper, &old, 3);
    wait_lines(keeper, &young, 3);
    // The node has the new length with its next renewal, which is due within a third of the short lease.
    stay(Duration::from_secs(5));

    let lost: Vec<_> = nodes
        .iter()
        .filter(|node| node.name != keeper.name)
        .collect();
    for node in &lost {
        node.kill();
    }
    let start = Instant::now();
    stay(loss());
    for node in &lost {
        node.up(&[]);
    }
    let ended = wait_until(
        PATIENCE,
        "the young one was stopped and placed again",
        || {
            let output = keeper.muster(&["--json", "show", &young]);
            let detail: ExperimentDetail = serde_json::from_str(&output.out).ok()?;
            (detail.attempts.len() == 2).then_some(detail)
        },
    );
    let after = wait_lines(keeper, &old, before);
    let detail = keeper.show(&old);
    say(&format!(
        "majority lost for {} s: the old experiment went from line {before} to {after} in one attempt; the young one was ended ({:?})",
        start.elapsed().as_secs(),
        ended.attempts[0].cause.as_ref().map(|cause| &cause.kind),
    ));
    assert_eq!(
        (detail.summary.state.as_str(), detail.attempts.len()),
        ("running", 1),
        "{detail:?}"
    );
    fs::write(lab.shared().join("stop"), "").unwrap();
    keeper.wait_end(&old);
    let output = wait_until(PATIENCE, "the whole output is there", || {
        let output = keeper.muster(&["logs", &old]).out;
        output.ends_with("end\n").then_some(output)
    });
    assert!(counted(&output).1 >= after, "no line is lost");
}
