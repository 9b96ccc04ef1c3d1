use std::time::Duration;

use super::*;
use crate::terminal::Terminal;
use crate::test_node::{Answer, TestNode};

fn console(sequence: u64, text: &str) -> String {
    format!(
        "id: 1-{sequence}\nevent: console\ndata: {{\"type\":\"console\",\"attempt\":1,\"sequence\":{sequence},\"at\":0,\"stream\":\"stdout\",\"text\":\"{text}\"}}\n\n"
    )
}

const END: &str = "event: end\ndata: {\"type\":\"end\",\"cause\":{\"kind\":\"exit-code\",\"text\":\"exit code 3\",\"evidence\":[],\"exit_code\":3,\"advice\":[],\"findings\":[]}}\n\n";

const FAILURE: &str = "event: error\ndata: {\"code\":\"unavailable\",\"message\":\"the keeper is away\",\"hint\":\"\"}\n\n";

async fn texts(follower: &mut Follower) -> (Vec<String>, Option<i32>) {
    let (mut texts, mut code) = (Vec::new(), None);
    while let Some(read) = follower.next().await.unwrap() {
        match read.item {
            LogItem::Console { text, .. } => texts.push(text),
            LogItem::End { cause } => code = Some(cause.exit_code),
            other => panic!("{other:?}"),
        }
    }
    (texts, code)
}

#[tokio::test]
async fn a_lost_connection_goes_on_after_the_last_record_without_repeating() {
    let node = TestNode::serve(|number, _| match number {
        0 => Answer::new(
            200,
            format!(": hi\n\n{}{}", console(1, "a"), console(2, "b")),
        )
        .broken(),
        1 => Answer::error(503, "no leader"),
        // It goes on one record too early: what was shown is not shown again.
        2 => Answer::new(200, format!("{}{}", console(2, "b"), console(3, "c"))),
        3 => Answer::new(200, FAILURE),
        _ => Answer::new(200, END),
    });
    let mut follower = Follower::new(&node.client(), LogQuery::all_of("x y"), &Terminal::unseen());
    assert_eq!(
        texts(&mut follower).await,
        (vec!["a".into(), "b".into(), "c".into()], Some(3))
    );
    let seen = node.seen();
    assert_eq!(seen.len(), 5);
    assert_eq!(
        seen[0].line,
        "GET /api/v1/experiments/x%20y/logs?follow=true"
    );
    assert_eq!(seen[0].header("accept"), Some("text/event-stream"));
    assert_eq!(seen[0].header("last-event-id"), None);
    assert_eq!(seen[1].header("last-event-id"), Some("1-2"));
    assert_eq!(seen[3].header("last-event-id"), Some("1-3"));
}

#[tokio::test]
async fn a_node_that_stays_away_is_given_up_with_its_error() {
    let node = TestNode::serve(|_, _| Answer::error(503, "no leader"));
    let mut follower = Follower::new(&node.client(), LogQuery::all_of("x"), &Terminal::unseen())
        .with_window(Duration::from_millis(300));
    let error = follower.next().await.unwrap_err();
    assert_eq!(error.to_string(), "no leader");
    assert!(node.seen().len() > 1);

    let node = TestNode::serve(|_, _| Answer::new(200, FAILURE));
    let mut follower = Follower::new(&node.client(), LogQuery::all_of("x"), &Terminal::unseen())
        .with_window(Duration::from_millis(300));
    let error = follower.next().await.unwrap_err();
    assert_eq!(error.to_string(), "the keeper is away");
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let node = TestNode::serve(|_, _| Answer::error(404, "no such experiment"));
    let mut follower = Follower::new(&node.client(), LogQuery::all_of("x"), &Terminal::unseen());
    assert_eq!(
        follower.next().await.unwrap_err().to_string(),
        "no such experiment"
    );
    assert_eq!(node.seen().len(), 1);
}

#[tokio::test]
async fn output_of_now_is_read_line_by_line() {
    let line = r#"{"type":"gap","attempt":1,"bytes":5}"#;
    let node = TestNode::serve(move |_, _| Answer::new(200, format!("{line}\n{line}\n")));
    let query = LogQuery {
        experiment: "x".into(),
        attempt: Some(2),
        rank: None,
        from: Some(9),
        tail: None,
    };
    let mut reader = LogReader::open(&node.client(), &query).await.unwrap();
    let mut count = 0;
    while let Some(read) = reader.next().await.unwrap() {
        assert_eq!(read.json, line);
        count += 1;
    }
    assert_eq!(count, 2);
    assert_eq!(
        node.seen()[0].line,
        "GET /api/v1/experiments/x/logs?follow=false&attempt=2&from=9"
    );
}

#[tokio::test]
async fn an_attempt_that_is_asked_for_is_all_that_is_read() {
    let item = |attempt: u32| {
        format!(
            "{{\"type\":\"console\",\"attempt\":{attempt},\"sequence\":0,\"at\":0,\"stream\":\"stdout\",\"text\":\"of {attempt}\"}}"
        )
    };
    let query = LogQuery {
        attempt: Some(1),
        ..LogQuery::all_of("x")
    };
    let (one, two) = (item(1), item(2));
    let node = TestNode::serve(move |number, _| match number {
        0 => Answer::new(200, format!("{one}\n{two}\n")),
        _ => Answer::new(200, format!("data: {one}\n\ndata: {two}\n\n{END}")),
    });
    let client = node.client();
    let mut reader = LogReader::open(&client, &query).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().attempt(), Some(1));
    assert!(reader.next().await.unwrap().is_none());
    let mut follower = Follower::new(&client, query, &Terminal::unseen());
    assert_eq!(texts(&mut follower).await, (vec!["of 1".into()], None));
}
