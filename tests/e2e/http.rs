//! The HTTP interface over TCP: who may come, and from where.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use service::view::{
    CallerView, ErrorView, LedgerEntryView, LedgerHead, TokenCreated, UserTokenView,
};

use crate::harness::{Lab, Node, PATIENCE, run, skip, wait_until};

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

/// A request that may change something.
struct Change {
    method: &'static str,
    /// As in the document.
    route: &'static str,
    /// What stands for the part in braces: nothing that there is, so that also who may ask changes nothing by it.
    part: &'static str,
    body: &'static str,
    /// The least role that may ask.
    needed: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Viewer,
    Member,
    Admin,
}

const fn change(
    method: &'static str,
    route: &'static str,
    part: &'static str,
    body: &'static str,
    needed: Role,
) -> Change {
    Change {
        method,
        route,
        part,
        body,
        needed,
    }
}

/// No blob has this hash.
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Every route that is not only read; the document says whether one is missing.
const CHANGES: [Change; 33] = [
    change(
        "POST",
        "/experiments",
        "",
        r#"{"command":["true"]}"#,
        Role::Member,
    ),
    change(
        "POST",
        "/experiments/{id}/stop",
        "no-such",
        "",
        Role::Member,
    ),
    change(
        "POST",
        "/experiments/{id}/move",
        "no-such",
        r#"{"queue":"default"}"#,
        Role::Member,
    ),
    change(
        "POST",
        "/experiments/{id}/accept",
        "no-such",
        "",
        Role::Member,
    ),
    change(
        "POST",
        "/experiments/{id}/metrics",
        "no-such",
        r#"{"points":[{"name":"loss","value":1}]}"#,
        Role::Member,
    ),
    change(
        "PUT",
        "/experiments/{id}/artifacts",
        "no-such",
        "",
        Role::Member,
    ),
    change("PUT", "/blobs/{hash}", NO_HASH, "", Role::Member),
    change("POST", "/blobs/batch", "", "", Role::Member),
    change(
        "POST",
        "/blobs/missing",
        "",
        r#"{"hashes":[]}"#,
        Role::Member,
    ),
    change("POST", "/queues", "", r#"{"name":"q"}"#, Role::Admin),
    change("POST", "/nodes/{id}/drain", "no-such", "{}", Role::Admin),
    change("POST", "/nodes/{id}/undrain", "no-such", "", Role::Admin),
    change(
        "POST",
        "/nodes/{id}/pin",
        "no-such",
        r#"{"role":"worker"}"#,
        Role::Admin,
    ),
    change("POST", "/nodes/{id}/remove", "no-such", "{}", Role::Admin),
    change("POST", "/join-tokens", "", "{}", Role::Admin),
    change(
        "POST",
        "/user-tokens",
        "",
        r#"{"user":"x","role":"admin"}"#,
        Role::Admin,
    ),
    change("DELETE", "/tokens/{id}", "t-00000000", "", Role::Admin),
    change("DELETE", "/users/{name}", "nobody", "", Role::Admin),
    change(
        "POST",
        "/experiments/{id}/hold",
        "no-such",
        "{}",
        Role::Member,
    ),
    change(
        "POST",
        "/experiments/{id}/release",
        "no-such",
        "",
        Role::Member,
    ),
    change(
        "POST",
        "/experiments/{id}/order",
        "no-such",
        r#"{"place":"first"}"#,
        Role::Member,
    ),
    change(
        "POST",
        "/experiments/{id}/priority",
        "no-such",
        r#"{"priority":1}"#,
        Role::Member,
    ),
    change("POST", "/queues/{name}/pause", "no-such", "{}", Role::Admin),
    change("POST", "/queues/{name}/resume", "no-such", "", Role::Admin),
    change("POST", "/queues/{name}/shape", "no-such", "{}", Role::Admin),
    change(
        "POST",
        "/nodes/{id}/label",
        "no-such",
        r#"{"labels":{}}"#,
        Role::Admin,
    ),
    change(
        "POST",
        "/nodes/{id}/reserve",
        "no-such",
        r#"{"user":"x","for_ms":1000}"#,
        Role::Admin,
    ),
    change("POST", "/nodes/{id}/unreserve", "no-such", "", Role::Admin),
    change(
        "POST",
        "/users/{name}/weight",
        "nobody",
        r#"{"weight":0}"#,
        Role::Admin,
    ),
    change(
        "POST",
        "/experiments/{id}/clone",
        "no-such",
        "{}",
        Role::Member,
    ),
    change(
        "POST",
        "/experiments/{id}/rerun",
        "no-such",
        "{}",
        Role::Member,
    ),
    change(
        "POST",
        "/groups",
        "",
        r#"{"experiment":{"command":["true"]},"sweep":"a=1,2"}"#,
        Role::Member,
    ),
    change("POST", "/groups/{id}/stop", "g-no-such", "", Role::Member),
];

impl Change {
    fn path(&self) -> String {
        let parts = self.route.split('/').map(|part| {
            if part.starts_with('{') {
                self.part
            } else {
                part
            }
        });
        format!("/api/v1{}", parts.collect::<Vec<_>>().join("/"))
    }

    fn ask(&self, node: &Node, headers: &[(&str, &str)]) -> (u16, String) {
        let headers = [headers, &[JSON]].concat();
        node.http(self.method, &self.path(), &headers, self.body)
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.route)
    }
}

#[test]
fn every_route_of_the_document_that_changes_something_is_in_the_table_of_roles() {
    let lab = Lab::new();
    let a = lab.one();
    let document: serde_json::Value =
        serde_json::from_str(&a.get("/api/v1/openapi.json").1).unwrap();
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let route = path.strip_prefix("/api/v1").unwrap();
        for (method, _) in item.as_object().unwrap() {
            if ["post", "put", "patch", "delete"].contains(&method.as_str()) {
                found.insert(format!("{} {route}", method.to_uppercase()));
            }
        }
    }
    let known: BTreeSet<_> = CHANGES.iter().map(Change::name).collect();
    let missing: Vec<_> = found.difference(&known).collect();
    assert!(missing.is_empty(), "not in CHANGES: {missing:?}");
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(gone.is_empty(), "not in the document: {gone:?}");
}

fn token(node: &Node, arguments: &[&str]) -> (String, String) {
    let whole = [&["user", "add"], arguments].concat();
    let token: TokenCreated = node.ask(&whole);
    (token.id, format!("Bearer {}", token.token))
}

/// The log index that a current answer reflects.
fn applied_index(node: &Node) -> u64 {
    let mut stream = UnixStream::connect(&node.socket).unwrap();
    let request = format!("GET {EXPERIMENTS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let index = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-muster-index: "));
    index
        .and_then(|index| index.parse().ok())
        .expect("an index")
}

fn ledger_length(node: &Node) -> u64 {
    let head: LedgerHead = serde_json::from_str(&node.get("/api/v1/ledger/head").1).unwrap();
    head.length
}

#[test]
fn roles_are_checked_before_anything_is_proposed() {
    let lab = Lab::new();
    let a = lab.one();
    let (_, viewer) = token(&a, &["eve", "--role", "viewer"]);
    let (_, member) = token(&a, &["ada", "--role", "member"]);
    // The first use of a token is told to the cluster: not to be taken for the effect of a refused request.
    for bearer in [&viewer, &member] {
        assert_eq!(
            a.http("GET", EXPERIMENTS, &[("Authorization", bearer)], "")
                .0,
            200
        );
    }
    wait_until(PATIENCE, "the uses are noted", || {
        let tokens: Vec<UserTokenView> = a.ask(&["user", "ls"]);
        let noted = tokens.iter().all(|token| token.last_used_at.is_some());
        noted.then_some(())
    });
    let before = ledger_length(&a);
    // The node itself may write something now and then, but not each time.
    wait_until(PATIENCE, "refusals leave the log alone", || {
        let index = applied_index(&a);
        refuse_all_changes(&a, &viewer, &member);
        (applied_index(&a) == index).then_some(())
    });
    let (status, said) = a.http(
        "GET",
        "/api/v1/join-tokens",
        &[("Authorization", &member)],
        "",
    );
    assert_eq!((status, code(&said).as_str()), (403, "not-allowed"));
    assert_eq!(ledger_length(&a), before);
    assert_eq!(a.list().len(), 0);
}

fn refuse_all_changes(a: &Node, viewer: &str, member: &str) {
    for change in &CHANGES {
        let name = change.name();
        for (role, bearer) in [(Role::Viewer, viewer), (Role::Member, member)] {
            if role >= change.needed {
                continue;
            }
            let (status, said) = change.ask(a, &[("Authorization", bearer)]);
            assert_eq!(status, 403, "a {role:?}'s {name}: {said}");
            let known = ["read-only", "not-allowed"].contains(&code(&said).as_str());
            assert!(known, "a {role:?}'s {name}: {said}");
        }
        let (status, said) = change.ask(a, &[]);
        assert_eq!(
            (status, code(&said).as_str()),
            (401, "token-needed"),
            "{name}"
        );
    }
}

#[test]
fn whoever_has_the_role_is_heard_and_a_wrong_token_never() {
    let lab = Lab::new();
    let a = lab.one();
    let (_, viewer) = token(&a, &["eve", "--role", "viewer"]);
    let (_, member) = token(&a, &["ada", "--role", "member"]);
    let (id, admin) = token(&a, &["ben", "--role", "admin"]);
    let roles = [
        (Role::Viewer, &viewer),
        (Role::Member, &member),
        (Role::Admin, &admin),
    ];
    for change in &CHANGES {
        for (role, bearer) in roles {
            let (status, said) = change.ask(&a, &[("Authorization", bearer)]);
            let heard = status != 401 && status != 403;
            assert_eq!(
                heard,
                role >= change.needed,
                "a {role:?}'s {}: {status} {said}",
                change.name()
            );
            assert!(status < 500, "{}: {status} {said}", change.name());
        }
    }
    // What they submitted ends before: that is nobody's doing later.
    for submitted in a.list() {
        a.wait_end(&submitted.id);
    }
    // What looks like one, and what does not; after some of the first kind this address is locked out.
    let guess = format!("Bearer mt1.{id}.{}", "0".repeat(64));
    let before = ledger_length(&a);
    for change in &CHANGES {
        for wrong in [guess.as_str(), "Bearer mt1", "Basic YTpi"] {
            let (status, said) = change.ask(&a, &[("Authorization", wrong)]);
            let refused = status == 401 || status == 429 && code(&said) == "locked-out";
            assert!(refused, "{} with {wrong}: {status} {said}", change.name());
        }
    }
    let told: Vec<LedgerEntryView> = a.ask(&["audit", "--limit", "100"]);
    let told = told.iter().filter(|entry| entry.sequence >= before);
    let others: Vec<_> = told
        .filter(|entry| entry.action != "entry-refused")
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn a_member_stops_own_experiments_only_and_no_refusal_reaches_the_log() {
    let lab = Lab::new();
    let a = lab.one();
    let id = a.submit(&["--cpus", "1000", "--", "true"]);
    let (_, member) = token(&a, &["ada"]);
    let stop = format!("{EXPERIMENTS}/{id}/stop");
    let (status, said) = a.http("POST", &stop, &[("Authorization", &member)], "");
    assert_eq!(
        (status, code(&said).as_str()),
        (403, "not-allowed"),
        "{said}"
    );
    assert_eq!(a.show(&id).summary.state, "queued");
}

#[test]
fn no_page_of_another_site_changes_or_reads_anything() {
    let lab = Lab::new();
    let a = lab.one();
    let (_, admin) = token(&a, &["ada", "--role", "admin"]);
    let before = ledger_length(&a);
    let auth = ("Authorization", admin.as_str());
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let multipart = ("Content-Type", "multipart/form-data; boundary=x");
    let text = ("Content-Type", "text/plain");
    let cross = ("Sec-Fetch-Site", "cross-site");
    let null = ("Origin", "null");
    for change in &CHANGES {
        let name = change.name();
        for foreign in [cross, null, ("Origin", "http://evil.test")] {
            let (status, said) = change.ask(&a, &[auth, foreign]);
            assert_eq!(
                (status, code(&said).as_str()),
                (403, "foreign-origin"),
                "{name} with {foreign:?}"
            );
        }
        // What a form can send is never taken where a body counts.
        if change.method == "POST" && !change.body.is_empty() {
            for kind in [form, multipart, text] {
                let (status, said) = a.http("POST", &change.path(), &[auth, kind], change.body);
                assert_eq!(
                    (status, code(&said).as_str()),
                    (415, "json-needed"),
                    "{name} with {kind:?}"
                );
            }
        }
    }
    // An image, a link, a script: GET has no Origin, but the browser says who caused it.
    let (status, _) = a.http("GET", EXPERIMENTS, &[auth, cross], "");
    assert_eq!(status, 403);
    let (status, _) = a.http("GET", EXPERIMENTS, &[auth, ("Sec-Fetch-Site", "none")], "");
    assert_eq!(status, 200);
    for name in [
        "evil.test",
        "127.0.0.1.evil.test",
        "localhost.evil.test:80",
        "10.0.0.1",
        "",
    ] {
        let (status, said) = a.http("GET", EXPERIMENTS, &[auth, ("Host", name)], "");
        assert_eq!(
            (status, code(&said).as_str()),
            (421, "wrong-host"),
            "{name}"
        );
    }
    assert_eq!(ledger_length(&a), before);
}

#[test]
fn reading_changes_nothing() {
    let lab = Lab::new();
    let a = lab.one();
    a.submit(&["--cpus", "1000", "--", "true"]);
    let document: serde_json::Value =
        serde_json::from_str(&a.get("/api/v1/openapi.json").1).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let reads = paths.iter().filter(|(_, item)| item["get"].is_object());
    let reads: Vec<_> = reads
        .map(|(path, _)| path.replace("{id}", "x").replace("{hash}", "00"))
        .collect();
    assert!(reads.len() > 10, "{reads:?}");
    let before = ledger_length(&a);
    // The node itself may write something now and then, but not each time.
    wait_until(PATIENCE, "reads leave the log alone", || {
        let index = applied_index(&a);
        for path in &reads {
            if path.contains("backup") {
                continue; // It writes a file of its own, and takes long.
            }
            let (status, body) = a.get(path);
            assert!(status < 500, "{path}: {status} {body}");
        }
        (applied_index(&a) == index).then_some(())
    });
    assert_eq!(ledger_length(&a), before);
}

#[test]
fn guessing_locks_out_and_who_has_a_good_token_does_not_suffer() {
    let lab = Lab::new();
    let a = lab.one();
    let (id, good) = token(&a, &["ada"]);
    let (_, fresh) = token(&a, &["ben"]);
    let ask = |bearer: &str| a.http("GET", EXPERIMENTS, &[("Authorization", bearer)], "");
    assert_eq!(ask(&good).0, 200);
    let guess = format!("Bearer mt1.{id}.{}", "0".repeat(64));
    let (status, body) = wait_until(PATIENCE, "a lock-out", || {
        let (status, body) = ask(&guess);
        (status != 401).then_some((status, body))
    });
    assert_eq!(
        (status, code(&body).as_str()),
        (429, "locked-out"),
        "{body}"
    );
    assert_eq!(
        ask(&fresh).0,
        429,
        "a token that never worked here may be a guess"
    );
    assert_eq!(ask(&good).0, 200);
    assert_eq!(a.get(EXPERIMENTS).0, 200, "the socket needs no token");
    let told = wait_until(PATIENCE, "the ledger tells of it", || {
        let entries: Vec<LedgerEntryView> = a.ask(&["audit", "--limit", "100"]);
        let found = entries
            .into_iter()
            .find(|entry| entry.action == "entry-refused");
        found.map(|entry| entry.detail)
    });
    assert!(
        told.contains("user tokens") && told.contains("127.0.0.1"),
        "{told}"
    );
    assert!(
        !told.contains(&id) && !a.log().contains(&"0".repeat(64)),
        "no token is written down"
    );
    // A revoked token is not good because it was.
    a.muster(&["token", "revoke", &id]).success();
    assert_ne!(ask(&good).0, 200);
}

#[test]
fn user_tokens_end_by_time_by_removal_and_are_listed_without_their_secrets() {
    let lab = Lab::new();
    let a = lab.one();
    let (_, short) = token(&a, &["ada", "--expires", "2s"]);
    let (_, long) = token(&a, &["ada"]);
    let (_, bens) = token(&a, &["ben", "--never-expires", "--role", "viewer"]);
    let ask = |bearer: &str, path: &str| a.http("GET", path, &[("Authorization", bearer)], "");
    let status = wait_until(PATIENCE, "the token expires", || {
        let (status, body) = ask(&short, EXPERIMENTS);
        (status != 200).then(|| (status, code(&body)))
    });
    assert_eq!(status, (401, "token-expired".to_owned()));
    assert_eq!(ask(&long, EXPERIMENTS).0, 200);
    let (_, text) = a.get("/api/v1/user-tokens");
    let all: Vec<UserTokenView> = serde_json::from_str(&text).unwrap();
    assert_eq!(all.iter().filter(|token| token.user == "ada").count(), 2);
    assert!(
        all.iter().any(|token| token.expired) && all.iter().any(|token| token.expires_at.is_none())
    );
    for bearer in [&short, &long, &bens] {
        let secret = bearer.rsplit('.').next().unwrap();
        assert!(!text.contains(secret));
        let stored = run(
            std::process::Command::new("grep")
                .args(["-r", "-c", secret])
                .arg(a.data()),
            "grep",
        );
        assert!(
            !stored.out.lines().any(|line| !line.ends_with(":0")),
            "a secret is on disk: {stored:?}"
        );
    }
    // Others see only their own.
    let own: Vec<UserTokenView> =
        serde_json::from_str(&ask(&bens, "/api/v1/user-tokens").1).unwrap();
    assert!(own.len() == 1 && own[0].user == "ben", "{own:?}");
    let me: CallerView = serde_json::from_str(&ask(&bens, "/api/v1/me").1).unwrap();
    assert_eq!((me.user.as_str(), me.role.as_str()), ("ben", "viewer"));
    a.muster(&["user", "remove", "ada"]).success();
    assert_eq!(ask(&long, EXPERIMENTS).0, 401);
    assert_eq!(ask(&bens, EXPERIMENTS).0, 200);
    let said = a.muster(&["user", "remove", "ada"]).failure(1);
    assert!(said.contains("has no token"), "{said}");
}

#[test]
fn beyond_loopback_the_api_needs_a_token_and_speaks_tls() {
    let lab = Lab::new();
    let a = lab.machine("a");
    let beyond = ["--api-address", "0.0.0.0"];
    let said = a.up_in_vain(&[&["--new"][..], &beyond].concat()).failure(1);
    assert!(
        said.contains("nobody has a user token") && said.contains("muster user add"),
        "{said}"
    );
    a.up(&[]);
    let (_, member) = token(&a, &["ada"]);
    let member = member.strip_prefix("Bearer ").unwrap();
    a.terminate();
    a.up(&beyond);
    let port: u16 = a.printed_word("https://0.0.0.0:").parse().unwrap();
    let url = format!("https://127.0.0.1:{port}");
    let pin = format!("sha256:{}", a.printed_word("sha256:"));
    let client = |extra: &[&str]| {
        let mut command = a.program();
        command
            .env("MUSTER_TOKEN", member)
            .args(["--node", &url])
            .args(extra);
        run(&mut command, "a client over TLS")
    };
    let said = client(&["ls"]).failure(1);
    assert!(said.contains("--pin"), "{said}");
    client(&["--pin", &pin, "ls"]).success();
    let certificate = a.data().join("api.crt");
    client(&["--ca", certificate.to_str().unwrap(), "ls"]).success();
    let other = format!("sha256:{}", "0".repeat(64));
    let said = client(&["--pin", &other, "ls"]).failure(1);
    assert!(
        said.contains("fingerprint") && said.contains("between"),
        "{said}"
    );
    // Plain text gets no answer, and the certificate stays the same.
    let mut plain = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer)); // a reset will do
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    a.terminate();
    std::fs::set_permissions(
        a.data().join("api.key"),
        std::fs::Permissions::from_mode(0o640),
    )
    .unwrap();
    let said = a.up_in_vain(&beyond).failure(1);
    assert!(
        said.contains("api.key") && said.contains("chmod 600"),
        "{said}"
    );
    std::fs::set_permissions(
        a.data().join("api.key"),
        std::fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    a.up(&beyond);
    assert!(pin.ends_with(&a.printed_word("sha256:")));
}

/// Row 52 of the table of faults. Only root can be somebody else.
#[test]
fn another_user_of_the_machine_only_reads_and_has_no_way_in_by_tcp() {
    if !rustix::process::geteuid().is_root() {
        skip("only root can act as another user");
        return;
    }
    let lab = Lab::new();
    let a = lab.one();
    // The other one must reach the socket and the program.
    std::fs::set_permissions(lab.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = lab.path().join("muster");
    std::fs::copy(env!("CARGO_BIN_EXE_muster"), &program).unwrap();
    let as_other = |arguments: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", "/nonexistent")
            .args(["--reuid", "4711", "--regid", "4711", "--clear-groups"])
            .arg(&program)
            .args(arguments);
        run(&mut command, "muster of another user")
    };
    let socket = a.socket.display().to_string();
    let me = as_other(&["--node", &socket, "user"]).success();
    assert!(me.contains("viewer") && me.contains("uid-4711"), "{me}");
    as_other(&["--node", &socket, "nodes"]).success();
    let said = as_other(&["--node", &socket, "run", "--no-source", "--", "true"]).failure(1);
    assert!(said.contains("viewer"), "{said}");
    for refused in [
        &["token", "new"][..],
        &["user", "add", "me", "--role", "admin"],
        &["token", "ls"],
    ] {
        let said = as_other(&[&["--node", &socket], refused].concat()).failure(1);
        assert!(said.contains("administrator"), "{said}");
    }
    let url = format!("http://{}", a.tcp());
    let said = as_other(&["--node", &url, "nodes"]).failure(1);
    assert!(said.contains("token"), "{said}");
    // Nor do the node's files tell anything.
    for file in ["node.key", "cluster.key"] {
        let mut command = std::process::Command::new("setpriv");
        command
            .args([
                "--reuid",
                "4711",
                "--regid",
                "4711",
                "--clear-groups",
                "cat",
            ])
            .arg(a.data().join(file));
        let read = run(&mut command, "cat");
        assert!(read.code != 0 && read.out.is_empty(), "others read {file}");
    }
    assert_eq!(a.list().len(), 0);
}
