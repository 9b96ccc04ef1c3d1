//! Artifacts: sent while an experiment runs, by itself and by its owner, and kept with what it leaves.

use std::fs;
use std::path::Path;

use service::view::{ErrorView, OutputsView};

use crate::harness::{Lab, Node, PATIENCE, wait_until};

/// Sends a plot of itself and says how it went, then waits.
const SENDER: &str = r#"
import json, os, sys, time, urllib.error, urllib.parse, urllib.request
def send(name, content, token=os.environ["MUSTER_TOKEN"]):
    url = os.environ["MUSTER_API"] + "/experiments/self/artifacts?name=" + urllib.parse.quote(name, "")
    request = urllib.request.Request(url, content, {"Authorization": "Bearer " + token}, method="PUT")
    try:
        return json.loads(urllib.request.urlopen(request).read())["path"]
    except urllib.error.HTTPError as error:
        return str(error.code) + " " + json.loads(error.read())["code"]
print(send("plots/loss.png", b"first"))
print(send("plots/loss.png", b"\x89PNG second"))
print(send("../order", b"x"))
print(send("plots", b"x"))
print("ready", flush=True)
while not os.path.exists(sys.argv[1]): time.sleep(0.05)
sys.exit(1)
"#;

/// Both are fetched as they were sent last.
fn expect_fetched(node: &Node, id: &str, to: &Path, table: &Path) {
    node.muster(&["get", id, "--to", to.to_str().unwrap()])
        .success();
    let plot = fs::read(to.join("artifacts/plots/loss.png")).unwrap();
    assert_eq!(plot, b"\x89PNG second");
    let copy = fs::read(to.join("artifacts/tables/all.csv")).unwrap();
    assert_eq!(copy, fs::read(table).unwrap());
}

#[test]
fn artifacts_of_a_job_and_of_its_owner_are_kept_with_its_outputs() {
    let lab = Lab::new();
    let [a, b, c] = lab.three();
    let release = lab.path().join("release");
    let id = a.submit(&[
        "--constraint",
        "machine=a",
        "--",
        "python3",
        "-c",
        SENDER,
        release.to_str().unwrap(),
    ]);
    let said = wait_until(PATIENCE, "it has sent them", || {
        let said = a.logs(&id);
        said.contains("ready").then_some(said)
    });
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        "artifacts/plots/loss.png",
        "artifacts/plots/loss.png",
        "400 bad-name",
        "400 bad-artifact",
        "ready",
    ];
    assert_eq!(lines, expected);
    // Its owner, through another node.
    let table = lab.path().join("table.csv");
    fs::write(&table, "a,b\n1,2\n".repeat(100_000)).unwrap();
    let said = b
        .muster(&[
            "artifact",
            &id,
            table.to_str().unwrap(),
            "--name",
            "tables/all.csv",
        ])
        .success();
    assert!(said.contains("muster get"), "{said}");
    // The next node process knows them too.
    a.kill();
    a.up(&[]);
    fs::write(&release, "").unwrap();
    b.wait_end(&id);
    let path = format!("/api/v1/experiments/{id}/outputs");
    let (status, body) = c.get(&path);
    assert_eq!(status, 200, "{body}");
    let view: OutputsView = serde_json::from_str(&body).unwrap();
    let kinds: Vec<(&str, &str)> = view
        .entries
        .iter()
        .map(|entry| (entry.path.as_str(), entry.holds.as_str()))
        .collect();
    let expected = [
        ("artifacts/plots/loss.png", "image"),
        ("artifacts/tables/all.csv", "table"),
    ];
    assert_eq!(kinds, expected);
    expect_fetched(&c, &id, &lab.path().join("to"), &table);
    let late = b
        .muster(&["artifact", &id, table.to_str().unwrap()])
        .failure(1);
    assert!(late.contains("does not run now"), "{late}");
    let (status, body) = b.http_put(
        &format!("/api/v1/experiments/{id}/artifacts?name=a%2F..%2Fb"),
        "x",
    );
    let error: ErrorView = serde_json::from_str(&body).unwrap();
    assert_eq!((status, error.code.as_str()), (400, "bad-name"));
}
