use super::*;
use crate::test_node::{Answer, TestNode};

#[tokio::test]
async fn a_request_goes_over_the_socket_and_its_answer_comes_back() {
    let node = TestNode::serve(|_, _| Answer::new(200, r#"{"a":1}"#));
    let answer = node.client().get("/nodes?x=1").await.unwrap();
    assert_eq!(answer, r#"{"a":1}"#);
    let seen = &node.seen()[0];
    assert_eq!(seen.line, "GET /api/v1/nodes?x=1");
    assert_eq!(seen.header("host"), Some("localhost"));
    assert_eq!(seen.header("authorization"), None);
}

#[tokio::test]
async fn a_stale_read_says_so() {
    let node = TestNode::serve(|_, _| Answer::new(200, "{}"));
    let mut client = node.client();
    client.stale = true;
    client.get("/nodes").await.unwrap();
    client.get("/ledger?limit=1").await.unwrap();
    let lines: Vec<String> = node.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(
        lines,
        [
            "GET /api/v1/nodes?consistency=stale",
            "GET /api/v1/ledger?limit=1&consistency=stale"
        ]
    );
}

#[tokio::test]
async fn an_error_of_the_node_keeps_its_message_and_hint() {
    let node = TestNode::serve(|_, _| Answer::error(404, "no experiment x"));
    let error = node.client().get("/experiments/x").await.unwrap_err();
    assert_eq!(error.to_string(), "no experiment x");
    assert_eq!(error.hint(), "do this");
    assert!(!error.may_pass());
}

#[tokio::test]
async fn an_answer_that_is_not_of_muster_is_an_error_too() {
    let node = TestNode::serve(|_, _| Answer::new(502, "<html>"));
    let error = node.client().get("/nodes").await.unwrap_err();
    assert!(error.to_string().contains("502"), "{error}");
}

#[tokio::test]
async fn a_broken_answer_may_pass_and_a_missing_node_is_named() {
    let node = TestNode::serve(|_, _| Answer::new(200, "half").broken());
    let error = node.client().get("/nodes").await.unwrap_err();
    assert!(matches!(error, Error::Talk { .. }), "{error:?}");

    let client = Client::at(Address::Socket("/nonexistent/n1.sock".into()));
    let error = client.get("/nodes").await.unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/n1.sock"),
        "{error}"
    );
}

#[tokio::test]
async fn over_tcp_the_token_is_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; 4096];
        let count = stream.read(&mut request).unwrap();
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .unwrap();
        String::from_utf8_lossy(&request[..count]).to_lowercase()
    });
    let client = Client::at(Address::Tcp {
        authority: authority.clone(),
        token: Some("mt1.abc.def".into()),
        is_tls: false,
    });
    let request = Request::new(Method::DELETE, "/tokens/x".into(), Payload::empty());
    client.ask(request).await.unwrap();
    let request = server.join().unwrap();
    assert!(
        request.starts_with("delete /api/v1/tokens/x http/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains("authorization: bearer mt1.abc.def\r\n"),
        "{request}"
    );
    assert!(
        request.contains(&format!("host: {authority}\r\n")),
        "{request}"
    );
}

#[test]
fn parts_of_paths_cannot_lead_elsewhere() {
    assert_eq!(encode("../x/y"), "..%2Fx%2Fy");
    assert_eq!(encode(".."), "%2E%2E");
    assert_eq!(encode("a-b_1.2"), "a-b_1.2");
    assert_eq!(encode("a\r\nb"), "a%0D%0Ab");
}
