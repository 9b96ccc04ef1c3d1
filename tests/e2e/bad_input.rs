//! Wrong input and broken surroundings, each with what a person is told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::process::Command;

use service::view::WhyView;

use crate::harness::{Lab, run, skip};

#[test]
fn an_unknown_id_an_ambiguous_prefix_and_an_unknown_flag_are_told_apart() {
    let lab = Lab::new();
    let a = lab.one();
    let said = a.muster(&["show", "nosuch"]).failure(1);
    assert!(
        said.contains("nosuch") && said.contains("muster ls --all"),
        "{said}"
    );
    let said = a.muster(&["ls", "--no-such-flag"]).failure(2);
    assert!(said.contains("--no-such-flag"), "{said}");

    // Until two ids begin alike; with 32 letters that is by the 33rd at the latest.
    let mut begun = BTreeMap::new();
    let (first, second) = loop {
        let id = a.submit(&["--name", "far away", "--cpus", "1000", "--", "true"]);
        if let Some(other) = begun.insert(id[..1].to_owned(), id.clone()) {
            break (other, id);
        }
    };
    for command in ["show", "why", "logs", "stop"] {
        let said = a.muster(&[command, &first[..1]]).failure(1);
        assert!(said.contains(&first) && said.contains(&second), "{said}");
    }
    assert_eq!(a.show(&first).summary.id, first);
    assert!(a.list().iter().all(|one| one.state == "queued"));
}

#[test]
fn what_no_node_could_have_waits_and_says_why_or_is_refused_if_asked_to() {
    let lab = Lab::new();
    let a = lab.one();
    let run = [
        "run",
        "--no-source",
        "--cpus",
        "64",
        "--memory",
        "900GiB",
        "--gpus",
        "2",
    ];
    let output = a.muster(&[&run[..], &["--", "true"]].concat());
    assert!(
        output.err.contains("none of 1 machines has that"),
        "{output:?}"
    );
    let id = output.success().trim().to_owned();
    let why: WhyView = a.ask(&["why", &id]);
    assert_eq!((why.state.as_str(), why.possible_ever), ("queued", false));
    assert_eq!(
        (
            why.nodes[0].node.name.as_str(),
            why.nodes[0].verdict.as_str()
        ),
        ("a", "impossible")
    );
    let reasons = why.nodes[0].reasons.join("\n");
    assert!(
        reasons.contains("64") && reasons.contains("900.0 GiB"),
        "{reasons}"
    );
    let text = a.muster(&["why", &id]).success();
    assert!(text.contains("64"), "{text}");

    let refused = a.muster(&[&run[..], &["--fail-if-impossible", "--", "true"]].concat());
    let said = refused.failure(1);
    assert!(
        said.contains("no node could ever run it") && said.contains("64"),
        "{said}"
    );
    assert_eq!(a.list().len(), 1);
}

#[test]
fn a_file_over_the_limit_is_named_with_the_ways_out() {
    let lab = Lab::new();
    let a = lab.one();
    let code = lab.path().join("code");
    fs::create_dir(&code).unwrap();
    fs::write(code.join("run.sh"), "ls -A\n").unwrap();
    File::create(code.join("weights.bin"))
        .and_then(|file| file.set_len(1 << 30))
        .unwrap();
    let run = || {
        let arguments = [
            "run",
            "-f",
            "--source",
            &code.to_string_lossy(),
            "--",
            "sh",
            "run.sh",
        ];
        a.muster(&arguments)
    };
    let said = run().failure(1);
    assert!(
        said.contains("weights.bin has 1 GiB, over the limit of 256 MiB"),
        "{said}"
    );
    assert!(
        said.contains("--max-file-size") && said.contains(".musterignore"),
        "{said}"
    );
    assert_eq!(a.list().len(), 0);
    fs::write(code.join(".musterignore"), "/weights.bin\n").unwrap();
    assert_eq!(run().success(), ".musterignore\nrun.sh\n");
}

#[test]
fn a_data_directory_in_use_names_the_process_that_has_it() {
    let lab = Lab::new();
    let a = lab.one();
    let second = lab.machine("a");
    let said = second.up_in_vain(&["--new"]).failure(1);
    let holder = format!("(process {})", a.process_id());
    assert!(
        said.contains("in use by a live node") && said.contains(&holder),
        "{said}"
    );
    assert!(said.contains("--data-dir"), "{said}");
}

#[test]
fn a_data_directory_of_another_cluster_is_kept_unless_that_never_ran_anything() {
    let lab = Lab::new();
    let a = lab.one();
    let other = lab.machine("other");
    other.up(&["--new"]);
    let id = other.submit(&["--", "echo", "kept"]);
    other.wait_end(&id);
    let own = other.cluster().cluster;
    assert!(other.terminate().success());
    let said = other.up_in_vain(&["--join", &a.first_token()]).failure(1);
    assert!(
        said.contains("belongs to cluster") && said.contains("--data-dir"),
        "{said}"
    );
    // And it still is what it was.
    other.up(&[]);
    assert_eq!(other.cluster().cluster, own);
    assert_eq!(other.logs(&id), "kept\n");

    let empty = lab.machine("empty");
    empty.up(&["--new"]);
    assert!(empty.terminate().success());
    empty.up(&["--join", &a.first_token()]);
    assert_eq!(empty.cluster().cluster, a.cluster().cluster);
}

#[test]
fn a_port_in_use_names_the_process_that_has_it() {
    let lab = Lab::new();
    let mut x = lab.machine("x");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    x.port = port;
    let said = x.up_in_vain(&["--new"]).failure(1);
    let holder = format!("process {}", std::process::id());
    assert!(
        said.contains(&format!("port {port}")) && said.contains(&holder),
        "{said}"
    );
    assert!(said.contains("--port"), "{said}");
}

#[test]
fn without_disk_space_a_node_does_not_start() {
    let lab = Lab::new();
    let x = lab.machine("x");
    // A file system of its own, in a mount namespace that goes with the process.
    let up = x.up_command(&["--new"]);
    let mut command = x.with_environment(Command::new("unshare"));
    command.args(["--mount", "sh", "-ec"]);
    command.arg("mount -t tmpfs -o size=16m none \"$0\"; exec \"$@\"");
    command
        .arg(x.data())
        .arg(up.get_program())
        .args(up.get_args());
    let output = run(&mut command, "muster gives up");
    if output.err.contains("unshare") || output.err.contains("mount:") {
        skip(&format!(
            "no file system can be mounted here: {}",
            output.err.trim()
        ));
        return;
    }
    let said = output.failure(1);
    assert!(
        said.contains("no disk space") && said.contains("--data-dir"),
        "{said}"
    );
}

#[test]
fn code_that_does_not_fit_on_the_disk_is_refused_before_it_is_submitted() {
    let lab = Lab::new();
    let a = lab.machine("a");
    a.settings("pool=none", "1000TiB");
    a.up(&["--new"]);
    let code = lab.path().join("code");
    fs::create_dir(&code).unwrap();
    fs::write(code.join("data"), "some\n").unwrap();
    let said = a.muster(&["run", "--source", &code.to_string_lossy(), "--", "true"]);
    let said = said.failure(1);
    assert!(said.contains("disk") && said.contains("free"), "{said}");
    assert_eq!(a.list().len(), 0);
}
