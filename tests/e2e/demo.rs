//! The demonstration, as a newcomer starts it.

use std::time::Duration;

use crate::harness::{Lab, run_within};

/// Longer than the demo's own patience, so that it can say itself what it waited for.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn the_demo_shows_a_cluster_that_survives_its_leader_and_cleans_up() {
    let lab = Lab::new();
    let machine = lab.machine("demo");
    let temporary = lab.path().join("t");
    std::fs::create_dir(&temporary).unwrap();
    let mut command = machine.program();
    command.args(["demo", "--exit"]).env("TMPDIR", &temporary);
    let said = run_within(PATIENCE, &mut command, "the demo ends").success();
    assert!(said.contains("done in"), "{said}");
    assert!(!said.contains("FAILED"), "{said}");
    let left: Vec<_> = std::fs::read_dir(&temporary).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
