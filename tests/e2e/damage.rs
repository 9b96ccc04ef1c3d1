//! A file of a stopped node that its disk has changed: the node does not start, and says why in one line.

use std::fs;
use std::path::PathBuf;

use crate::harness::{FAR, Lab, Node, entries, run};

/// The one snapshot of a node that was restored: its store begins with it.
fn snapshot_of(node: &Node) -> PathBuf {
    let mut found = entries(&node.data().join("raft/snapshots"));
    found.retain(|path| path.extension().is_some_and(|end| end == "snap"));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_failed_checksum_ends_the_process_with_one_line_that_says_where_and_what_to_do() {
    let lab = Lab::new();
    let a = lab.one();
    let queued = a.submit(&FAR);
    let backup = lab.path().join("all.backup");
    a.muster(&["backup", &backup.display().to_string()])
        .success();
    let copy = lab.machine("r");
    let mut restore = copy.program();
    restore.arg("restore").arg(&backup);
    restore.arg("--data-dir").arg(copy.data());
    run(&mut restore, "muster restore").success();

    let file = snapshot_of(&copy);
    let whole = fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    let at = whole.len() - 100;
    damaged[at] ^= 0x10;
    fs::write(&file, &damaged).unwrap();
    copy.spawn(&[]);
    let ended = copy.wait_gone();
    assert_eq!(ended.code(), Some(1), "{ended}");
    let log = copy.log();
    let name = file.display().to_string();
    let why: Vec<_> = log
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    let [line] = why[..] else {
        panic!("not one line that says why: {log}")
    };
    for word in [
        &*name,
        "the snapshot",
        "checksum",
        "--rejoin",
        "muster restore",
    ] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    assert_eq!(fs::read(&file).unwrap(), damaged, "it is left as it is");

    // With the bit as it was it starts, and has everything.
    fs::write(&file, &whole).unwrap();
    copy.up(&[]);
    assert_eq!(copy.show(&queued).summary.state, "queued");
}
