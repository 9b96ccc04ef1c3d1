use clap::Parser as _;

use super::*;
use crate::globals::Globals;
use crate::surroundings::Surroundings;
use crate::test_node::{Answer, Seen, TestNode};

#[derive(Debug, clap::Parser)]
#[command(name = "muster")]
struct Program {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: crate::Command,
}

fn arguments(line: &[&str]) -> Result<Arguments, clap::Error> {
    let words = ["muster", "run"].iter().chain(line);
    match Program::try_parse_from(words)?.command {
        crate::Command::Run(arguments) => Ok(*arguments),
        other => panic!("{other:?}"),
    }
}

const REPLY: &str = r#"{"id":"0a1b2c3d","name":"digits","index":7,"learned":[],"warnings":[]}"#;

#[test]
fn the_command_keeps_its_own_flags() {
    let arguments = arguments(&["--gpus", "0.5", "--", "python3", "-u", "--lr", "1"]).unwrap();
    assert_eq!(arguments.command, ["python3", "-u", "--lr", "1"]);
    assert_eq!(arguments.needs.gpus, Some(500));
}

#[test]
fn an_unknown_flag_is_a_usage_error_and_no_command() {
    let error = arguments(&["--gpsu", "1", "--", "x"]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--gpus"), "{error}");
    for bad in [
        &["--memory", "lots", "--", "x"][..],
        &["--env", "NOVALUE", "--", "x"],
        &["--time", "2", "--", "x"],
        &["--no-source", "--source", "d", "--", "x"],
        &["--stop-when", "loss", "--", "x"],
        &["--samples", "3", "--", "x"],
        &["--sweep", "a=1,2", "--seed", "3", "--", "x"],
        &["--sweep", "a=1,2", "--follow", "--", "x"],
        &[],
    ] {
        assert_eq!(arguments(bad).unwrap_err().exit_code(), 2, "{bad:?}");
    }
}

#[test]
fn every_option_reaches_the_request() {
    let line = "--vram 20GiB --memory 1GiB --cpus 1.5 --disk 5GB --gpu-model A|B --constraint zone=a \
        --name n --queue q --priority -3 --time 2h --retries 2 --retries-node-lost 1 --lease 30s \
        --env A=1 --env B=x=y --param lr=0.1 --stop-when loss>2 --fail-if-impossible -- cmd arg";
    let words: Vec<&str> = line.split_whitespace().collect();
    let request = request::request(&arguments(&words).unwrap(), None, None);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(request.resources.vram_bytes, Some(20 << 30));
    assert_eq!(request.resources.memory_bytes, Some(1 << 30));
    assert_eq!(request.resources.cpu_milli, Some(1_500));
    assert_eq!(request.resources.disk_bytes, Some(5_000_000_000));
    assert_eq!(request.resources.gpu_models, ["A", "B"]);
    assert_eq!(request.resources.constraints, ["zone=a"]);
    assert_eq!(
        (request.name.as_str(), request.queue.as_deref()),
        ("n", Some("q"))
    );
    assert_eq!(
        (request.priority, request.time_limit_ms),
        (-3, Some(7_200_000))
    );
    assert_eq!(
        (request.retries_failed, request.retries_node_lost),
        (Some(2), Some(1))
    );
    assert_eq!(request.lease_ms, Some(30_000));
    assert_eq!(request.variables, [pair("A", "1"), pair("B", "x=y")]);
    assert_eq!(request.stop_when.as_deref(), Some("loss > 2"));
    assert!(request.fail_if_impossible);
    assert_eq!(request.command, ["cmd", "arg"]);
}

#[tokio::test]
async fn a_submission_without_leader_is_asked_again_with_the_same_key() {
    let node = TestNode::serve(|number, _| match number {
        0 => Answer::error(503, "no leader"),
        1 => Answer::new(201, "{").broken(),
        _ => Answer::new(201, REPLY),
    });
    let key = HeaderValue::from_static("k-1");
    let (client, terminal) = (node.client(), Terminal::unseen());
    let bytes = submit(&SubmitRequest::default(), &key, &client, &terminal)
        .await
        .unwrap();
    assert_eq!(bytes, REPLY);
    let seen = node.seen();
    assert_eq!(seen.len(), 3);
    assert!(
        seen.iter()
            .all(|seen| seen.header("idempotency-key") == Some("k-1"))
    );
    assert!(seen.iter().all(|one| one.body == seen[0].body));
}

#[tokio::test]
async fn a_refused_submission_is_asked_once() {
    let node = TestNode::serve(|_, _| Answer::error(400, "no command"));
    let key = HeaderValue::from_static("k-1");
    let (client, terminal) = (node.client(), Terminal::unseen());
    let error = submit(&SubmitRequest::default(), &key, &client, &terminal)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "no command");
    assert_eq!(node.seen().len(), 1);
}

#[test]
fn each_submission_has_a_key_of_its_own_unless_given() {
    let without = arguments(&["--", "x"]).unwrap();
    assert_eq!(without.key, None);
    assert_ne!(key_of(None), key_of(None));
    let with = arguments(&["--key", "mine", "--", "x"]).unwrap();
    assert_eq!(key_of(with.key.as_deref()), "mine");
}

async fn run_against(node: &TestNode, line: &[&str]) -> Result<ExitCode, Error> {
    let session = Session {
        client: node.client(),
        terminal: Terminal::unseen(),
        surroundings: Surroundings {
            uid: 0,
            runtime_directory: None,
            cache_directory: None,
            token: None,
            no_color: true,
        },
    };
    run(arguments(line).unwrap(), &session).await
}

#[tokio::test]
async fn the_code_is_stored_before_the_submission_and_named_in_it() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("train.py"), "print()").unwrap();
    let node = TestNode::serve(|_, seen: &Seen| match seen.line.as_str() {
        "POST /api/v1/blobs/missing" => Answer::new(200, seen.body.clone()),
        "POST /api/v1/blobs/batch" => Answer::new(204, ""),
        _ => Answer::new(201, REPLY),
    });
    let source = directory.path().to_str().unwrap();
    run_against(&node, &["--source", source, "--", "python3", "train.py"])
        .await
        .unwrap();
    let seen = node.seen();
    assert_eq!(seen.last().unwrap().line, "POST /api/v1/experiments");
    let request: SubmitRequest = serde_json::from_slice(&seen.last().unwrap().body).unwrap();
    let source = request.source.unwrap();
    assert_eq!((source.files, source.bytes), (1, 7));
    let batch = &seen[1].body;
    let tree: types::BlobHash = source.tree.parse().unwrap();
    assert!(
        batch.windows(32).any(|bytes| bytes == tree.0),
        "the tree is stored too"
    );
}

#[tokio::test]
async fn following_ends_with_the_exit_code_of_the_experiment() {
    let end = "event: end\ndata: {\"type\":\"end\",\"cause\":{\"kind\":\"exit-code\",\"text\":\"exit code 42\",\"evidence\":[],\"exit_code\":42,\"advice\":[],\"findings\":[]}}\n\n";
    let node = TestNode::serve(move |number, _| match number {
        0 => Answer::new(201, REPLY),
        _ => Answer::new(200, end),
    });
    let code = run_against(&node, &["--no-source", "-f", "--", "x"])
        .await
        .unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(42)));
    assert_eq!(
        node.seen()[1].line,
        "GET /api/v1/experiments/0a1b2c3d/logs?follow=true"
    );
}

#[tokio::test]
async fn execute_reports_errors_by_exit_code_one() {
    let node = TestNode::serve(|_, _| Answer::error(404, "no experiment x"));
    let globals = Globals {
        node: Some(node.path().to_str().unwrap().to_owned()),
        ..Globals::default()
    };
    let parse = |words: &[&str]| Program::try_parse_from(words).unwrap();
    let program = parse(&["muster", "show", "x"]);
    let code = crate::execute(program.command, globals).await;
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
    let program = parse(&["muster", "--node", "/nonexistent/n.sock", "ls"]);
    let code = crate::execute(program.command, program.globals).await;
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
}
