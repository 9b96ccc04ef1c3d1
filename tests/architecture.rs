//! The shape of the repository, checked: who may import whom, which crate owns which outside technology, and how
//! large things may grow. The reasons are in `ARCHITECTURE.md`; a change of a table here is a change of the design.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

/// Every crate of the workspace with the crates of ours that it may import, at any kind of dependency.
const ALLOWED: &[(&str, &[&str])] = &[
    // core decides
    ("types", &[]),
    ("state-machine", &["types"]),
    ("membership", &["types", "state-machine"]),
    ("agent", &["types", "state-machine"]),
    ("scheduler", &["types", "state-machine", "membership"]),
    (
        "autoscaler",
        &["types", "state-machine", "membership", "scheduler"],
    ),
    ("diagnosis", &["types"]),
    // adapters do; only consensus knows the state machine, because it applies it
    ("network", &["types"]),
    ("consensus", &["types", "state-machine"]),
    ("blobs", &["types"]),
    // the holder says why it ended: nobody else has all the facts
    ("executor", &["types", "diagnosis"]),
    // what XID events mean is told in one place
    ("telemetry", &["types", "diagnosis", "fake-nvml"]),
    ("provisioner", &["types"]),
    // the one door, and who stands before it
    (
        "service",
        &[
            "types",
            "state-machine",
            "membership",
            "agent",
            "scheduler",
            "autoscaler",
            "diagnosis",
            "network",
            "consensus",
            "blobs",
            "executor",
            "telemetry",
            "provisioner",
        ],
    ),
    ("rest", &["types", "service"]),
    ("cli", &["types", "rest"]),
    // the binary connects everything
    (
        "muster",
        &[
            "types",
            "state-machine",
            "membership",
            "agent",
            "scheduler",
            "autoscaler",
            "diagnosis",
            "network",
            "consensus",
            "blobs",
            "executor",
            "telemetry",
            "provisioner",
            "service",
            "rest",
            "cli",
            "fake-nvml",
            "tap-switch",
        ],
    ),
    // carries frames between the hosts of a test
    ("tap-switch", &[]),
    // stands in for the NVIDIA driver in tests
    ("fake-nvml", &[]),
    // stands in for a dependency of openraft (decision 011)
    ("base2histogram", &[]),
    // a cluster of nothing but decisions
    (
        "simulations",
        &[
            "types",
            "state-machine",
            "membership",
            "agent",
            "scheduler",
            "autoscaler",
        ],
    ),
    // the same over the real openraft, for tests only: outside the default members, since it brings tokio's paused clock
    (
        "raft-simulation",
        &["types", "state-machine", "membership", "agent", "scheduler"],
    ),
];

/// All that a core crate may import from outside: nothing that reads a clock, a file, a socket or chance.
const PURE: &[&str] = &[
    "serde",
    "bincode",
    "bytes",
    "blake3",
    "crc32fast",
    "imbl",
    "thiserror",
];
/// What the tests of core crates may use besides.
const PURE_TESTS: &[&str] = &["proptest", "serde_json"];

/// Outside technologies and the crates that may name them.
const OWNERS: &[(&str, &[&str])] = &[
    ("libp2p", &["network"]),
    ("libp2p-stream", &["network"]),
    ("openraft", &["consensus", "raft-simulation"]),
    ("openraft-rt", &["raft-simulation"]),
    ("sled", &["consensus"]),
    ("axum", &["rest"]),
    ("tower", &["rest"]),
    ("utoipa-axum", &["rest"]),
    // TLS: the door has a certificate, the command line checks it.
    ("tokio-rustls", &["rest", "cli"]),
    ("rcgen", &["rest"]),
    // Packages are named by it; certificates are shown by it.
    ("sha2", &["rest", "service"]),
    // The wire model is declared where the use cases are, and only described there.
    ("utoipa", &["rest", "service", "telemetry"]),
    ("bincode", &["types"]),
    ("imbl", &["state-machine"]),
    ("fastcdc", &["blobs"]),
    ("sysinfo", &["telemetry"]),
    ("nvml-wrapper", &["telemetry"]),
    ("nvml-wrapper-sys", &["fake-nvml"]),
    ("tun-rs", &["tap-switch"]),
    ("sys-mount", &["executor"]),
    ("comfy-table", &["cli"]),
    ("indicatif", &["cli"]),
    ("figment", &["muster"]),
    ("toml", &["cli"]),
    ("clap", &["muster", "cli", "simulations", "raft-simulation"]),
];

/// Non-test lines of `src/` without the demo: it wires, it does not decide.
const MAX_ROOT_LINES: usize = 3_700;
/// Non-test lines of one file.
const MAX_FILE_LINES: usize = 500;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "manager",
];

struct Crate {
    directory: PathBuf,
    /// (name, is needed by tests only)
    dependencies: Vec<(String, bool)>,
}

static WORKSPACE: LazyLock<BTreeMap<String, Crate>> = LazyLock::new(read_workspace);

/// Where cargo runs this, not where it was built: clones may share what is built.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

fn read_workspace() -> BTreeMap<String, Crate> {
    let done = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs: it started this test");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let metadata: Value = serde_json::from_slice(&done.stdout).expect("cargo prints JSON");
    list(&metadata["packages"]).iter().map(read_crate).collect()
}

fn read_crate(package: &Value) -> (String, Crate) {
    let manifest = Path::new(text(&package["manifest_path"]));
    let dependency = |entry: &Value| (text(&entry["name"]).to_owned(), entry["kind"] == "dev");
    let directory = manifest.parent().expect("a manifest lies in a directory");
    let read = Crate {
        directory: directory.to_owned(),
        dependencies: list(&package["dependencies"])
            .iter()
            .map(dependency)
            .collect(),
    };
    (text(&package["name"]).to_owned(), read)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("the format is version 1")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("the format is version 1")
}

fn is_core(krate: &Crate) -> bool {
    krate.directory.starts_with(root().join("crates/core"))
}

fn row<'a>(table: &'a [(&str, &'a [&'a str])], name: &str) -> Option<&'a [&'a str]> {
    table
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, allowed)| *allowed)
}

#[test]
fn every_import_between_our_crates_is_in_the_table() {
    let mut wrong = Vec::new();
    for (name, krate) in WORKSPACE.iter() {
        let Some(allowed) = row(ALLOWED, name) else {
            wrong.push(format!("{name} has no row"));
            continue;
        };
        let ours = krate
            .dependencies
            .iter()
            .filter(|(import, _)| WORKSPACE.contains_key(import));
        let bad = ours.filter(|(import, _)| !allowed.contains(&import.as_str()));
        wrong.extend(bad.map(|(import, _)| format!("{name} imports {import}")));
    }
    let gone = ALLOWED
        .iter()
        .filter(|(name, _)| !WORKSPACE.contains_key(*name));
    wrong.extend(gone.map(|(name, _)| format!("{name} has a row and does not exist")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_itself_keeps_the_rooms_apart() {
    let room = |name: &str| {
        let directory = &WORKSPACE[name].directory;
        if directory.starts_with(root().join("tests")) {
            return "tests".to_owned();
        }
        let below = directory
            .strip_prefix(root().join("crates"))
            .unwrap_or(Path::new("root"));
        below
            .iter()
            .next()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let adapters: Vec<_> = ALLOWED
        .iter()
        .filter(|(name, _)| room(name) == "adapters")
        .collect();
    assert!(adapters.len() >= 6, "the adapters were not found");
    for (name, allowed) in ALLOWED {
        let may = |rooms: &[&str]| {
            for import in *allowed {
                assert!(
                    rooms.contains(&room(import).as_str()),
                    "{name} may import {import}"
                );
            }
        };
        match room(name).as_str() {
            "core" => may(&["core"]),
            "adapters" => may(&["core", "tests"]),
            "service" => may(&["core", "adapters"]),
            "surfaces" if *name == "cli" => assert_eq!(*allowed, ["types", "rest"]),
            "surfaces" => may(&["core", "service"]),
            "patched" | "tests" => may(&[]),
            _ if *name == "simulations" => may(&["core"]),
            _ => assert_eq!(*name, "muster", "an unknown room"),
        }
    }
}

#[test]
fn core_crates_import_nothing_that_acts() {
    let mut wrong = Vec::new();
    for (name, krate) in WORKSPACE.iter().filter(|(_, krate)| is_core(krate)) {
        for (import, for_tests) in &krate.dependencies {
            let import = import.as_str();
            let is_pure = PURE.contains(&import) || (*for_tests && PURE_TESTS.contains(&import));
            if !WORKSPACE.contains_key(import) && !is_pure {
                wrong.push(format!("{name} imports {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_outside_technology_lives_in_its_own_crate() {
    let mut wrong = Vec::new();
    for (name, krate) in WORKSPACE.iter() {
        for (import, _) in &krate.dependencies {
            let owners = row(OWNERS, import).unwrap_or(&[]);
            let cloud_kit = import.starts_with("aws-");
            let is_free = owners.is_empty() && !cloud_kit;
            if !is_free && !owners.contains(&name.as_str()) {
                wrong.push(format!("{name} imports {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Another store for the log is a change of one module (decision 002).
#[test]
fn sled_is_named_in_the_module_of_the_log_alone() {
    let source = root().join("crates/adapters/consensus/src");
    let mut naming = rust_files();
    naming.retain(|file| file.starts_with(&source) && read(file).contains("sled::"));
    assert!(naming.len() > 1, "sled is named somewhere");
    let module = source.join("log_store");
    naming.retain(|file| !file.with_extension("").starts_with(&module));
    assert!(naming.is_empty(), "{naming:?}");
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for (name, krate) in WORKSPACE.iter() {
        let manifest = read(&krate.directory.join("Cargo.toml"));
        let mut lines = manifest.lines().map(str::trim);
        let has_table = lines.any(|line| line == "[lints]");
        assert!(
            has_table && lines.next() == Some("workspace = true"),
            "{name}"
        );
    }
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let files = rust_files();
    assert!(files.len() > 100, "only {} files were found", files.len());
    for file in files {
        for part in file.strip_prefix(root()).unwrap_or(&file) {
            let part = part.to_string_lossy();
            let name = part.strip_suffix(".rs").unwrap_or(&part);
            assert!(
                name != "mod",
                "{}: self-named files instead",
                file.display()
            );
            assert!(
                !EMPTY_NAMES.contains(&name),
                "{}: name what it is",
                file.display()
            );
        }
    }
}

#[test]
fn the_root_only_connects() {
    let mut lines = 0;
    for (file, count) in production_lines() {
        let inside = file.strip_prefix(root().join("src"));
        if inside.is_ok_and(|file| !file.starts_with("demo") && !file.starts_with("demo.rs")) {
            lines += count;
        }
    }
    println!("src/ without the demo: {lines} lines that are no tests");
    assert!(
        lines > 0 && lines <= MAX_ROOT_LINES,
        "{lines}: move decisions into crates"
    );
}

#[test]
fn no_file_grows_into_a_god() {
    let mut files: Vec<_> = production_lines().into_iter().collect();
    files.sort_by_key(|(_, lines)| std::cmp::Reverse(*lines));
    let named = |(file, lines): &(PathBuf, usize)| {
        format!(
            "{lines} {}",
            file.strip_prefix(root()).unwrap_or(file).display()
        )
    };
    println!("longest: {}", named(&files[0]));
    let long: Vec<_> = files
        .iter()
        .take_while(|(_, lines)| *lines > MAX_FILE_LINES)
        .map(named)
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn lines_of_tests_are_told_from_others() {
    let source = "//! Doc.\n\n#[cfg(test)]\nmod tests;\n\nfn work() {}\n\n#[cfg(test)]\nmod more {\n    use super::*;\n}\n";
    let read = Source::read(source);
    assert_eq!(read.lines, 5);
    assert_eq!(read.test_modules, BTreeSet::from(["tests".to_owned()]));
}

/// What a source file holds besides tests.
struct Source {
    /// Lines outside `#[cfg(test)]` modules.
    lines: usize,
    /// Modules that exist for tests only and are files of their own.
    test_modules: BTreeSet<String>,
}

impl Source {
    fn read(source: &str) -> Self {
        let mut read = Self {
            lines: 0,
            test_modules: BTreeSet::new(),
        };
        let mut lines = source.lines();
        while let Some(line) = lines.next() {
            if line != "#[cfg(test)]" {
                read.lines += 1;
                continue;
            }
            let item = lines.next().unwrap_or_default();
            let module = item
                .split_once("mod ")
                .and_then(|(_, name)| name.strip_suffix(';'));
            if let Some(module) = module {
                read.test_modules.insert(module.to_owned());
            } else if item.ends_with('{') {
                // An item of more than one line ends with a brace at the left edge.
                while lines.next().is_some_and(|line| line != "}") {}
            }
        }
        read
    }
}

/// Every file that is no test, with its lines that are no tests.
fn production_lines() -> BTreeMap<PathBuf, usize> {
    let files = rust_files();
    let mut lines = BTreeMap::new();
    let mut tests = Vec::new();
    for file in files {
        let source = Source::read(&read(&file));
        let is_crate_root = file.ends_with("lib.rs") || file.ends_with("main.rs");
        let below = if is_crate_root {
            file.with_file_name("")
        } else {
            file.with_extension("")
        };
        for module in source.test_modules {
            tests.extend([below.join(format!("{module}.rs")), below.join(module)]);
        }
        lines.insert(file, source.lines);
    }
    lines.retain(|file, _| {
        let is_below_test = tests.iter().any(|test| file.starts_with(test));
        let is_test_target = file.iter().any(|part| part == "tests" || part == "benches");
        !is_below_test && !is_test_target
    });
    lines
}

/// The Rust files of all crates.
fn rust_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<_> = [
        "src",
        "crates",
        "simulations",
        "tests",
        "benches",
        "examples",
    ]
    .map(|name| root().join(name))
    .into();
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue; // A room that is not there has no files.
        };
        for entry in entries {
            let path = entry.expect("the repository can be listed").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| format!("{}: {error}", path.display()))
}
