//! Who may say what of queues, users and machines, and what is refused.

use std::fs;

use crate::harness::{Lab, run};
use crate::sharing::{Person, block};

#[test]
fn a_member_steers_own_experiments_and_jumps_no_line() {
    let lab = Lab::new();
    let a = lab.one();
    let [ada, bob] = ["ada", "bob"].map(|name| Person::of(&a, name));
    a.muster(&["queue", "pause", "default"]).success();
    let of_ada = ada.submit(&["--", "true"]);
    let of_bob = bob.submit(&["--", "true"]);
    let refused = |arguments: &[&str]| run(&mut bob.client(arguments), "bob").failure(1);
    for arguments in [
        &["hold", &of_ada][..],
        &["release", &of_ada],
        &["priority", &of_ada, "-5"],
        &["queue", "reorder", &of_ada, "--last"],
    ] {
        let said = refused(arguments);
        assert!(said.contains(&of_ada) && said.contains("admin"), "{said}");
    }
    for place in [&["--first"][..], &["--before", &of_ada]] {
        let said = refused(&[&["queue", "reorder", of_bob.as_str()], place].concat());
        assert!(
            said.contains("ada waits in queue default too") && said.contains("muster priority"),
            "{said}"
        );
    }
    run(
        &mut bob.client(&["queue", "reorder", &of_bob, "--last"]),
        "bob",
    )
    .success();
    for arguments in [
        &["queue", "resume", "default"][..],
        &["queue", "set", "default", "--weight", "2"],
        &["user", "weigh", "bob", "9"],
        &["node", "label", "a", "x=y"],
        &["node", "reserve", "a", "--for", "bob", "--time", "1h"],
    ] {
        let said = refused(arguments);
        assert!(said.contains("admin"), "{said}");
    }
    a.muster(&["queue", "resume", "default"]).success();
    for id in [of_ada, of_bob] {
        assert_eq!(a.wait_end(&id).summary.state, "finished");
    }
}

#[test]
fn what_makes_no_sense_of_queues_users_and_machines_is_said_to_whoever_asks() {
    let lab = Lab::new();
    let a = lab.one();
    for (arguments, said) in [
        (&["queue", "set", "default"][..], "say what to change"),
        (&["queue", "set", "default", "--weight", "0"], "from 1 to"),
        (
            &["queue", "set", "nigth", "--weight", "2"],
            "muster queue ls",
        ),
        (&["queue", "pause", "nigth"], "muster queue ls"),
        (&["user", "weigh", "bob", "0"], "from 1 to"),
        (&["user", "weigh", "a b", "2"], "without spaces"),
        (&["node", "label", "nobody", "x=y"], "muster nodes"),
        (
            &["node", "reserve", "a", "--for", "", "--time", "1h"],
            "without spaces",
        ),
        (
            &["node", "reserve", "a", "--for", "ada", "--time", "0s"],
            "--time 4h",
        ),
    ] {
        let text = a.muster(arguments).failure(1);
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
}

#[test]
fn figures_at_the_ends_of_their_range_stop_nothing() {
    let lab = Lab::new();
    let a = lab.one();
    let most = u64::MAX;
    let limits = format!(
        r#"{{"experiments":{most},"cpu_milli":{most},"memory_bytes":{most},"gpu_milli":{most}}}"#
    );
    let shape = format!(
        r#"{{"priority":{},"weight":1000000,"limits":{limits},"user_limits":{limits}}}"#,
        i32::MIN
    );
    let reserve = format!(r#"{{"user":"root","for_ms":{most}}}"#);
    let go = lab.path().join("go");
    block(&a, &go, &[]);
    let waits = a.submit(&["--cpus", "4", "--priority", "-2147483648", "--", "true"]);
    for (path, body) in [
        ("/api/v1/queues/default/shape", shape.as_str()),
        ("/api/v1/nodes/a/reserve", &reserve),
        ("/api/v1/users/root/weight", r#"{"weight":1000000}"#),
        (
            &format!("/api/v1/experiments/{waits}/priority"),
            r#"{"priority":2147483647}"#,
        ),
    ] {
        let (status, answer) = a.post(path, body);
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
    }
    // It is of the highest class now, and takes the place of what runs.
    assert_eq!(a.wait_end(&waits).summary.state, "finished");
    let long = "x".repeat(100_000);
    for (path, body) in [
        (
            "/api/v1/nodes/a/reserve",
            format!(r#"{{"user":"{long}","for_ms":1000}}"#),
        ),
        (
            "/api/v1/nodes/a/label",
            format!(r#"{{"labels":{{"{long}":"1"}}}}"#),
        ),
        (
            "/api/v1/experiments",
            r#"{"name":"slow","command":["true"],"stop_grace_ms":18446744073709551615}"#.to_owned(),
        ),
    ] {
        let (status, answer) = a.post(path, &body);
        assert!(status == 400 || status == 422, "{path}: {status} {answer}");
        assert!(answer.len() < 1_000, "{answer}");
    }
    fs::write(&go, "").unwrap();
}
