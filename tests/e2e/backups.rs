//! Backups: taken through any node while it runs, checked, refused when damaged, and made into a cluster again.

use std::fs;
use std::path::Path;

use serde_json::Value;
use service::view::TokenCreated;

use crate::harness::{FAR, Lab, Node, PATIENCE, counting, run, wait_lines, wait_until};

/// A JSON answer of a command.
fn json(node: &Node, arguments: &[&str]) -> Value {
    node.ask(arguments)
}

/// `muster restore` on a machine.
fn restore(node: &Node, file: &Path, more: &[&str]) -> crate::harness::Output {
    let mut command = node.program();
    command.arg("restore").arg(file).args(more);
    command.arg("--data-dir").arg(node.data());
    run(&mut command, "muster restore")
}

fn verify(node: &Node, file: &Path) -> crate::harness::Output {
    node.muster(&["backup", "verify", &file.display().to_string()])
}

#[test]
fn a_backup_through_a_worker_becomes_a_new_cluster_with_everything_in_it() {
    let lab = Lab::new();
    let [a, b, c] = lab.three();
    let worker = lab.machine("d");
    let token: TokenCreated = a.ask(&["token", "new"]);
    worker.up(&["--join", &token.token, "--no-work"]);
    // Long output is sealed into a blob; short output travels in the report.
    let long = b.submit(&["--lease", "5s", "--name", "long", "--", "seq", "1", "3000"]);
    assert_eq!(b.wait_end(&long).summary.state, "finished");
    let stop = lab.path().join("stop");
    let script = counting(&stop);
    let running = c.submit(&["--lease", "5s", "--", "sh", "-c", &script]);
    wait_lines(&a, &running, 3);
    let mut far = vec!["--lease", "5s"];
    far.extend(FAR);
    let waiting = a.submit(&far);

    let file = lab.path().join("all.backup");
    let name = file.display().to_string();
    let made = json(&worker, &["backup", &name, "--with-blobs"]);
    assert_eq!(made["incarnation"], 1, "{made}");
    assert_eq!(made["missing_blobs"], 0, "{made}");
    assert!(made["blobs"].as_u64().unwrap() >= 1, "{made}");
    let checked = json(&a, &["backup", "verify", &name]);
    assert_eq!(checked["hash"], made["hash"]);
    let again = worker.muster(&["backup", &name]).failure(1);
    assert!(again.contains("exists already"), "{again}");
    let ledger = a.muster(&["--json", "ledger"]).success();
    assert!(ledger.contains("backup-taken"), "{ledger}");

    let copy = lab.machine("r");
    let said = restore(&copy, &file, &["--with-blobs"]).success();
    assert!(
        said.contains("new cluster") && said.contains("1 attempts ran"),
        "{said}"
    );
    copy.up(&[]);
    let cluster = copy.cluster();
    assert_eq!((cluster.incarnation, cluster.members), (2, 1));
    assert_ne!(cluster.cluster, a.cluster().cluster);
    assert_eq!(copy.logs(&long), a.logs(&long));
    assert_eq!(copy.show(&waiting).summary.state, "queued");
    copy.muster(&["audit", "verify"]).success();

    let lost = copy.show(&running);
    let cause = lost.attempts[0].cause.as_ref().unwrap();
    assert_eq!(cause.kind, "history-replaced", "{cause:?}");
    // Its lease in the old history may still run: it is held for that long, and then runs here too.
    wait_until(PATIENCE, "it runs in the copy", || {
        (copy.show(&running).attempts.len() == 2).then_some(())
    });
    fs::write(&stop, "").unwrap();
    assert_eq!(copy.wait_end(&running).attempts.len(), 2);
    assert_eq!(
        a.wait_end(&running).attempts.len(),
        1,
        "the original is left alone"
    );
    let new = copy.submit(&["--", "echo", "new"]);
    assert_eq!(copy.wait_end(&new).summary.state, "finished");
    copy.kill();
    copy.up(&[]);
    assert_eq!(copy.logs(&new), "new\n");
}

#[test]
fn only_an_admin_takes_a_backup() {
    let lab = Lab::new();
    let a = lab.one();
    let (status, body) = a.post("/api/v1/user-tokens", r#"{"user":"eve","role":"member"}"#);
    assert_eq!(status, 201, "{body}");
    let token: TokenCreated = serde_json::from_str(&body).unwrap();
    let bearer = format!("Bearer {}", token.token);
    let headers = [("Authorization", bearer.as_str())];
    let (status, body) = a.http("GET", "/api/v1/backup", &headers, "");
    assert_eq!(status, 403, "{body}");
    let (status, _) = a.http("GET", "/api/v1/backup", &[], "");
    assert_eq!(status, 401);
}

#[test]
fn what_cannot_be_restored_is_refused_with_its_reason_and_nothing_is_changed() {
    let lab = Lab::new();
    let a = lab.one();
    let file = lab.path().join("state.backup");
    a.muster(&["backup", &file.display().to_string()]).success();
    let good = fs::read(&file).unwrap();

    let in_use = restore(&a, &file, &[]).failure(1);
    assert!(in_use.contains("in use by a live node"), "{in_use}");
    a.kill();
    let used = restore(&a, &file, &[]).failure(1);
    assert!(used.contains("is not empty"), "{used}");
    a.up(&[]);

    let fresh = lab.machine("r");
    let bad = lab.path().join("bad.backup");
    let refuse = |bytes: &[u8], says: &str| {
        fs::write(&bad, bytes).unwrap();
        for said in [restore(&fresh, &bad, &[]), verify(&a, &bad)] {
            let said = said.failure(1);
            assert!(said.contains(says), "{said} does not say {says}");
        }
        assert!(!fresh.data().join("node.key").exists());
    };
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 4;
    refuse(&damaged, "damaged in part 1, the state");
    refuse(&good[..good.len() - 9], "cut off in what follows part 1");
    let mut newer = good;
    newer[8] = 2;
    refuse(&newer, "has format 2");
    refuse(b"hello", "no backup of muster");
    let blobs = restore(&fresh, &file, &["--with-blobs"]).failure(1);
    assert!(blobs.contains("holds no blobs"), "{blobs}");

    fs::write(fresh.data().join("restoring"), "").unwrap();
    for said in [restore(&fresh, &file, &[]), fresh.up_in_vain(&[])] {
        let said = said.failure(1);
        assert!(said.contains("cut short"), "{said}");
    }
}

#[test]
fn a_cluster_of_one_that_lost_its_disk_goes_on_as_itself_with_its_key() {
    let lab = Lab::new();
    let a = lab.one();
    let id = a.submit(&FAR);
    let file = lab.path().join("state.backup");
    a.muster(&["backup", &file.display().to_string()]).success();
    let cluster = a.cluster().cluster;
    let key = lab.path().join("kept.key");
    fs::copy(a.data().join("cluster.key"), &key).unwrap();
    let key_name = key.display().to_string();
    a.kill();

    let fresh = lab.machine("r");
    let other = lab.machine("o");
    other.up(&["--new"]);
    let foreign = other.data().join("cluster.key").display().to_string();
    let same = ["--same-cluster", "--cluster-key"];
    let wrong = restore(&fresh, &file, &[same[0], same[1], &foreign]).failure(1);
    assert!(wrong.contains("is the key of cluster"), "{wrong}");
    let without = restore(&fresh, &file, &same[..1]).failure(2);
    assert!(without.contains("--cluster-key"), "{without}");
    let said = restore(&fresh, &file, &[same[0], same[1], &key_name]).success();
    assert!(said.contains("restored cluster"), "{said}");
    fresh.up(&[]);
    assert_eq!(
        (fresh.cluster().cluster, fresh.cluster().incarnation),
        (cluster, 2)
    );
    assert_eq!(fresh.list()[0].id, id);
    let again = restore(&fresh, &file, &[]).failure(1);
    assert!(again.contains("in use"), "{again}");
}
