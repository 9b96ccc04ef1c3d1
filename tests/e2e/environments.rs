//! Packages of experiments: built on the node from a local index of tiny wheels, once, and said when they cannot be.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use service::view::SubmitReply;

use crate::harness::{Lab, Node, PATIENCE, run, skip, wait_until};
use crate::secrets::{is_root, leave_out_job_user, node_of_nobody};

/// Makes a wheel of a package `name` whose module says its version, and the page of the index that links to it.
const MAKE_WHEEL: &str = r"
import hashlib, os, sys, zipfile
root, name, version = sys.argv[1:4]
directory = os.path.join(root, 'simple', name)
os.makedirs(directory, exist_ok=True)
wheel = f'{name}-{version}-py3-none-any.whl'
info = f'{name}-{version}.dist-info'
files = {
    f'{name}.py': f'version = {version!r}\n',
    f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n',
    f'{info}/WHEEL': 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
}
record = ''.join(f'{path},,\n' for path in [*files, f'{info}/RECORD'])
with zipfile.ZipFile(os.path.join(directory, wheel), 'w') as out:
    for path, text in {**files, f'{info}/RECORD': record}.items():
        out.writestr(path, text)
digest = hashlib.sha256(open(os.path.join(directory, wheel), 'rb').read()).hexdigest()
with open(os.path.join(directory, 'index.html'), 'a') as page:
    page.write(f'<a href={wheel}#sha256={digest}>{wheel}</a>\n')
print(digest)
";
/// Makes an archive of a package whose build says that it began, and then waits until it is told to fail.
const MAKE_ENDLESS: &str = r#"
import io, os, sys, tarfile
root, began = sys.argv[1:3]
directory = os.path.join(root, 'simple', 'endless')
os.makedirs(directory, exist_ok=True)
setup = f"import os, sys, time\nopen({began!r}, 'w').write(str(os.getpid()))\nprint('endless', flush=True)\nwhile not os.path.exists({began!r} + '.go'):\n    time.sleep(0.05)\nsys.exit('told to fail')\n"
backend = 'def _wait(*a, **k):\n    exec(open("setup_wait.py").read())\nget_requires_for_build_wheel = prepare_metadata_for_build_wheel = build_wheel = _wait\n'
files = {
    'PKG-INFO': 'Metadata-Version: 2.1\nName: endless\nVersion: 1.0\n',
    'pyproject.toml': '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "endless"\nversion = "1.0"\n',
    'backend.py': backend,
    'setup_wait.py': setup,
}
with tarfile.open(os.path.join(directory, 'endless-1.0.tar.gz'), 'w:gz') as out:
    for path, text in files.items():
        member = tarfile.TarInfo(f'endless-1.0/{path}')
        member.size = len(text)
        out.addfile(member, io.BytesIO(text.encode()))
open(os.path.join(directory, 'index.html'), 'w').write('<a href=endless-1.0.tar.gz>endless-1.0.tar.gz</a>\n')
"#;

/// A package index on loopback: a directory, served by Python.
struct Index {
    root: PathBuf,
    server: Child,
    url: String,
}

impl Index {
    fn new(lab: &Lab) -> Self {
        let root = lab.path().join("index");
        fs::create_dir_all(root.join("simple")).unwrap();
        let mut server = Command::new("python3")
            .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"])
            .arg("--directory")
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 serves a directory");
        let mut line = String::new();
        let stdout = server.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        // Serving HTTP on 127.0.0.1 port 4711 (http://127.0.0.1:4711/) ...
        let port: u16 = line.split(' ').nth(5).unwrap().parse().unwrap();
        Self {
            root,
            server,
            url: format!("http://127.0.0.1:{port}/simple"),
        }
    }

    fn script(&self, script: &str, arguments: &[&str]) -> String {
        run_script(script, &self.root, arguments)
    }

    /// Offers a package; the SHA-256 of its wheel.
    fn offer(&self, name: &str, version: &str) -> String {
        make_wheel(&self.root, name, version)
    }

    /// A node that knows no other index.
    fn told(&self, mut node: Node) -> Node {
        node.variables
            .push(("PIP_INDEX_URL".to_owned(), self.url.clone()));
        node
    }
}

fn run_script(script: &str, root: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(root).args(arguments);
    run(&mut command, "python3").success().trim().to_owned()
}

/// Makes `simple/NAME/NAME-VERSION-py3-none-any.whl` below `root`; its SHA-256.
pub(crate) fn make_wheel(root: &Path, name: &str, version: &str) -> String {
    run_script(MAKE_WHEEL, root, &[name, version])
}

impl Drop for Index {
    fn drop(&mut self) {
        drop(self.server.kill()); // it may be gone
        drop(self.server.wait());
    }
}

/// A directory with requirements and a program that says which version it imports, and from where.
pub(crate) fn project(lab: &Lab, name: &str, requirements: &str) -> PathBuf {
    let directory = lab.path().join(name);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("requirements.txt"), requirements).unwrap();
    let program = "import sys, tiny; print(tiny.version, sys.prefix)\n";
    fs::write(directory.join("show.py"), program).unwrap();
    directory
}

pub(crate) fn submit(node: &Node, directory: &Path) -> String {
    let directory = directory.to_str().unwrap();
    let line = ["run", "--source", directory, "--", "python", "show.py"];
    node.ask::<SubmitReply>(&line).id
}

/// Lines of the build that an experiment saw.
fn build_lines(node: &Node, id: &str) -> String {
    let items = node.muster(&["--json", "logs", id]).success();
    let lines = items.lines().filter(|line| {
        line.contains("\"stream\":\"build\"") || line.contains("\"stream\":\"muster\"")
    });
    lines.collect()
}

fn builds_begun(node: &Node) -> usize {
    node.log().matches("building an environment").count()
}

fn environments(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.data().join("environments"));
    let entries = entries.into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn packages_are_built_once_and_the_next_experiment_finds_them() {
    let lab = Lab::new();
    let index = Index::new(&lab);
    let hash = index.offer("tiny", "1.0");
    let a = index.told(lab.machine("a"));
    a.up(&["--new"]);
    let code = project(&lab, "code", &format!("tiny==1.0 --hash=sha256:{hash}\n"));
    let directory = code.to_str().unwrap();
    let line = [
        "run", "-f", "--source", directory, "--", "python", "show.py",
    ];
    let first = a.muster(&line);
    assert_eq!(first.code, 0, "{first:?}");
    assert!(
        first
            .err
            .contains("packages: requirements.txt, 1 requirements, with hashes"),
        "{first:?}"
    );
    assert!(first.err.contains("environment: built in"), "{first:?}");
    let [place] = &environments(&a)[..] else {
        panic!("{:?}", environments(&a));
    };
    let expected = format!("1.0 {}\n", place.join("env").display());
    assert_eq!(first.out, expected);
    let second = a.muster(&line);
    assert_eq!((second.code, second.out), (0, expected), "{}", second.err);
    assert!(
        !second.err.contains("environment: built in"),
        "{}",
        second.err
    );
    assert_eq!(builds_begun(&a), 1);
    let shown = a.muster(&["show", "show.py"]).success();
    assert!(
        shown.contains("packages      requirements.txt, 1 requirements, with hashes"),
        "{shown}"
    );
}

#[test]
fn two_that_need_the_same_at_once_build_once_and_both_see_it() {
    let lab = Lab::new();
    let index = Index::new(&lab);
    index.offer("tiny", "2.0");
    let a = index.told(lab.machine("a"));
    a.up(&["--new"]);
    let code = project(&lab, "code", "tiny\n");
    let ids = [submit(&a, &code), submit(&a, &code)];
    for id in &ids {
        assert_eq!(a.wait_end(id).summary.state, "finished");
        assert!(a.logs(id).starts_with("2.0 "));
    }
    assert_eq!(environments(&a).len(), 1);
    let builds: Vec<String> = ids.iter().map(|id| build_lines(&a, id)).collect();
    let seen = builds
        .iter()
        .filter(|lines| lines.contains("environment: built in"));
    // The second waited for the build of the first, or came when it was there.
    assert_eq!(builds_begun(&a), 1);
    let times: std::collections::BTreeSet<_> = seen
        .filter_map(|lines| lines.split("built in ").nth(1)?.split(',').next())
        .collect();
    assert_eq!(times.len(), 1, "{builds:?}");
}

#[test]
fn what_cannot_be_resolved_ends_with_the_resolvers_lines_and_leaves_nothing() {
    let lab = Lab::new();
    let index = Index::new(&lab);
    index.offer("tiny", "1.0");
    let a = index.told(lab.machine("a"));
    a.up(&["--new"]);
    let code = project(&lab, "code", "tiny==7.0\n");
    let detail = a.wait_end(&submit(&a, &code));
    let cause = detail.cause.unwrap();
    assert_eq!(cause.kind, "environment-build");
    assert_eq!(detail.attempts.len(), 1, "no other machine would do better");
    let evidence = cause.evidence.join("\n");
    assert!(evidence.contains("tiny==7.0"), "{evidence}");
    assert_eq!(environments(&a), Vec::<PathBuf>::new());
    // The wrong content under the right name is no better.
    let wrong = "0".repeat(64);
    let code = project(&lab, "other", &format!("tiny==1.0 --hash=sha256:{wrong}\n"));
    let cause = a.wait_end(&submit(&a, &code)).cause.unwrap();
    assert_eq!(cause.kind, "environment-build");
    let evidence = cause.evidence.join("\n").to_lowercase();
    assert!(evidence.contains("hash"), "{evidence}");
}

/// A node, an experiment whose build waits, and the process of that build.
fn endless(lab: &Lab, options: &[&str]) -> (Index, Node, String, PathBuf) {
    let index = Index::new(lab);
    let began = lab.path().join("began");
    index.script(MAKE_ENDLESS, &[began.to_str().unwrap()]);
    let a = index.told(lab.machine("a"));
    a.up(&["--new"]);
    let code = project(lab, "code", "endless\n");
    let mut line = vec!["run", "--source", code.to_str().unwrap()];
    line.extend(options);
    line.extend(["--", "python", "show.py"]);
    let id = a.ask::<SubmitReply>(&line).id;
    let pid = wait_until(PATIENCE, "the build runs", || {
        let pid = fs::read_to_string(&began).ok()?; // not yet
        (!pid.is_empty()).then_some(pid)
    });
    (index, a, id, PathBuf::from(format!("/proc/{pid}")))
}

#[test]
fn an_experiment_that_is_stopped_while_it_is_built_stops_the_build() {
    let lab = Lab::new();
    let (_index, a, id, process) = endless(&lab, &[]);
    assert!(process.exists());
    a.muster(&["stop", &id]).success();
    assert_eq!(a.wait_end(&id).summary.state, "stopped");
    wait_until(PATIENCE, "nothing of the build is left", || {
        (!process.exists() && environments(&a).is_empty()).then_some(())
    });
}

#[test]
fn a_build_ends_with_its_node_and_the_next_one_leaves_nothing_of_it() {
    let lab = Lab::new();
    let (_index, a, id, process) = endless(&lab, &["--retries-node-lost", "0"]);
    assert!(process.exists());
    a.kill();
    wait_until(PATIENCE, "the build is gone with its node", || {
        (!process.exists()).then_some(())
    });
    assert_eq!(environments(&a).len(), 1, "nobody cleared it yet");
    a.up(&[]);
    assert_eq!(environments(&a), Vec::<PathBuf>::new());
    let cause = a.wait_end(&id).cause.unwrap();
    assert_eq!(cause.kind, "node-restarted", "{cause:?}");
}

#[test]
fn a_build_that_outlasts_the_lease_keeps_it() {
    let lab = Lab::new();
    let lease = std::time::Duration::from_secs(2);
    let (_index, a, id, process) = endless(&lab, &["--lease", "2s"]);
    let since = std::time::Instant::now();
    wait_until(PATIENCE, "three leases passed", || {
        (since.elapsed() > 3 * lease).then_some(())
    });
    assert!(process.exists());
    assert_eq!(a.show(&id).summary.state, "placed");
    fs::write(lab.path().join("began.go"), "").unwrap();
    let detail = a.wait_end(&id);
    let cause = detail.cause.unwrap();
    assert_eq!(
        (cause.kind.as_str(), detail.attempts.len()),
        ("environment-build", 1)
    );
    let lines = build_lines(&a, &id);
    assert!(lines.contains("told to fail"), "{lines}");
}

/// Whether an experiment on `node` runs as nobody with packages that it can read and not change, and without a way to
/// what else the node has.
fn check_for_nobody(lab: &Lab, node: &Node) {
    let code = project(lab, "code", "tiny\n");
    let data = node.data();
    let program = format!(
        "import os, sys, tiny
print(os.getuid(), tiny.version)
for path in [sys.prefix + '/planted', tiny.__file__, '{0}/planted']:
    try:
        open(path, 'w')
        print('wrote', path)
    except OSError:
        pass
try:
    os.listdir('{0}/blobs')
    print('listed')
except OSError:
    pass
",
        data.display()
    );
    fs::write(code.join("show.py"), program).unwrap();
    let id = submit(node, &code);
    let detail = node.wait_end(&id);
    let all = node.muster(&["logs", &id]);
    assert_eq!(detail.summary.state, "finished", "{detail:?} {all:?}");
    assert_eq!(node.logs(&id), "65534 1.0\n");
    let [place] = &environments(node)[..] else {
        panic!("{:?}", environments(node));
    };
    let left: Vec<_> = fs::read_dir(place)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    for gone in ["build", "order"] {
        assert!(!left.iter().any(|name| name == gone), "{left:?}");
    }
}

#[test]
fn a_root_node_builds_as_the_user_of_jobs_and_keeps_what_it_built() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let index = Index::new(&lab);
    index.offer("tiny", "1.0");
    let a = index.told(lab.machine("a"));
    leave_out_job_user(&a);
    a.up(&["--new"]);
    check_for_nobody(&lab, &a);
    let owner = environments(&a)[0]
        .join("env/bin")
        .metadata()
        .unwrap()
        .uid();
    assert_eq!(owner, 0);
}

#[test]
fn an_ordinary_users_node_shows_a_job_its_packages_and_nothing_else() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let index = Index::new(&lab);
    index.offer("tiny", "1.0");
    let a = index.told(node_of_nobody(&lab));
    a.up(&["--new"]);
    let told = a.muster(&["--json", "nodes"]).success();
    if told.contains("no user make a namespace") {
        skip("this kernel gives no namespaces to users");
        return;
    }
    check_for_nobody(&lab, &a);
}
