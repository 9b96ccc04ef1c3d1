//! Clients that go on whatever happens: requests over a node's Unix socket, and what is known of each afterwards.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// An answer that takes longer is taken for none. A node waits up to 10 s for a leader before it refuses.
const PATIENCE: Duration = Duration::from_secs(20);

/// Nanoseconds since boot: one clock for all hosts here.
pub(crate) fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).expect("after boot") * 1_000_000_000
        + u64::try_from(now.tv_nsec).expect("a positive part")
}

/// A good answer.
#[derive(Debug)]
pub(crate) struct Good {
    pub(crate) body: Value,
    /// Log index that it reflects.
    pub(crate) index: u64,
    /// Of a stale one: how old it may be.
    pub(crate) age_ms: u64,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Status 2xx.
    Good(Good),
    /// Status 4xx with its code: it did not happen.
    Refused(String, String),
    /// Status 5xx with its code: it may have happened.
    Unavailable(String, String),
    /// The node was not there: it did not happen.
    NotSent,
    /// The answer was lost: it may have happened.
    Lost,
}

/// One request to a node.
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) key: Option<&'a str>,
    /// The answer must not be older than this log index.
    pub(crate) seen: Option<u64>,
    pub(crate) body: Value,
}

impl<'a> Call<'a> {
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: "GET",
            path,
            key: None,
            seen: None,
            body: Value::Null,
        }
    }

    pub(crate) fn post(path: &'a str, body: Value) -> Self {
        Self {
            method: "POST",
            path,
            key: None,
            seen: None,
            body,
        }
    }

    /// A submission under a key, so that it can be repeated.
    pub(crate) fn submit(key: &'a str, body: Value) -> Self {
        Self {
            method: "POST",
            path: "/api/v1/experiments",
            key: Some(key),
            seen: None,
            body,
        }
    }

    /// Names the request, so that it can be repeated.
    pub(crate) fn key(self, key: &'a str) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    /// A look at what a node has without asking others, but never older than `seen`.
    pub(crate) fn get_stale(path: &'a str, seen: Option<u64>) -> Self {
        Self {
            seen,
            ..Self::get(path)
        }
    }

    /// Sends it and waits for the answer.
    pub(crate) fn send(&self, socket: &Path) -> Answer {
        let Ok(mut stream) = UnixStream::connect(socket) else {
            return Answer::NotSent;
        };
        match self.talk(&mut stream) {
            Ok(text) => understand(&text),
            Err(_) => Answer::Lost,
        }
    }

    fn talk(&self, stream: &mut UnixStream) -> std::io::Result<String> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (method, path) = (self.method, self.path);
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\n");
        if let Some(key) = self.key {
            request += &format!("Idempotency-Key: {key}\r\n");
        }
        if let Some(seen) = self.seen {
            request += &format!("X-Muster-Index: {seen}\r\n");
        }
        let body = if self.body.is_null() {
            String::new()
        } else {
            request += "Content-Type: application/json\r\n";
            self.body.to_string()
        };
        request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// Reads an HTTP answer; one that is cut short is a lost one.
fn understand(text: &str) -> Answer {
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Answer::Lost;
    };
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse::<u16>().ok());
    let header = |wanted: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found
            .next()
            .and_then(|(_, value)| value.parse::<u64>().ok())
    };
    let (Some(status), Ok(value)) = (status, serde_json::from_str::<Value>(body)) else {
        return Answer::Lost;
    };
    let word = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    match status {
        200..300 => Answer::Good(Good {
            body: value,
            index: header("x-muster-index").unwrap_or(0),
            age_ms: header("x-muster-age-ms").unwrap_or(0),
        }),
        400..500 => Answer::Refused(word("code"), word("message")),
        _ => Answer::Unavailable(word("code"), word("message")),
    }
}

/// The body of an experiment that no machine here can run.
pub(crate) fn far(name: &str) -> Value {
    json!({"name": name, "command": ["true"], "resources": {"cpu_milli": 1_000_000}, "queue": queue(0)})
}

/// The body of an experiment that runs a script; a lease of 0 is the cluster's choice.
pub(crate) fn running(name: &str, script: &str, lease_ms: u64) -> Value {
    let lease = (lease_ms > 0).then_some(lease_ms);
    json!({
        "name": name,
        "command": ["sh", "-c", script],
        "resources": {"cpu_milli": 2_000, "memory_bytes": 64 << 20},
        "retries_node_lost": 1_000,
        "stop_grace_ms": 1_000,
        "lease_ms": lease,
    })
}

/// The queue with this number.
pub(crate) fn queue(number: u8) -> String {
    format!("q{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_what_is_known_afterwards() {
        let said = |status: &str, body: &str| {
            understand(&format!(
                "HTTP/1.1 {status}\r\nX-Muster-Age-Ms: 7\r\nx-muster-index: 8\r\n\r\n{body}"
            ))
        };
        assert!(
            matches!(said("200 OK", "{}"), Answer::Good(good) if (good.age_ms, good.index) == (7, 8))
        );
        assert!(matches!(said("200 OK", "{\"cut\":"), Answer::Lost));
        assert!(
            matches!(said("409 C", "{\"code\":\"x\"}"), Answer::Refused(code, _) if code == "x")
        );
        assert!(
            matches!(said("503 U", "{\"code\":\"y\"}"), Answer::Unavailable(code, _) if code == "y")
        );
        assert!(matches!(understand("HTTP/1.1 200 OK\r\n"), Answer::Lost));
    }
}
