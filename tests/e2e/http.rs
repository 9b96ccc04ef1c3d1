//! The HTTP interface over TCP: who may come, and from where.

use service::view::{ErrorView, TokenCreated};

use crate::harness::Lab;

const EXPERIMENTS: &str = "/api/v1/experiments";
const JSON: (&str, &str) = ("Content-Type", "application/json");

fn code(body: &str) -> String {
    let error: ErrorView = serde_json::from_str(body).expect("errors are JSON");
    assert!(!error.message.is_empty());
    error.code
}

#[test]
fn over_tcp_a_token_is_needed_and_its_role_counts() {
    let lab = Lab::new();
    let a = lab.one();
    let (status, body) = a.http("GET", EXPERIMENTS, &[], "");
    assert_eq!(status, 401, "{body}");
    let error: ErrorView = serde_json::from_str(&body).unwrap();
    assert!(error.hint.contains("muster user token"), "{error:?}");
    let (status, _) = a.http("GET", "/api/v1/health", &[], "");
    assert_eq!(status, 200, "who is only alive needs no token");

    let bearer = |role: &str| {
        let token: TokenCreated = a.ask(&["user", "token", "ada", "--role", role]);
        (token.id, format!("Bearer {}", token.token))
    };
    let (viewer_id, viewer) = bearer("viewer");
    let (_, member) = bearer("member");
    let submit = r#"{"command":["true"],"resources":{"cpu_milli":1000000}}"#;
    let try_submit = |bearer: &str| {
        let headers = [("Authorization", bearer), JSON];
        a.http("POST", EXPERIMENTS, &headers, submit)
    };
    assert_eq!(
        a.http("GET", EXPERIMENTS, &[("Authorization", &viewer)], "")
            .0,
        200
    );
    assert_eq!(try_submit(&viewer).0, 403);
    let (status, body) = try_submit(&member);
    assert_eq!(status, 201, "{body}");
    assert_eq!(a.list()[0].user, "ada");
    let forged = format!("{}0", &member[..member.len() - 1]);
    let forged = if forged == member {
        format!("{}1", &member[..member.len() - 1])
    } else {
        forged
    };
    assert_eq!(try_submit(&forged).0, 401);
    a.muster(&["token", "revoke", &viewer_id]).success();
    assert_eq!(
        a.http("GET", EXPERIMENTS, &[("Authorization", &viewer)], "")
            .0,
        401
    );
    assert_eq!(a.list().len(), 1);
}

#[test]
fn a_foreign_host_or_origin_is_refused() {
    let lab = Lab::new();
    let a = lab.one();
    let token: TokenCreated = a.ask(&["user", "token", "ada"]);
    let bearer = format!("Bearer {}", token.token);
    let with = |headers: &[(&str, &str)]| {
        let mut all = vec![("Authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        let (status, body) = a.http("GET", EXPERIMENTS, &all, "");
        (status, (status != 200).then(|| code(&body)))
    };
    let here = a.tcp();
    assert_eq!(with(&[("Host", &here)]), (200, None));
    assert_eq!(
        with(&[("Host", "evil.example")]),
        (421, Some("wrong-host".to_owned()))
    );
    let own = format!("http://{here}");
    assert_eq!(with(&[("Host", &here), ("Origin", &own)]), (200, None));
    let foreign = with(&[("Host", &here), ("Origin", "http://evil.example")]);
    assert_eq!(foreign, (403, Some("foreign-origin".to_owned())));
    let plain = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "text/plain"),
    ];
    let (status, body) = a.http("POST", EXPERIMENTS, &plain, r#"{"command":["true"]}"#);
    assert_eq!((status, code(&body).as_str()), (415, "json-needed"));
    assert_eq!(a.list().len(), 0);
}

#[test]
fn the_interface_describes_itself() {
    let lab = Lab::new();
    let a = lab.one();
    let (status, body) = a.get("/api/v1/openapi.json");
    assert_eq!(status, 200);
    let document: serde_json::Value = serde_json::from_str(&body).unwrap();
    for path in [
        "/api/v1/experiments",
        "/api/v1/nodes",
        "/api/v1/join-tokens",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert_eq!(code(&a.get("/api/v1/nothing").1), "no-such-route");
}
