//! What a person does with experiments: submit, follow, move, stop.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use service::view::{
    ExperimentList, ExperimentSummary, LedgerEntryView, NodesView, QueueView, SubmitReply, WhyView,
};

use crate::harness::{Lab, PATIENCE, processes_whose, run, skip, wait_until};

#[test]
fn what_is_submitted_on_any_node_runs_and_its_output_is_whole_on_every_node() {
    let lab = Lab::new();
    let nodes = lab.three();
    let few = "echo short";
    // More than fits into a report, so that it is stored as a segment.
    let many = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done";
    let lines: String = (0..3000).map(|i| format!("line {i}\n")).collect();
    for node in &nodes {
        let short = node.submit(&["--", "sh", "-c", few]);
        let long = node.submit(&["--name", "long", "--", "sh", "-c", many]);
        for reader in &nodes {
            assert_eq!(reader.wait_end(&short).summary.state, "finished");
            assert_eq!(reader.logs(&short), "short\n");
            let detail = reader.wait_end(&long);
            assert_eq!(detail.summary.state, "finished");
            assert_eq!(
                (detail.summary.name.as_str(), detail.attempts.len()),
                ("long", 1)
            );
            assert!(
                reader.logs(&long) == lines,
                "{} reads all lines",
                reader.name
            );
        }
    }
}

#[test]
fn both_streams_come_out_where_they_belong_and_metrics_are_recorded() {
    let lab = Lab::new();
    let a = lab.one();
    let script = "echo out; echo err >&2; echo 'metric: loss=0.25 step=3'";
    let output = a.muster(&["run", "-f", "--no-source", "--", "sh", "-c", script]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.out, "out\nmetric: loss=0.25 step=3\n");
    assert!(output.err.lines().any(|line| line == "err"), "{output:?}");
    let id = &a.list()[0].id;
    let items = a.muster(&["--json", "logs", id]).success();
    let scalar = items
        .lines()
        .find(|line| line.contains("\"scalar\""))
        .unwrap();
    assert!(
        scalar.contains("\"loss\"") && scalar.contains("0.25"),
        "{scalar}"
    );
}

/// Runs git in a directory with an identity, and no settings of the host.
fn git(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=e2e", "-c", "user.email=e2e@example.org"])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    run(&mut command, "git").success();
}

#[test]
fn a_dirty_checkout_runs_on_a_machine_that_never_saw_it() {
    let lab = Lab::new();
    let [a, _b, c] = lab.three();
    let checkout = lab.path().join("checkout");
    let deep = checkout.join("experiments/first");
    fs::create_dir_all(&deep).unwrap();
    fs::write(checkout.join("tracked.txt"), "committed\n").unwrap();
    fs::write(checkout.join(".gitignore"), "ignored.txt\n").unwrap();
    fs::write(
        deep.join("run.sh"),
        "#!/bin/sh\ncat ../../tracked.txt ../../new.txt\nls -A ../..\npwd\n",
    )
    .unwrap();
    git(&checkout, &["init", "-q", "-b", "main"]);
    git(&checkout, &["add", "."]);
    git(&checkout, &["commit", "-q", "-m", "first"]);
    fs::write(checkout.join("tracked.txt"), "changed\n").unwrap();
    fs::write(checkout.join("new.txt"), "untracked\n").unwrap();
    fs::write(checkout.join("ignored.txt"), "secret\n").unwrap();
    let mut command = a.client(&[
        "run",
        "-f",
        "--constraint",
        "machine=c",
        "--",
        "sh",
        "run.sh",
    ]);
    let output = run(command.current_dir(&deep), "the experiment ends");
    let printed = output.success();
    let mut lines = printed.lines();
    assert_eq!(lines.next(), Some("changed"));
    assert_eq!(lines.next(), Some("untracked"));
    let rest: Vec<_> = lines.collect();
    let (directory, files) = rest.split_last().unwrap();
    assert_eq!(
        files,
        [".gitignore", "experiments", "new.txt", "tracked.txt"]
    );
    assert!(
        directory.starts_with(&*c.data().to_string_lossy()),
        "{directory}"
    );
    assert!(directory.ends_with("/experiments/first"), "{directory}");

    let detail = a.show(&a.list()[0].id);
    let source = detail.source.as_ref().unwrap();
    assert!(source.revision.ends_with('+'), "{source:?}");
    assert_eq!(detail.working_directory, "experiments/first");
    assert_eq!(detail.attempts[0].nodes[0].name, "c");
}

#[test]
fn run_f_exits_as_the_experiment_does() {
    let lab = Lab::new();
    let a = lab.one();
    let code = |script: &str| {
        a.muster(&["run", "-f", "--no-source", "--", "sh", "-c", script])
            .code
    };
    assert_eq!(code("exit 0"), 0);
    assert_eq!(code("exit 7"), 7);
    assert_eq!(code("kill -9 $$"), 137);
    let states: Vec<_> = a.list().into_iter().map(|one| one.state).collect();
    assert_eq!(states, ["failed", "failed", "finished"]);
}

#[test]
fn a_command_that_does_not_exist_fails_with_its_name_and_127() {
    let lab = Lab::new();
    let a = lab.one();
    let output = a.muster(&["run", "-f", "--no-source", "--", "no-such-command", "x"]);
    assert_eq!(output.code, 127, "{output:?}");
    assert!(
        output.err.contains("command not found: no-such-command"),
        "{output:?}"
    );
    let detail = a.show(&a.list()[0].id);
    let cause = detail.cause.unwrap();
    assert_eq!(detail.summary.state, "failed");
    assert_eq!(
        (cause.kind.as_str(), cause.exit_code),
        ("command-not-found", 127)
    );
    assert_eq!(cause.text, "command not found: no-such-command");
}

#[test]
fn the_same_key_submits_once_whoever_is_asked() {
    let lab = Lab::new();
    let [a, b, c] = lab.three();
    let submit = [
        "run",
        "--no-source",
        "--key",
        "only-once",
        "--",
        "echo",
        "once",
    ];
    let ids: BTreeSet<String> = std::thread::scope(|scope| {
        let asked =
            [&a, &b, &c, &a].map(|node| scope.spawn(move || node.ask::<SubmitReply>(&submit).id));
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let id = ids.first().unwrap();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(b.wait_end(id).attempts.len(), 1);
    assert_eq!(&c.ask::<SubmitReply>(&submit).id, id, "also after its end");
    assert_eq!(a.list().len(), 1);
    let other = a.submit(&["--key", "another", "--", "true"]);
    assert_ne!(&other, id);
}

#[test]
fn a_stop_ends_every_process_of_the_tree() {
    let lab = Lab::new();
    let [a, b, _c] = lab.three();
    // A daemon as they are made: a fork, a session of its own, another fork, deaf to SIGTERM, and one that has dropped
    // its environment. The fraction names them, and they end by themselves should this test fail.
    let nap = format!("120.0{}", std::process::id());
    let script = format!(
        "setsid sh -c 'trap \"\" TERM HUP; (sleep {nap} & sleep {nap}) & env -i sleep {nap}' >/dev/null 2>&1 &
         (setsid setsid sleep {nap} &) ; echo ready; sleep {nap}"
    );
    let body = serde_json::json!({
        "command": ["sh", "-c", script],
        "stop_grace_ms": 500,
    });
    let (status, reply) = a.post("/api/v1/experiments", &body.to_string());
    assert_eq!(status, 201, "{reply}");
    let id = serde_json::from_str::<SubmitReply>(&reply).unwrap().id;
    let sleepers = || processes_whose(|facts| facts.arguments.trim_end() == format!("sleep {nap}"));
    wait_until(PATIENCE, "all of the tree runs", || {
        (sleepers().len() == 5).then_some(())
    });
    b.muster(&["stop", &id]).success();
    let detail = b.wait_end(&id);
    assert_eq!(sleepers(), [], "when the end is told nothing is left");
    let cause = detail.cause.unwrap();
    assert_eq!(detail.summary.state, "stopped");
    assert!(cause.text.contains("stopped by"), "{cause:?}");
    assert!(!detail.attempts[0].tree_kill_method.is_empty());
    assert_eq!(b.logs(&id), "ready\n");
}

#[test]
fn what_waits_can_be_stopped_and_moved() {
    let lab = Lab::new();
    let a = lab.one();
    let running = a.submit(&["--name", "first", "--cpus", "4", "--", "sleep", "1000"]);
    a.wait_state(&running, &["running"]);
    let waiting = a.submit(&["--name", "second", "--cpus", "4", "--", "true"]);
    let why: WhyView = a.ask(&["why", &waiting]);
    assert_eq!(
        (why.state.as_str(), why.position, why.possible_ever),
        ("queued", 1, true)
    );
    assert_eq!(why.nodes[0].verdict, "short", "{why:?}");

    a.muster(&["queue", "create", "urgent", "--priority", "10"])
        .success();
    a.muster(&["queue", "move", "second", "urgent"]).success();
    let queues: Vec<QueueView> = a.ask(&["queue", "ls"]);
    let waits = |name: &str| {
        let queue = queues.iter().find(|queue| queue.name == name);
        queue.map(|queue| (queue.waiting, queue.active))
    };
    assert_eq!(waits("urgent"), Some((1, 0)), "{queues:?}");
    assert_eq!(waits("default"), Some((0, 1)), "{queues:?}");
    let moved = a
        .ask::<ExperimentList>(&["ls", "--queue", "urgent"])
        .experiments;
    assert_eq!(moved[0].id, waiting);
    let lost = a.muster(&["queue", "move", "second", "nowhere"]).failure(1);
    assert!(lost.contains("nowhere"), "{lost}");
    let runs = a.muster(&["queue", "move", "first", "urgent"]).failure(1);
    assert!(runs.contains("wait"), "{runs}");

    let stopped: ExperimentSummary = a.ask(&["stop", &waiting]);
    assert_eq!(stopped.id, waiting);
    let detail = a.wait_end(&waiting);
    assert_eq!(
        (detail.summary.state.as_str(), detail.attempts.len()),
        ("stopped", 0)
    );
    let twice = a.muster(&["stop", &waiting]).failure(1);
    assert!(twice.contains("ended") || twice.contains("over"), "{twice}");
    a.muster(&["stop", &running]).success();
    assert_eq!(a.wait_end(&running).summary.state, "stopped");
}

#[test]
fn a_name_means_its_newest_but_stops_only_a_single_one() {
    let lab = Lab::new();
    let a = lab.one();
    let far = ["--name", "twin", "--cpus", "1000", "--", "true"];
    let (first, second) = (a.submit(&far), a.submit(&far));
    assert_eq!(a.show("twin").summary.id, second);
    let refused = a.muster(&["stop", "twin"]).failure(1);
    assert!(
        refused.contains(&first) && refused.contains(&second),
        "{refused}"
    );
    assert!(a.list().iter().all(|one| one.state == "queued"));
    a.muster(&["stop", &second]).success();
    a.muster(&["stop", "twin"]).success();
    assert!(a.list().iter().all(|one| one.state == "stopped"));
}

#[test]
fn a_time_limit_and_retries_are_kept_and_variables_arrive() {
    let lab = Lab::new();
    let a = lab.one();
    let output = a.muster(&[
        "run",
        "-f",
        "--no-source",
        "--time",
        "1s",
        "--",
        "sleep",
        "60",
    ]);
    assert_eq!(output.code, 124, "{output:?}");
    assert!(output.err.contains("time limit"), "{output:?}");

    // Fails twice, then succeeds.
    let output = a.muster(&[
        "run",
        "-f",
        "--no-source",
        "--name",
        "third",
        "--retries",
        "2",
        "--env",
        "NEEDED=3",
        "--param",
        "lr=0.05",
        "--",
        "sh",
        "-c",
        "echo try $MUSTER_ATTEMPT; [ $MUSTER_ATTEMPT = $NEEDED ]",
    ]);
    assert_eq!(output.success(), "try 1\ntry 2\ntry 3\n");
    let detail = a.show("third");
    let ends: Vec<_> = detail
        .attempts
        .iter()
        .map(|one| one.cause.as_ref().unwrap().exit_code)
        .collect();
    assert_eq!(ends, [1, 1, 0]);
    assert_eq!(detail.parameters, [("lr".to_owned(), "0.05".to_owned())]);
}

#[test]
fn every_reading_command_speaks_json_and_the_ledger_says_who_did_what() {
    let lab = Lab::new();
    let a = lab.one();
    let id = a.submit(&["--cpus", "1000", "--", "true"]);
    a.muster(&["stop", &id]).success();
    a.wait_end(&id);
    for command in [
        &["ls", "--all"][..],
        &["nodes"],
        &["queue", "ls"],
        &["audit"],
        &["show", &id],
        &["why", &id],
    ] {
        let value: serde_json::Value = a.ask(command);
        assert!(
            value.is_object() || value.is_array(),
            "{command:?}: {value}"
        );
        let text = a.muster(command).success();
        assert!(!text.contains('\u{1b}'), "no colours in a pipe: {text:?}");
    }
    let history: Vec<LedgerEntryView> = a.ask(&["audit", "--experiment", &id]);
    let actions: Vec<_> = history.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        ["experiment-submitted", "stop-requested", "experiment-ended"]
    );
    let user = &a.show(&id).summary.user;
    assert!(
        history
            .iter()
            .all(|entry| entry.author.contains(user.as_str())),
        "{history:?}"
    );
}

#[test]
fn over_its_memory_an_experiment_ends_with_limit_and_peak() {
    let lab = Lab::new();
    let a = lab.one();
    let nodes: NodesView = a.ask(&["nodes"]);
    let unlimited = |warning: &String| warning.contains("not held to their memory");
    if nodes.nodes[0].warnings.iter().any(unlimited) {
        return skip("no cgroup with a memory controller is writable");
    }
    // What it takes before it is in its cgroup does not count there.
    let script = "while 'muster-' not in open('/proc/self/cgroup').read(): pass
held = b'x' * (300 << 20)
print('it has all of it')";
    let id = a.submit(&["--memory", "96MiB", "--", "python3", "-c", script]);
    let detail = a.wait_end(&id);
    let page = a.muster(&["show", &id]).success();
    println!("{page}");
    let cause = detail.cause.expect("it ended");
    assert_eq!(cause.kind, "host-out-of-memory", "{page}");
    let evidence = cause.evidence.join("\n");
    assert!(evidence.contains("limit 96 MiB, most held 9"), "{evidence}");
    let advice = cause.advice.join("\n");
    assert!(advice.contains("`--memory`"), "{advice}");
}

#[test]
fn threads_are_as_many_as_cores_and_at_least_one_unless_it_says_otherwise() {
    let lab = Lab::new();
    let a = lab.one();
    let say = |arguments: &[&str]| {
        let command = ["--", "sh", "-c", "echo $OMP_NUM_THREADS"];
        let id = a.submit(&[arguments, &command].concat());
        a.wait_end(&id);
        a.logs(&id).trim().to_owned()
    };
    assert_eq!(say(&["--cpus", "2.5"]), "3");
    assert_eq!(say(&["--cpus", "0.2"]), "1");
    assert_eq!(say(&["--cpus", "0"]), "1");
    assert_eq!(say(&["--cpus", "2", "--env", "OMP_NUM_THREADS=7"]), "7");
}
