//! Commands and requests with their answers.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{PATIENCE, lock, pause};

/// How a command went.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Output {
    /// The standard output of a command that succeeded.
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// The standard error of a command that failed with `code`.
    pub(crate) fn failure(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        self.err
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command, what: &str) -> Output {
    run_within(PATIENCE, command, what)
}

/// Runs a command that may take longer than others.
pub(crate) fn run_within(patience: Duration, command: &mut Command, what: &str) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started");
    let out = Reading::start(child.stdout.take().expect("a pipe"));
    let err = Reading::start(child.stderr.take().expect("a pipe"));
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait().expect("its end can be asked for") {
            break status;
        }
        assert!(
            Instant::now() < deadline,
            "waited {patience:?} in vain: {what}; it said {:?} and {:?}",
            out.so_far(),
            err.so_far()
        );
        pause();
    };
    Output {
        code: status.code().unwrap_or(-1),
        out: out.whole(),
        err: err.whole(),
    }
}

/// What comes through a pipe, read by a thread so that the writer never waits.
struct Reading {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Reading {
    fn start(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            loop {
                match pipe.read(&mut buffer).expect("a pipe can be read") {
                    0 => return,
                    length => lock(&shared).extend_from_slice(&buffer[..length]),
                }
            }
        });
        Self { bytes, reader }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&lock(&self.bytes)).into_owned()
    }

    fn whole(self) -> String {
        let bytes = Arc::clone(&self.bytes);
        self.reader.join().expect("the output is read");
        String::from_utf8_lossy(&lock(&bytes)).into_owned()
    }
}

/// The text of a file; nothing if there is none.
pub(crate) fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// One request and its answer, by hand: what a test sends is what it says.
pub(super) fn exchange(
    mut stream: impl Read + std::io::Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str("Host: localhost\r\n");
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    stream
        .write_all(request.as_bytes())
        .expect("the request is sent");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the answer is read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// What lies in a directory, sorted; nothing if there is none.
pub(crate) fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect(); // gone meanwhile
    paths.sort();
    paths
}
