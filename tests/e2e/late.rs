//! Results that come after their attempt was given up: kept apart, not counted, and a person may accept them.

use std::fs;

use crate::harness::{Lab, PATIENCE, wait_until};

#[test]
fn a_late_success_is_kept_apart_and_a_person_may_accept_it() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (first, go) = (lab.path().join("first"), lab.path().join("go"));
    // Whoever comes second goes on and on.
    let script = format!(
        "mkdir {first} || {{ echo second; exec sleep 1000; }}
        echo up; while [ ! -e {go} ]; do sleep 0.05; done; echo done",
        first = first.display(),
        go = go.display(),
    );
    let submitted = ["--lease", "8s", "--name", "late", "--", "sh", "-c", &script];
    let job = nodes[0].submit(&submitted);
    wait_until(PATIENCE, "the first attempt runs", || {
        let output = nodes[0].muster(&["logs", &job]);
        output.out.contains("up").then_some(())
    });
    let place = nodes[0].show(&job).attempts[0].nodes[0].name.clone();
    let lost = nodes.iter().find(|node| node.name == place).unwrap();
    let other = nodes.iter().find(|node| node.name != place).unwrap();
    // The node hangs, its experiment does not: it ends well before its lease, and nobody hears of it.
    lost.pause();
    fs::write(&go, "").unwrap();
    wait_until(PATIENCE, "it is placed again", || {
        let output = other.muster(&["logs", &job, "--attempt", "2"]);
        output.out.contains("second").then_some(())
    });
    lost.resume();
    let detail = wait_until(PATIENCE, "the late result is there", || {
        let output = other.muster(&["--json", "show", &job]);
        let detail: service::view::ExperimentDetail = serde_json::from_str(&output.out).ok()?; // Nobody leads yet.
        detail.attempts[0].late.is_some().then_some(detail)
    });
    assert_eq!(detail.summary.state, "running", "it is not counted");
    assert!(detail.attempts[0].cause.is_some());
    let page = other.muster(&["show", &job]).success();
    assert!(page.contains("late result"), "{page}");
    let ledger = other.muster(&["audit", "--experiment", &job]).success();
    assert!(ledger.contains("ended late"), "{ledger}");

    let refused = other.muster(&["accept", &job]).failure(1);
    assert!(
        refused.contains("attempt 2") && refused.contains("stop it first"),
        "{refused}"
    );
    other.muster(&["stop", &job]).success();
    assert_eq!(other.wait_end(&job).summary.state, "stopped");
    let said = other.muster(&["accept", &job]).success();
    assert!(said.contains("finished"), "{said}");
    assert_eq!(other.show(&job).summary.state, "finished");
    let ledger = other.muster(&["audit", "--experiment", &job]).success();
    assert!(ledger.contains("late-result-accepted"), "{ledger}");
    let again = other.muster(&["accept", &job]).failure(1);
    assert!(again.contains("finished already"), "{again}");
}
