//! Experiments cannot read what their node keeps to itself, and machines say so where they can.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use service::view::NodesView;
use types::DurationMs;

use crate::harness::{Lab, Node, PATIENCE, counting, skip, wait_lines, wait_until};

/// What every system calls nobody.
const NOBODY: u32 = 65_534;

/// As root a node may become others; these tests need that.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("only root can run a node as somebody else");
    }
    root
}

/// Settings as people have them: nothing is said of the user of experiments.
pub(crate) fn leave_out_job_user(node: &Node) {
    let file = node.data().join("muster.toml");
    let settings = fs::read_to_string(&file).unwrap();
    let kept = settings
        .lines()
        .filter(|line| !line.starts_with("job_user"));
    fs::write(&file, kept.collect::<Vec<_>>().join("\n")).unwrap();
}

/// Tries everything; each line that gets through says so.
fn prying(node: &Node) -> String {
    let data = node.data();
    let (data, pid) = (data.display(), node.process_id());
    format!(
        "cd \"$PWD\"; echo user $(id -u)
        for name in node.key cluster.key members lock muster.toml; do cat {data}/$name && echo READ $name; done
        cat {data}/raft/* && echo READ raft; ls {data}/raft && echo LISTED raft; ls {data}/blobs && echo LISTED blobs
        cat /proc/{pid}/root{data}/node.key && echo READ through proc; cat /proc/{pid}/environ && echo READ environ
        cat {data}/attempts/*/order && echo READ order; umount {data} && echo UNCOVERED
        touch {data}/planted && echo PLANTED
        echo mine > out; cat out; echo there > $TMPDIR/t; cat $TMPDIR/t; echo end"
    )
}

fn pry(node: &Node) -> String {
    let experiment = node.submit(&["--", "sh", "-c", &prying(node)]);
    let detail = node.wait_end(&experiment);
    assert_eq!(
        detail.summary.state,
        "finished",
        "{}",
        node.logs(&experiment)
    );
    node.logs(&experiment)
}

fn warnings(node: &Node) -> Vec<String> {
    let view: NodesView = node.ask(&["nodes"]);
    view.nodes
        .into_iter()
        .flat_map(|node| node.warnings)
        .collect()
}

#[test]
fn job_cannot_read_agent_dir_of_a_root_node() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let node = lab.machine("a");
    leave_out_job_user(&node);
    node.up(&["--new"]);
    let said = pry(&node);
    // What is said besides are the refusals.
    let got: Vec<_> = said.lines().filter(|line| !line.contains(':')).collect();
    assert_eq!(got, ["user 65534", "mine", "there", "end"], "{said}");
    assert!(!node.data().join("planted").exists());
    let told = warnings(&node);
    assert!(!told.iter().any(|line| line.contains("keys")), "{told:?}");
}

#[test]
fn a_root_node_whose_experiments_are_root_says_so() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let node = lab.one();
    let told = wait_until(PATIENCE, "the node has reported", || {
        let told = warnings(&node);
        (!told.is_empty()).then_some(told)
    });
    assert!(
        told.iter()
            .any(|line| line.contains("can read this node's keys")),
        "{told:?}"
    );
    let list = node.muster(&["nodes"]).success();
    assert!(list.contains("can read this node's keys"), "{list}");
}

/// A node that runs as nobody, by a copy of the program that nobody may read.
pub(crate) fn node_of_nobody(lab: &Lab) -> Node {
    let program = lab.path().join("muster");
    let built = env!("CARGO_BIN_EXE_muster");
    if fs::hard_link(built, &program).is_err() {
        fs::copy(built, &program).unwrap();
    }
    let mut node = lab.machine("a");
    leave_out_job_user(&node);
    for path in [
        lab.path(),
        &node.home,
        &node.data(),
        &node.data().join("muster.toml"),
    ] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "shift; exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups {} \"$@\"",
        program.display()
    );
    node.wrapper = vec!["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()];
    node
}

#[test]
fn job_cannot_read_agent_dir_of_an_ordinary_users_node() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let node = node_of_nobody(&lab);
    node.up(&["--new"]);
    let told = warnings(&node);
    if told
        .iter()
        .any(|line| line.contains("no user make a namespace"))
    {
        skip("this kernel gives no namespaces to users");
        return;
    }
    let said = pry(&node);
    let got: Vec<_> = said.lines().filter(|line| !line.contains(':')).collect();
    assert_eq!(got, ["user 65534", "mine", "there", "end"], "{said}");
    assert!(!node.data().join("planted").exists());
    assert!(Path::new(&node.data().join("node.key")).exists());
}

/// A planned restart may take minutes, not the five seconds of a young lease.
#[test]
fn what_runs_on_a_node_that_ends_in_order_has_minutes() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (_, [node, other]) = crate::harness::leader_and_others(&nodes);
    let stop = lab.path().join("stop");
    let constraint = format!("machine={}", node.name);
    let job = other.submit(&[
        "--constraint",
        &constraint,
        "--",
        "sh",
        "-c",
        &counting(&stop),
    ]);
    wait_lines(other, &job, 5);
    assert!(node.terminate().success());
    let ledger = other.muster(&["audit", "--experiment", &job]).success();
    assert!(ledger.contains("ends in order"), "{ledger}");
    // Longer than the lease of young work, which would be given up by now.
    let young = DurationMs(7_000);
    let begun = std::time::Instant::now();
    wait_until(PATIENCE, "a young lease would be over", || {
        (begun.elapsed().as_millis() > u128::from(young.0)).then_some(())
    });
    node.up(&[]);
    let lines = wait_lines(other, &job, 100);
    fs::write(&stop, "").unwrap();
    let detail = other.wait_end(&job);
    assert_eq!(
        (detail.attempts.len(), &*detail.summary.state),
        (1, "finished")
    );
    assert!(lines > 100);
}
