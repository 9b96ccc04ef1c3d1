//! The history of a cluster: who did what, and that nobody can change it unseen.

use std::fs;

use service::view::{LedgerEntryView, LedgerHead};

use crate::harness::{Lab, PATIENCE, run, wait_until};

#[test]
fn the_history_is_checked_at_a_node_and_as_a_file_and_one_changed_letter_is_found() {
    let lab = Lab::new();
    let [a, b, c] = lab.three();
    let id = b.submit(&["--name", "first", "--", "true"]);
    a.wait_end(&id);
    wait_until(PATIENCE, "all three sign the end", || {
        let report = b.muster(&["audit", "verify"]).success();
        let signed = report.lines().filter(|line| line.starts_with("signed "));
        (signed.count() == 3).then_some(())
    });

    let file = lab.path().join("history.jsonl");
    let name = file.to_str().expect("UTF-8");
    c.muster(&["audit", "export", name]).success();
    let text = fs::read_to_string(&file).expect("the exported file");
    let again = c.muster(&["audit", "export", name]);
    assert!(
        again.code == 1 && again.err.contains("exists"),
        "{}",
        again.err
    );

    // No node is needed: the client of a machine on which none runs.
    let nowhere = lab.machine("nowhere");
    let check = || run(&mut nowhere.client(&["audit", "verify", name]), "verify");
    let report = check().success();
    assert!(report.contains("none was changed"), "{report}");

    fs::write(
        &file,
        text.replace("\"first\"", "\"fir5t\"")
            .replace("first", "fir5t"),
    )
    .expect("edit");
    let broken = check();
    assert!(broken.code == 1, "{}", broken.out);
    assert!(broken.err.contains("was changed"), "{}", broken.err);

    let head: LedgerHead = {
        let line = text.lines().last().expect("a head");
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        serde_json::from_value(value["head"].clone()).expect("a head")
    };
    let cut: Vec<_> = text.lines().collect();
    let unsigned = LedgerHead {
        attestations: Vec::new(),
        ..head.clone()
    };
    let line = serde_json::json!({ "head": unsigned }).to_string();
    let stripped = [&cut[..cut.len() - 1], &[line.as_str()]]
        .concat()
        .join("\n")
        + "\n";
    fs::write(&file, stripped).expect("strip the signatures");
    let broken = check();
    assert!(
        broken.code == 1 && broken.out.is_empty() && broken.err.contains("nobody has signed"),
        "{broken:?}"
    );
    let without_last = [&cut[..cut.len() - 2], &cut[cut.len() - 1..]]
        .concat()
        .join("\n")
        + "\n";
    fs::write(&file, without_last).expect("cut");
    let broken = check();
    assert!(
        broken
            .err
            .contains(&format!("the ledger has {} records", head.length)),
        "{}",
        broken.err
    );
}

#[test]
fn the_history_is_searched_by_who_what_and_when() {
    let lab = Lab::new();
    let a = lab.one();
    let id = a.submit(&["--", "true"]);
    a.wait_end(&id);
    let ask =
        |arguments: &[&str]| -> Vec<LedgerEntryView> { a.ask(&[&["audit"], arguments].concat()) };
    let submitted = ask(&["--action", "experiment-submitted"]);
    assert_eq!(submitted.len(), 1);
    let (user, _node) = submitted[0].author.split_once('@').expect("user@node");
    assert!(
        ask(&["--by", user])
            .iter()
            .all(|entry| entry.author.starts_with(user))
    );
    assert_eq!(ask(&["--by", "nobody"]), []);
    assert_eq!(ask(&["--limit", "2"]).len(), 2);
    assert_eq!(ask(&["--since", "2100-01-01T00:00Z"]), []);
    assert!(ask(&["--since", "24h"]).len() >= 4);
    let wrong = a.muster(&["audit", "--since", "soon"]);
    assert!(wrong.err.contains("how long ago"), "{}", wrong.err);
}
