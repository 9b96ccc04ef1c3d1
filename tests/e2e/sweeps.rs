//! Parameters and sweeps: where values go, groups as one, rules by which experiments end themselves.

use std::fs;

use service::view::{
    ExperimentList, GroupMemberView, GroupReply, GroupSummary, GroupView, SubmitReply,
};

use crate::harness::{Lab, Node, PATIENCE, wait_until};

fn sweep(node: &Node, arguments: &[&str]) -> GroupReply {
    node.ask(&[&["run", "--no-source"], arguments].concat())
}

fn group(node: &Node, id: &str) -> GroupView {
    node.ask(&["show", id])
}

/// The group once none of its experiments waits or runs.
fn wait_group(node: &Node, id: &str) -> GroupView {
    wait_until(PATIENCE, "the group is over", || {
        let view = group(node, id);
        let over =
            |one: &GroupMemberView| ["finished", "failed", "stopped"].contains(&one.state.as_str());
        view.experiments.iter().all(over).then_some(view)
    })
}

/// The values of an experiment's parameters, with spaces between.
fn values(one: &GroupMemberView) -> String {
    let values: Vec<&str> = one
        .parameters
        .iter()
        .map(|(_, value)| value.as_str())
        .collect();
    values.join(" ")
}

#[test]
fn parameters_go_into_the_command_into_variables_and_into_the_environment() {
    let lab = Lab::new();
    let a = lab.one();
    let file = lab.path().join("p.json");
    fs::write(
        &file,
        r#"{"lr": 0.9, "model": {"depth": 3}, "sizes": [1, 2]}"#,
    )
    .unwrap();
    let script = "echo {lr} {{lr}} [${lr}] {typo} {sizes}; echo $MUSTER_PARAM_LR $MUSTER_PARAM_MODEL_DEPTH $OUT";
    let output = a.muster(&[
        "run",
        "-f",
        "--no-source",
        "--params",
        &file.to_string_lossy(),
        "--param",
        "lr=0.05",
        "--env",
        "OUT=run-{model.depth}",
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.out, "0.05 {lr} [] {typo} [1,2]\n0.05 3 run-3\n");
    assert!(
        output
            .err
            .contains("{typo} names no parameter (model.depth, sizes, lr)"),
        "{output:?}"
    );
    let detail = a.show(&a.list()[0].id);
    assert!(
        detail.command[2].starts_with("echo {lr}"),
        "as it was written"
    );
    assert!(
        detail.filled_command[2].starts_with("echo 0.05 {lr}"),
        "{detail:?}"
    );
    let page = a.muster(&["show", &detail.summary.id]).success();
    assert!(
        page.contains("runs as") && page.contains("lr=0.05"),
        "{page}"
    );
}

#[test]
fn parameters_that_cannot_be_are_refused_with_what_to_do() {
    let lab = Lab::new();
    let a = lab.one();
    let yaml = lab.path().join("p.yaml");
    fs::write(&yaml, "lr: 1\n").unwrap();
    let yaml = yaml.to_string_lossy();
    for (arguments, code, says) in [
        (&["--param", "1x=2"][..], 1, "names begin with a letter"),
        (
            &["--param", "lr=1", "--param", "lr=2"],
            1,
            "lr is given twice",
        ),
        (
            &["--param", "lr=1", "--param", "LR=2"],
            1,
            "lr and LR would both be the variable MUSTER_PARAM_LR",
        ),
        (&["--params", &yaml], 1, ".json and .toml"),
        (
            &["--params", "/nonexistent.json"],
            1,
            "cannot read the parameters in /nonexistent.json",
        ),
        (&["--stop-when", "loss=2"], 2, "it has no comparison"),
        (&["--samples", "3"], 2, "--sweep"),
        (&["--sweep", "lr"], 1, "in the sweep, \"lr\": it has no `=`"),
        (&["--sweep", "lr=log:0..1:8"], 1, "a log range lies above 0"),
        (&["--sweep", "lr=lin:0..1"], 1, "how many points"),
        (
            &["--sweep", "lr=1,2", "--param", "lr=3"],
            1,
            "lr is given twice",
        ),
        (
            &["--sweep", "a=int:1..40 b=int:1..30"],
            1,
            "40 of a × 30 of b = 1200 experiments",
        ),
        (
            &["--sweep", "a=1,2", "--samples", "3"],
            1,
            "only 2 different combinations",
        ),
        (&["--sweep", " "], 1, "names no parameter"),
    ] {
        let whole = [&["run", "--no-source"], arguments, &["--", "true"]].concat();
        let said = a.muster(&whole).failure(code);
        assert!(said.contains(says), "{arguments:?} said {said}");
    }
    assert!(a.list().is_empty(), "nothing of all that was submitted");
    assert!(a.ask::<Vec<GroupSummary>>(&["ls", "--groups"]).is_empty());
    let said = a.muster(&["show", "g-zzzzzzzz"]).failure(1);
    assert!(
        said.contains("no group") && said.contains("muster ls --groups"),
        "{said}"
    );
    let said = a.muster(&["stop", "g-zzzzzzzz"]).failure(1);
    assert!(said.contains("no group"), "{said}");
}

#[test]
fn a_sweep_is_one_group_that_every_node_shows_with_its_last_metrics() {
    let lab = Lab::new();
    let [a, b, _c] = lab.three();
    // A long one, whose metrics are in a sealed segment, and short ones, whose are in their reports.
    let script = "[ {n} = 2 ] && seq 1 3000; echo metric: loss=9 step=1; echo metric: loss={lr} acc=0.{n} step=7; exit 0";
    let arguments = [
        "--name",
        "tiny",
        "--key",
        "k-1",
        "--sweep",
        "lr=0.1,0.25,1e-7 n=int:1..2",
        "--",
        "sh",
        "-c",
        script,
    ];
    let reply = sweep(&a, &arguments);
    assert_eq!(reply.experiments.len(), 6);
    let again = sweep(&b, &arguments);
    assert_eq!(
        (again.id.as_str(), &again.experiments),
        (reply.id.as_str(), &reply.experiments)
    );
    let view = wait_group(&b, &reply.id);
    let rows: Vec<String> = view.experiments.iter().map(values).collect();
    assert_eq!(
        rows,
        ["0.1 1", "0.1 2", "0.25 1", "0.25 2", "1e-7 1", "1e-7 2"]
    );
    for one in &view.experiments {
        assert_eq!(
            (one.state.as_str(), one.metrics_unknown.as_str()),
            ("finished", "")
        );
        let metric = |name: &str| {
            one.metrics
                .iter()
                .find(|metric| metric.name == name)
                .unwrap()
        };
        let lr: f64 = one.parameters[0].1.parse().unwrap();
        assert_eq!(
            (metric("loss").value, metric("loss").step),
            (lr, 7),
            "{one:?}"
        );
        assert_eq!(
            metric("acc").value.to_string(),
            format!("0.{}", one.parameters[1].1)
        );
    }
    check_page(&b, &reply.id);
    check_lists(&b, &reply);
}

/// The table that people see.
fn check_page(b: &Node, id: &str) {
    let page = b.muster(&["show", id]).success();
    let heads = page.lines().find(|line| line.starts_with('#')).unwrap();
    let heads: Vec<&str> = heads.split_whitespace().collect();
    assert_eq!(
        heads,
        [
            "#", "ID", "STATE", "lr", "n", "acc", "loss", "STEP", "NODE", "RAN", "WHY"
        ]
    );
    assert!(page.contains("6 finished"), "{page}");
    let row = page.lines().find(|line| line.starts_with("5 ")).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        words[2..8],
        ["finished", "1e-7", "1", "0.1", "1e-7", "7"],
        "{page}"
    );
}

/// The experiments of the group, and the group among all.
fn check_lists(b: &Node, reply: &GroupReply) {
    let listed: ExperimentList = b.ask(&["ls", "--group", &reply.id[..5]]);
    let mut names: Vec<&str> = listed
        .experiments
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["tiny.1", "tiny.2", "tiny.3", "tiny.4", "tiny.5", "tiny.6"]
    );
    assert!(
        listed
            .experiments
            .iter()
            .all(|one| one.group.as_ref() == Some(&reply.id))
    );
    let groups: Vec<GroupSummary> = b.ask(&["ls", "--groups"]);
    assert_eq!(
        (groups.len(), groups[0].sweep.as_str()),
        (1, "lr=0.1,0.25,1e-7 n=int:1..2")
    );
}

#[test]
fn samples_of_a_seed_are_the_same_and_a_seed_that_was_chosen_is_told() {
    let lab = Lab::new();
    let a = lab.one();
    let sampled = |arguments: &[&str]| {
        let far = [
            "--sweep",
            "lr=log:1e-4..1e-1 bs=32,64",
            "--cpus",
            "1000",
            "--samples",
            "5",
        ];
        let reply = sweep(&a, &[&far[..], arguments, &["--", "true"]].concat());
        let rows: Vec<String> = group(&a, &reply.id)
            .experiments
            .iter()
            .map(values)
            .collect();
        (reply.sweep, rows)
    };
    let (said, first) = sampled(&["--seed", "7"]);
    assert_eq!(said, "lr=log:1e-4..1e-1 bs=32,64, 5 samples of seed 7");
    assert_eq!(first.len(), 5);
    let (said, other) = sampled(&[]);
    assert_ne!(first, other);
    let seed = said.rsplit(' ').next().unwrap();
    assert_eq!(sampled(&["--seed", seed]).1, other, "{said}");
    assert_eq!(sampled(&["--seed", "7"]).1, first);
}

#[test]
fn one_stop_ends_a_group_and_what_still_runs_shows_its_metrics() {
    let lab = Lab::new();
    let [a, _b, c] = lab.three();
    let script = "[ {n} = 3 ] && exit 3; echo metric: loss={n} step=4; exec sleep 1000";
    let reply = sweep(&a, &["--sweep", "n=1,2,3 ", "--", "sh", "-c", script]);
    let view = wait_until(PATIENCE, "two say their loss, and one has failed", || {
        let view = group(&c, &reply.id);
        let told = view
            .experiments
            .iter()
            .filter(|one| !one.metrics.is_empty());
        (told.count() == 2 && view.experiments[2].state == "failed").then_some(view)
    });
    for one in &view.experiments[..2] {
        assert_eq!(one.state, "running");
        assert_eq!(one.metrics[0].value.to_string(), one.parameters[0].1);
    }
    let page = c.muster(&["show", &reply.id, "--metric", "acc"]).success();
    assert!(page.contains("exit code 3"), "{page}");
    assert!(
        page.contains("other metrics, shown by --metric NAME: loss"),
        "{page}"
    );

    let said = c.muster(&["stop", &reply.id]).success();
    assert!(said.starts_with(&reply.id), "{said}");
    let view = wait_group(&a, &reply.id);
    let states: Vec<&str> = view
        .experiments
        .iter()
        .map(|one| one.state.as_str())
        .collect();
    assert_eq!(states, ["stopped", "stopped", "failed"]);
    let said = a.muster(&["stop", &reply.id]).failure(1);
    assert!(said.contains("are over already"), "{said}");
}

#[test]
fn an_experiment_ends_itself_by_its_rule_and_is_not_tried_again() {
    let lab = Lab::new();
    let a = lab.one();
    // The first breaks it before the step from which it holds; `is 5` would run for ever.
    let script = "trap 'echo saved; exit 0' TERM; echo metric: loss=9 step=1; echo metric: loss={loss} step=20; [ {loss} = 1 ] && exit 0; while :; do sleep 0.1; done";
    let reply = sweep(
        &a,
        &[
            "--sweep",
            "loss=1,5",
            "--retries",
            "3",
            "--stop-when",
            "loss>2 after step 10",
            "--",
            "sh",
            "-c",
            script,
        ],
    );
    let view = wait_group(&a, &reply.id);
    assert_eq!(view.experiments[0].state, "finished");
    assert_eq!(view.experiments[1].state, "stopped");
    let rule = "stopped by its rule loss > 2 after step 10 (loss = 5 at step 20)";
    assert_eq!(view.experiments[1].reason, rule);
    let detail = a.show(&view.experiments[1].id);
    assert_eq!(detail.attempts.len(), 1, "{detail:?}");
    assert_eq!(detail.stop_when, "loss > 2 after step 10");
    let evidence = detail.cause.unwrap().evidence.join("\n");
    assert!(evidence.contains("SIGTERM"), "{evidence}");
    let output = a.logs(&view.experiments[1].id);
    assert!(output.ends_with("saved\n"), "it had its grace: {output}");
}

#[test]
fn a_label_of_each_node_is_its_name() {
    let lab = Lab::new();
    let [a, ..] = lab.three();
    let reply: SubmitReply = a.ask(&["run", "--no-source", "--constraint", "node=b", "--", "true"]);
    let detail = a.wait_end(&reply.id);
    assert_eq!(detail.attempts[0].nodes[0].name, "b");
}
