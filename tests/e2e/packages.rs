//! Packages come from the machine's index once, are kept, and are had from the other nodes where no index answers.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::environments::{make_wheel, project};
use crate::harness::{Lab, Node};
use service::view::SubmitReply;

/// A package index of this test's own, as PEP 691 says: it counts what it was asked for, and can be taken away.
struct Served {
    root: PathBuf,
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    listener: TcpListener,
}

impl Served {
    /// Serves the wheels below `root`.
    fn new(root: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/simple", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (own, answers, files) = (
            listener.try_clone().unwrap(),
            Arc::clone(&asked),
            root.clone(),
        );
        std::thread::spawn(move || {
            for stream in own.incoming() {
                let Ok(stream) = stream else { return };
                answer(stream, &files, &answers);
            }
        });
        Self {
            root,
            url,
            asked,
            listener,
        }
    }

    fn asked_for(&self, end: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|path| path.ends_with(end)).count()
    }

    /// From now on nobody listens there.
    fn take_away(self) {
        let address = self.listener.local_addr().unwrap();
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).unwrap();
        drop(self.listener);
        assert!(TcpStream::connect(address).is_err(), "nobody listens");
    }
}

/// Answers one request: the page of a project, or a file.
fn answer(mut stream: TcpStream, root: &Path, asked: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut line = String::from("x");
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    asked.lock().unwrap().push(path.clone());
    let place = root.join(path.trim_matches('/'));
    let (status, kind, body) = if place.is_file() {
        (
            "200 OK",
            "application/octet-stream",
            fs::read(&place).unwrap(),
        )
    } else if place.is_dir() {
        let kind = "application/vnd.pypi.simple.v1+json";
        ("200 OK", kind, page(&place).into_bytes())
    } else {
        ("404 Not Found", "text/plain", Vec::new())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Files beside their hashes, as [`make_wheel`] has written them into the page for people.
fn page(directory: &Path) -> String {
    let links = fs::read_to_string(directory.join("index.html")).unwrap();
    let file = |link: &str| {
        let (name, rest) = link.strip_prefix("<a href=")?.split_once("#sha256=")?;
        let hash = &rest[..64];
        Some(format!(
            "{{\"filename\":\"{name}\",\"url\":\"{name}\",\"hashes\":{{\"sha256\":\"{hash}\"}}}}"
        ))
    };
    let files: Vec<String> = links.lines().filter_map(file).collect();
    format!("{{\"files\":[{}]}}", files.join(","))
}

fn told(mut node: Node, url: &str) -> Node {
    node.variables
        .push(("PIP_INDEX_URL".to_owned(), url.to_owned()));
    node
}

/// Runs the program of a project on one node.
fn run_on(node: &Node, asked: &Node, directory: &Path) -> String {
    let directory = directory.to_str().unwrap();
    let place = format!("machine={}", node.name);
    let line = [
        "run",
        "--source",
        directory,
        "--constraint",
        &place,
        "--",
        "python",
        "show.py",
    ];
    asked.ask::<SubmitReply>(&line).id
}

#[test]
fn a_node_without_an_index_builds_from_what_the_others_have_kept() {
    let lab = Lab::new();
    let served = Served::new(lab.path().join("index"));
    let hash = make_wheel(&served.root, "tiny", "1.0");
    let a = told(lab.machine("a"), &served.url);
    a.up(&["--new"]);
    // A node whose index setting points to nowhere.
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nowhere.local_addr().unwrap();
    drop(nowhere);
    let b = told(lab.machine("b"), &format!("http://{address}/simple"));
    b.up(&["--join", &a.first_token()]);

    let pinned = project(&lab, "pinned", &format!("tiny==1.0 --hash=sha256:{hash}\n"));
    let first = a.wait_end(&run_on(&a, &a, &pinned));
    assert_eq!(first.summary.state, "finished", "{first:?}");
    assert_eq!(served.asked_for(".whl"), 1);
    // The same package for another environment: it is kept.
    let open = project(&lab, "open", "tiny\n");
    let second = a.wait_end(&run_on(&a, &a, &open));
    assert_eq!(second.summary.state, "finished", "{second:?}");
    assert_eq!(served.asked_for(".whl"), 1, "not fetched again");
    served.take_away();

    for directory in [&pinned, &open] {
        let id = run_on(&b, &a, directory);
        let detail = a.wait_end(&id);
        let said = a.muster(&["logs", &id]);
        assert_eq!(detail.summary.state, "finished", "{detail:?} {said:?}");
        assert_eq!(detail.attempts[0].nodes[0].name, "b");
        assert!(a.logs(&id).starts_with("1.0 "), "{said:?}");
    }
    // What nobody has is said to be so, with the reason why it cannot be had.
    let absent = project(&lab, "absent", "tiny\nnever-made\n");
    let id = run_on(&b, &a, &absent);
    let cause = a.wait_end(&id).cause.unwrap();
    assert_eq!(cause.kind, "environment-build", "{cause:?}");
    let evidence = cause.evidence.join("\n");
    assert!(evidence.contains("never-made"), "{evidence}");
    let log = b.log();
    assert!(
        log.contains(
            "never-made is on no machine of the cluster, and the package index does not answer"
        ),
        "{log}"
    );
}
