//! Requests that make no sense, by hand and at random: the answer is a refusal in our words, and the node lives.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use service::view::ErrorView;

use crate::harness::{Lab, Node, PATIENCE};

const JSON: &str = "Content-Type: application/json\r\n";

/// Sends bytes as they are and reads until the node closes.
fn send(node: &Node, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(&node.socket).expect("the socket answers");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A node that has answered already need not read the rest.
    drop(stream.write_all(bytes));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    answer
}

fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Status of an answer; its body must be ours if it is an error that one of our routes gave.
fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status: u16 = status.unwrap_or_else(|| panic!("no HTTP: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    if status >= 400 && head.contains("application/json") {
        let view: ErrorView = serde_json::from_str(body).expect("an error in our shape");
        assert!(
            !view.code.is_empty() && !view.message.is_empty(),
            "{view:?}"
        );
        assert!(view.message.len() < 2_000, "an error repeats what was sent");
    }
    status
}

#[test]
fn json_that_is_deep_huge_or_no_text_is_refused() {
    let lab = Lab::new();
    let a = lab.one();
    let deep = "[".repeat(100_000);
    let deep_object = r#"{"a":"#.repeat(100_000);
    let long = format!("1{}", "0".repeat(400));
    let bodies: Vec<Vec<u8>> = [
        deep.as_str(),
        deep_object.as_str(),
        "",
        "{",
        "null",
        "[]",
        "\"x\"",
        r#"{"command":[]}"#,
        r#"{"command":["true"],"priority":NaN}"#,
        r#"{"command":["true"],"priority":1e999}"#,
        r#"{"command":["true"],"priority":2147483648}"#,
        r#"{"command":["true"],"priority":-0.5}"#,
        r#"{"command":["true"],"lease_ms":18446744073709551616}"#,
        r#"{"command":["true"],"lease_ms":-1}"#,
        &format!(r#"{{"command":["true"],"lease_ms":{long}}}"#),
        r#"{"command":["true"],"command":["false"]}"#,
        r#"{"command":["true"],"unknown":1}"#,
        r#"{"command":["a\u0000b"]}"#,
        r#"{"command":["\ud800"]}"#,
        r#"{"command":"true"}"#,
        r#"{"command":["true"],"variables":[["A"]]}"#,
        r#"{"command":["true"],"variables":[["A=B","x"]]}"#,
        r#"{"command":["true"],"working_directory":"../../etc"}"#,
        r#"{"command":["true"],"working_directory":"/etc"}"#,
        r#"{"command":["true"],"queue":"../x"}"#,
        r#"{"command":["true"],"source":{"tree":"zz","files":1,"bytes":1,"revision":"","remote":""}}"#,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([b"{\"command\":[\"\xff\xfe\"]}".to_vec(), vec![0; 1_000]])
    .collect();
    for body in bodies {
        let sent = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = send(&a, &request("POST", "/api/v1/experiments", JSON, &body));
        let status = status(&answer);
        assert!((400..500).contains(&status), "{status} for {sent:?}");
    }
    assert_eq!(a.list().len(), 0, "something of it was taken");
}

#[test]
fn what_is_too_large_is_refused_declared_or_not() {
    let lab = Lab::new();
    let a = lab.one();
    let large = vec![b' '; (1 << 20) + 1];
    let answer = send(&a, &request("POST", "/api/v1/experiments", JSON, &large));
    assert_eq!(status(&answer), 413);
    // Declared far larger than what is sent: refused unread.
    let head = format!(
        "POST /api/v1/experiments HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: 99999999999\r\n\r\n"
    );
    assert_eq!(status(&send(&a, head.as_bytes())), 413);
    let mut chunked = format!(
        "POST /api/v1/experiments HTTP/1.1\r\nHost: x\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for _ in 0..40 {
        chunked.extend_from_slice(b"8000\r\n");
        chunked.extend_from_slice(&[b' '; 0x8000]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(status(&send(&a, &chunked)), 413);
    let header = format!("X-Long: {}\r\n", "x".repeat(200_000));
    assert_eq!(
        status(&send(&a, &request("GET", "/api/v1/nodes", &header, b""))),
        431
    );
    let many = "X: y\r\n".repeat(1_000);
    assert_eq!(
        status(&send(&a, &request("GET", "/api/v1/nodes", &many, b""))),
        431
    );
    let path = format!("/api/v1/{}", "x".repeat(200_000));
    assert!([414, 431].contains(&status(&send(&a, &request("GET", &path, "", b"")))));
    let path = format!("/api/v1/experiments/{}", "x".repeat(30_000));
    assert_eq!(status(&send(&a, &request("GET", &path, "", b""))), 404);
    assert_eq!(a.get("/api/v1/health").0, 200);
}

#[test]
fn what_is_no_http_or_leads_nowhere_is_refused() {
    let lab = Lab::new();
    let a = lab.one();
    for path in [
        "/api/v1/blobs/..%2f..%2fnode.key",
        "/api/v1/blobs/%2e%2e%2fnode.key",
        "/api/v1/blobs/%252e%252e%252fnode.key",
        "/api/v1/blobs/..\\..\\node.key",
        "/api/v1/experiments/%ff%fe",
        "/api/v1/experiments/%00",
        "/api/v1/experiments/x;y",
        "/api/v1/experiments?limit=-1",
        "/api/v1/experiments?limit=18446744073709551616",
        "/api/v1/experiments?consistency=maybe",
        "/api/v1/experiments?nonsense=1",
        "/api/v1/../../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/api/v1/nodes/",
        "//api/v1/nodes",
        "/api/v2/nodes",
    ] {
        let answer = send(&a, &request("GET", path, "", b""));
        let status = status(&answer);
        assert!((400..500).contains(&status), "{status} for {path}");
    }
    for method in [
        "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "XYZZY",
    ] {
        let answer = send(&a, &request(method, "/api/v1/nodes", "", b""));
        assert!((400..500).contains(&status(&answer)), "{method}");
    }
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        b"POST /api/v1/queues HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n",
    ] {
        let answer = send(&a, bytes);
        assert!(
            answer.is_empty() || (400..600).contains(&status(&answer)) && status(&answer) != 500,
            "{bytes:?}: {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(a.get("/api/v1/health").0, 200);
}

/// A sequence of numbers from a seed (`SplitMix64`, Steele et al. 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let rolled = (mixed ^ (mixed >> 31)) % sides as u64;
        usize::try_from(rolled).expect("less than the sides")
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

/// What stands where a route has a part of its own, or a value.
const WORDS: &[&str] = &[
    "",
    "x",
    "0",
    "-1",
    "18446744073709551616",
    "1e309",
    "NaN",
    "null",
    "true",
    "%00",
    "%ff",
    "..",
    "%2e%2e%2f",
    "a%20b",
    "ä",
    "'",
    "\\",
    "{}",
    "[]",
    "00000000",
    "default",
    "t-00000000",
    "ab12",
    "%F0%9F%92%A5",
];

/// Bodies that make some sense to one route or another.
const BODIES: &[&str] = &[
    "",
    "{",
    "{}",
    "[]",
    "null",
    "1",
    "\"x\"",
    r#"{"name":null}"#,
    r#"{"name":"\u0000"}"#,
    r#"{"name":"x","priority":99999999999}"#,
    r#"{"uses":-1}"#,
    r#"{"uses":0}"#,
    r#"{"expires_in_ms":0}"#,
    r#"{"expires_in_ms":18446744073709551615}"#,
    r#"{"user":"","role":""}"#,
    r#"{"user":"x","role":"root"}"#,
    r#"{"queue":""}"#,
    r#"{"hashes":[""]}"#,
    r#"{"hashes":null}"#,
    r#"{"command":[""]}"#,
    r#"{"command":["true"],"time_limit_ms":18446744073709551615}"#,
];

/// Headers that matter somewhere.
const HEADERS: &[&str] = &[
    "",
    JSON,
    "Content-Type: text/plain\r\n",
    "X-Muster-Index: x\r\n",
    "Idempotency-Key: \r\n",
    "Last-Event-ID: 1-\r\n",
    "Accept: */*\r\n",
    "Authorization: Bearer\r\n",
    "Authorization: Bearer mt1.t-1.x\r\n",
    "Range: bytes=0-\r\n",
    "Expect: 100-continue\r\n",
];

/// Every route of the document with odd values everywhere, from one seed; `MUSTER_FUZZ_SEED` takes another.
#[test]
fn random_requests_to_every_route_are_answered_without_a_fault() {
    const REQUESTS: usize = 1_500;
    let lab = Lab::new();
    let a = lab.one();
    let seed = std::env::var("MUSTER_FUZZ_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut dice = Dice(seed);
    let document = a.get("/api/v1/openapi.json").1;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "post", "put", "patch", "delete"] {
            // A backup takes long and writes a file.
            if item[method].is_object() && !path.contains("backup") {
                routes.push((method.to_uppercase(), path.clone()));
            }
        }
    }
    assert!(routes.len() > 30, "only {} routes", routes.len());
    for number in 0..REQUESTS {
        let (method, path) = dice.pick(&routes).clone();
        let mut path: String = path
            .split('/')
            .map(|part| {
                if part.starts_with('{') {
                    *dice.pick(WORDS)
                } else {
                    part
                }
            })
            .collect::<Vec<_>>()
            .join("/");
        if dice.roll(2) == 0 {
            let name = *dice.pick(&[
                "limit",
                "consistency",
                "state",
                "all",
                "from",
                "attempt",
                "x",
            ]);
            path.push_str(&format!("?{name}={}", dice.pick(WORDS)));
        }
        let kind = format!(
            "{}{}",
            if dice.roll(2) == 0 { JSON } else { "" },
            dice.pick(HEADERS)
        );
        let body = *dice.pick(BODIES);
        let bytes = request(&method, &path, &kind, body.as_bytes());
        let answer = send(&a, &bytes);
        assert!(
            status(&answer) < 500,
            "seed {seed}, request {number}: {:?} got {:?}",
            String::from_utf8_lossy(&bytes),
            String::from_utf8_lossy(&answer)
        );
        a.assert_alive();
    }
    println!(
        "{REQUESTS} requests to {} routes from seed {seed}",
        routes.len()
    );
    assert_eq!(a.get("/api/v1/health").0, 200);
    assert!(!a.log().contains("panicked"), "something panicked");
}
