//! Experiments once more: clones, reruns, and what differs between two.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use service::view::{CompareView, GroupReply, NodeRefView, SubmitReply};

use crate::harness::{Lab, Node, PATIENCE, run, wait_until};

/// Far beyond the 24 h for which a put protects a blob.
const LONG_AGO: Duration = Duration::from_secs(30 * 3_600);

/// Submits the code of a directory and waits for the end.
fn run_code(node: &Node, code: &Path, arguments: &[&str]) -> String {
    let source = code.to_string_lossy();
    let whole = [&["run", "--source", &source], arguments].concat();
    let id = node.ask::<SubmitReply>(&whole).id;
    assert_eq!(node.wait_end(&id).summary.state, "finished");
    id
}

fn code(lab: &Lab, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let directory = lab.path().join(name);
    fs::create_dir(&directory).unwrap();
    for (path, text) in files {
        fs::write(directory.join(path), text).unwrap();
    }
    directory
}

fn again(node: &Node, arguments: &[&str]) -> SubmitReply {
    node.ask(arguments)
}

#[test]
fn a_clone_has_the_code_and_all_that_was_not_changed() {
    let lab = Lab::new();
    let [a, _b, c] = lab.three();
    let checkout = code(&lab, "code", &[("data.txt", "some data\n")]);
    let original = run_code(
        &a,
        &checkout,
        &[
            "--name",
            "first",
            "--param",
            "lr=0.1",
            "--param",
            "bs=32",
            "--env",
            "A=1",
            "--cpus",
            "0.5",
            "--retries",
            "2",
            "--",
            "sh",
            "-c",
            "cat data.txt; echo {lr} {bs} $A $B",
        ],
    );
    assert_eq!(a.logs(&original), "some data\n0.1 32 1\n");
    // The code is there no more; what the cluster has is enough.
    fs::remove_dir_all(&checkout).unwrap();
    let changed = [
        "clone", &original, "--param", "lr=0.5", "--env", "B=2", "--memory", "64MiB",
    ];
    let clone = again(&c, &changed);
    assert!(clone.warnings.is_empty(), "{clone:?}");
    let detail = c.wait_end(&clone.id);
    assert_eq!(c.logs(&clone.id), "some data\n0.5 32 1 2\n");
    let before = c.show(&original);
    assert_eq!(detail.source, before.source);
    assert_eq!(detail.command, before.command);
    assert_eq!(detail.retries_failed, 2);
    assert_eq!(detail.resources.cpu_milli, Some(500));
    assert_eq!(detail.resources.memory_bytes, Some(64 << 20));
    assert_eq!(detail.summary.name, "first");
    let origin = detail.origin.unwrap();
    assert_eq!(
        (origin.how.as_str(), &origin.experiment),
        ("clone", &original)
    );
    let page = c.muster(&["show", &clone.id]).success();
    assert!(page.contains(&format!("clone of {original}")), "{page}");

    let other = again(
        &c,
        &["clone", &original, "--name", "other", "--", "echo", "{lr}"],
    );
    c.wait_end(&other.id);
    assert_eq!(c.logs(&other.id), "0.1\n");
    let keyed = ["clone", &original, "--key", "k"];
    assert_eq!(
        again(&a, &keyed).id,
        again(&c, &keyed).id,
        "one key, one clone"
    );
}

#[test]
fn clones_and_reruns_that_cannot_be_say_why() {
    let lab = Lab::new();
    let a = lab.one();
    let id = a.submit(&["--cpus", "1000", "--", "echo", "x"]);
    for (arguments, says) in [
        (&["clone", "nosuch"][..], "no experiment has the id"),
        (&["rerun", "nosuch"], "no experiment has the id"),
        (&["rerun", &id, "--on", "nowhere"], "nowhere"),
        (
            &["clone", &id, "--param", "1x=1"],
            "names begin with a letter",
        ),
        (&["clone", &id, "--queue", "nowhere"], "nowhere"),
        (
            &["clone", &id, "--fail-if-impossible"],
            "no node could ever run it",
        ),
    ] {
        let said = a.muster(arguments).failure(1);
        assert!(said.contains(says), "{arguments:?} said {said}");
    }
    assert_eq!(a.list().len(), 1);
    let useless = again(&a, &["clone", &id, "--param", "lr=1"]);
    let warned = useless.warnings.join("\n");
    assert!(
        warned.contains("lr was no parameter and stands nowhere in the command: only the variable MUSTER_PARAM_LR"),
        "{warned}"
    );
}

#[test]
fn a_rerun_is_the_same_on_the_node_that_is_asked_for() {
    let lab = Lab::new();
    let [a, b, _c] = lab.three();
    let checkout = code(
        &lab,
        "code",
        &[("run.sh", "echo ran {lr} $MUSTER_PARAM_LR\n")],
    );
    let original = run_code(&a, &checkout, &["--param", "lr=1", "--", "sh", "run.sh"]);
    let first = a.show(&original);
    for node in ["c", "b", "a"] {
        let rerun = again(&b, &["rerun", &original, "--on", node]);
        let detail = b.wait_end(&rerun.id);
        let on: Vec<&NodeRefView> = detail.attempts[0].nodes.iter().collect();
        assert_eq!((on.len(), on[0].name.as_str()), (1, node));
        assert_eq!(b.logs(&rerun.id), a.logs(&original));
        assert_eq!(detail.command, first.command);
        assert_eq!(detail.parameters, first.parameters);
        assert_eq!(detail.source, first.source);
        assert_eq!(detail.resources.constraints, [format!("node={node}")]);
        let origin = detail.origin.unwrap();
        assert_eq!(
            (origin.how.as_str(), &origin.experiment),
            ("rerun", &original)
        );
    }
    // A rerun of a rerun is bound to no node of the one before.
    let bound = again(&a, &["rerun", &original, "--on", "c"]).id;
    a.wait_end(&bound);
    let free = again(&a, &["rerun", &bound, "--on", "b"]).id;
    assert_eq!(a.wait_end(&free).resources.constraints, ["node=b"]);
}

/// A node that looks for what nobody names much more often than it should.
fn collecting(lab: &Lab) -> Node {
    let a = lab.machine("a");
    let file = a.data().join("muster.toml");
    let settings = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("blobs_collected_every = \"1s\"\n{settings}")).unwrap();
    a.up(&["--new"]);
    a
}

fn blob(node: &Node, content: &[u8]) -> PathBuf {
    let hash = types::BlobHash::of(content).to_string();
    node.data().join("blobs").join(&hash[..2]).join(&hash[2..])
}

fn make_old(path: &Path) {
    // Opened for reading: the file is read-only, and times may be set all the same.
    let file = File::open(path).unwrap();
    file.set_modified(SystemTime::now() - LONG_AGO).unwrap();
}

#[test]
fn one_that_ended_long_ago_is_rerun_from_the_archive_until_its_code_is_gone() {
    let lab = Lab::new();
    let a = collecting(&lab);
    let files = [("data.txt", "old data\n"), ("run.sh", "cat data.txt\n")];
    let checkout = code(&lab, "code", &files);
    let original = run_code(&a, &checkout, &["--", "sh", "run.sh"]);
    // 8,192 ended ones stay in memory; what ended before is sealed.
    for _ in 0..9 {
        let far = [
            "run",
            "--no-source",
            "--cpus",
            "1000",
            "--sweep",
            "n=int:1..1000",
            "--",
            "true",
        ];
        let group: GroupReply = a.ask(&far);
        assert_eq!(group.experiments.len(), 1_000);
        a.muster(&["stop", &group.id]).success();
    }
    let said = a.muster(&["show", &original[..7]]).failure(1);
    assert!(
        said.contains("no experiment"),
        "by its whole id only: {said}"
    );

    let (orphan, orphan_text) = ("nobody names this", b"nobody names this");
    let hash = types::BlobHash::of(orphan_text).to_string();
    let (status, body) = a.http_put(&format!("/api/v1/blobs/{hash}"), orphan);
    assert_eq!(status, 204, "{body}");
    for (_, text) in &files {
        make_old(&blob(&a, text.as_bytes()));
    }
    make_old(&blob(&a, orphan_text));
    wait_until(PATIENCE, "what nobody names is collected", || {
        (!blob(&a, orphan_text).exists()).then_some(())
    });
    assert!(blob(&a, b"old data\n").exists(), "an archive names it");
    let rerun = again(&a, &["rerun", &original]);
    assert_eq!(a.wait_end(&rerun.id).summary.state, "finished");
    assert_eq!(a.logs(&rerun.id), "old data\n");

    fs::remove_file(blob(&a, b"old data\n")).unwrap();
    for command in ["rerun", "clone"] {
        let said = a.muster(&[command, &original]).failure(1);
        assert!(
            said.contains("data.txt of its code cannot be had"),
            "{said}"
        );
        assert!(
            said.contains("submit it again from its directory"),
            "{said}"
        );
    }
}

/// Two experiments whose code, parameter and machine differ.
fn two_that_differ(lab: &Lab, node: &Node) -> [String; 2] {
    // A file has no places for parameters: they reach it by the environment.
    let script = "echo metric: loss=$MUSTER_PARAM_LR step=3\n";
    let first = [
        ("run.sh", script),
        ("gone.txt", "1\n2\n"),
        ("same.txt", "same\n"),
        ("x.bin", "\0a"),
    ];
    let longer = format!("{script}echo more\n");
    let second = [
        ("run.sh", longer.as_str()),
        ("new.txt", "new\n"),
        ("same.txt", "same\n"),
        ("x.bin", "\0bc"),
    ];
    let [first, second] =
        [("first", first), ("second", second)].map(|(name, files)| code(lab, name, &files));
    fs::set_permissions(second.join("same.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    [(first, "lr=0.1", "node=b"), (second, "lr=0.25", "node=c")].map(|(code, lr, on)| {
        let arguments = [
            "--param",
            lr,
            "--constraint",
            on,
            "--env",
            "PYTHONHASHSEED=0",
        ];
        run_code(
            node,
            &code,
            &[&arguments[..], &["--", "sh", "run.sh"]].concat(),
        )
    })
}

#[test]
fn a_comparison_shows_code_parameters_machines_and_metrics() {
    let lab = Lab::new();
    let [a, b, c] = lab.three();
    let [one, two] = two_that_differ(&lab, &a);
    let view: CompareView = c.ask(&["compare", &one, &two]);
    let files = view.sources[0].files.iter();
    let changes: Vec<(&str, &str)> = files
        .map(|file| (file.change.as_str(), file.path.as_str()))
        .collect();
    let expected = [
        ("removed", "gone.txt"),
        ("added", "new.txt"),
        ("changed", "run.sh"),
        ("mode", "same.txt"),
        ("changed", "x.bin"),
    ];
    assert_eq!(changes, expected);
    let losses = view.experiments.iter().map(|one| one.metrics[0].value);
    assert_eq!(losses.collect::<Vec<_>>(), [0.1, 0.25]);
    assert!(view.experiments.iter().all(|one| one.ran_ms.is_some()));

    let page = b.muster(&["compare", &one, &two]).success();
    for line in [
        "param lr",
        "machine",
        "-1\n-2\n",
        "+new\n",
        " echo metric: loss=$MUSTER_PARAM_LR step=3\n+echo more\n",
        "mode same.txt (now executable)",
        "x.bin (binary, 2 bytes",
    ] {
        assert!(page.contains(line), "{line:?} is missing in {page}");
    }
    let mut lines = page.lines();
    let same = lines.find(|line| line.starts_with("the same: ")).unwrap();
    let says = |name: &str| same.contains(name);
    assert!(says("command") && says("env PYTHONHASHSEED"), "{same}");
    assert!(!page.contains('\0'), "{page}");
    let whole = ["compare", "--no-diff", "--all", &one, &two];
    let short = b.muster(&whole).success();
    assert!(!short.contains("@@"), "{short}");
    assert!(short.contains("sh run.sh"), "{short}");
}

#[test]
fn a_comparison_that_cannot_be_says_why() {
    let lab = Lab::new();
    let a = lab.one();
    let one = a.submit(&["--cpus", "1000", "--", "true"]);
    let same: CompareView = a.ask(&["compare", &one, &one]);
    assert!(same.sources[0].files.is_empty());
    a.muster(&["compare", &one]).failure(2);
    let said = a.muster(&["compare", &one, "nosuch"]).failure(1);
    assert!(said.contains("nosuch"), "{said}");
    let many = [one.as_str(); 9].join(",");
    let (status, said) = a.get(&format!("/api/v1/compare?ids={many}"));
    assert_eq!(status, 400, "{said}");
    assert!(said.contains("9 experiments cannot be compared"), "{said}");
}

#[test]
fn code_of_another_machine_that_is_away_is_named_as_unknown() {
    let lab = Lab::new();
    let a = lab.one();
    let checkout = code(&lab, "code", &[("a.txt", "a\n")]);
    let one = run_code(&a, &checkout, &["--", "cat", "a.txt"]);
    fs::write(checkout.join("a.txt"), "b\n").unwrap();
    let two = run_code(&a, &checkout, &["--", "cat", "a.txt"]);
    fs::remove_file(blob(&a, b"b\n")).unwrap();
    let mut compare = a.client(&["compare", &one, &two]);
    let page = run(&mut compare, "muster compare").success();
    assert!(
        page.contains("changed a.txt (its content cannot be had"),
        "{page}"
    );
}
