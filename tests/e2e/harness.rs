//! Nodes as processes: started, killed and started again, asked through the command line, gone at the end.
//!
//! Everything of a node, also the processes of its experiments, carries the node's directory as `HOME`; this is
//! how the harness finds what belongs to a machine and never touches anything else.

use std::fs::{self, File, OpenOptions};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::de::DeserializeOwned;
use service::view::{
    ClusterView, ExperimentDetail, ExperimentList, ExperimentSummary, NodesView, SubmitReply,
};
use tempfile::TempDir;

/// Every wait ends by then: far beyond what a loaded machine takes, so that only what never comes fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);
/// Clusters that run at the same time: three nodes in a debug build keep a core busy while they start.
const MOST_LABS: usize = 2;
/// Lines of each log that a failed test prints.
const TAIL_LINES: usize = 60;
/// How deep below the root of a hierarchy a node's own cgroup is looked for.
const CGROUP_DEPTH: u32 = 6;
/// Speaks up about what the nodes decide, not about what their libraries do.
const LOG_FILTER: &str = "warn,muster=debug,service=debug,consensus=debug,network=debug,executor=debug,blobs=debug,rest=debug";

/// Looks until `condition` gives something.
pub(crate) fn wait_until<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {patience:?} in vain: {what}"
        );
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test's own thread has nothing else to do, and no runtime"
)]
fn pause() {
    std::thread::sleep(LOOK);
}

/// The right to run one of [`MOST_LABS`].
struct Turn;

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(MOST_LABS), Condvar::new());

impl Turn {
    fn take() -> Self {
        let free = TURNS
            .1
            .wait_while(lock(&TURNS.0), |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        let mut free = free;
        *free -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock(&TURNS.0) += 1;
        TURNS.1.notify_one();
    }
}

/// A failed test must not fail the others by a poisoned lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory for the machines of one test. When it is dropped nothing is left of them.
pub(crate) struct Lab {
    directory: TempDir,
    _turn: Turn,
}

impl Lab {
    /// Waits for its turn.
    pub(crate) fn new() -> Self {
        let turn = Turn::take();
        // Under /tmp: the path of a socket has at most 108 bytes.
        let directory = tempfile::Builder::new()
            .prefix("muster-")
            .tempdir_in("/tmp");
        Self {
            directory: directory.expect("a directory for the test"),
            _turn: turn,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A machine with a name, nothing on it yet.
    pub(crate) fn machine(&self, name: &str) -> Node {
        let home = self.path().join(name);
        fs::create_dir_all(home.join("data")).expect("a data directory");
        let node = Node {
            name: name.to_owned(),
            socket: home.with_extension("sock"),
            home,
            listen: "127.0.0.1:0".to_owned(),
            port: 0,
            process: Mutex::new(None),
        };
        node.settings("pool=none", "64MiB");
        node
    }

    /// A cluster of one node, `a`.
    pub(crate) fn one(&self) -> Node {
        let node = self.machine("a");
        node.up(&["--new"]);
        node
    }

    /// A cluster of three voters, `a`, `b` and `c`; `a` made it.
    pub(crate) fn three(&self) -> [Node; 3] {
        self.three_of(["a", "b", "c"].map(|name| self.machine(name)))
    }

    /// The same out of given machines.
    pub(crate) fn three_of(&self, [a, b, c]: [Node; 3]) -> [Node; 3] {
        a.up(&["--new"]);
        let token = a.first_token();
        b.spawn(&["--join", &token]);
        c.spawn(&["--join", &token]);
        b.wait_up();
        c.wait_up();
        for node in [&a, &b, &c] {
            wait_until(PATIENCE, "each node lists three live voters", || {
                let nodes = node.ask::<NodesView>(&["nodes"]).nodes;
                let ready = nodes
                    .iter()
                    .filter(|node| node.health == "live" && node.role != "worker");
                (ready.count() == 3).then_some(())
            });
        }
        [a, b, c]
    }

    /// Processes of any machine of this lab.
    fn processes(&self) -> Vec<Pid> {
        processes_whose(|facts| facts.belongs_below(self.path()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_tails(self.path());
        }
        let deadline = Instant::now() + PATIENCE;
        // Again until none is left: a process may be making another while it is killed.
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in left {
                kill_if(pid, |facts| facts.belongs_below(self.path()));
            }
            pause();
        }
        remove_cgroups(self.path());
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the test runner shows it when the test fails"
)]
fn print_tails(directory: &Path) {
    let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    for log in entries(directory).into_iter().filter(is_log) {
        let text = read_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        eprintln!("--- the end of {} ---\n{}", log.display(), tail.join("\n"));
    }
}

/// A machine with a node that may run or not.
pub(crate) struct Node {
    pub(crate) name: String,
    /// `HOME` of all its processes.
    pub(crate) home: PathBuf,
    pub(crate) socket: PathBuf,
    /// Address for its peers.
    pub(crate) listen: String,
    /// Port of its API.
    pub(crate) port: u16,
    /// None: it is not meant to run.
    process: Mutex<Option<Child>>,
}

/// How a command went.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Output {
    /// The standard output of a command that succeeded.
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// The standard error of a command that failed with `code`.
    pub(crate) fn failure(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        self.err
    }
}

impl Node {
    pub(crate) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.home.with_extension(extension)
    }

    /// Writes the settings file. What the node has is said, not measured: the same on every host.
    pub(crate) fn settings(&self, label: &str, disk_reserve: &str) {
        let name = &self.name;
        let text = format!(
            "labels = [\"machine={name}\", \"{label}\"]
keeps_blobs = true
disk_reserve = \"{disk_reserve}\"
[resources]
cpus = \"4\"
memory = \"4GiB\"
"
        );
        fs::write(self.data().join("muster.toml"), text).expect("the settings are written");
    }

    /// The program with the environment of this machine.
    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command
            .env_clear()
            .env("HOME", &self.home)
            .env("MUSTER_LOG", LOG_FILTER)
            .stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
    }

    /// `muster up` on this machine.
    pub(crate) fn up_command(&self, flags: &[&str]) -> Command {
        let mut command = self.program();
        command
            .args(["up", "--no-mdns", "--name", &self.name])
            .args(["--listen", &self.listen, "--port", &self.port.to_string()])
            .arg("--data-dir")
            .arg(self.data())
            .arg("--socket")
            .arg(&self.socket)
            .args(flags);
        command
    }

    /// Starts the node and waits until it serves.
    pub(crate) fn up(&self, flags: &[&str]) {
        self.spawn(flags);
        self.wait_up();
    }

    /// Starts the node.
    pub(crate) fn spawn(&self, flags: &[&str]) {
        let out = File::create(self.file("out")).expect("a file for the output");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.file("log"))
            .expect("a file for the log");
        let child = self.up_command(flags).stdout(out).stderr(log).spawn();
        let before = lock(&self.process).replace(child.expect("muster starts"));
        assert!(before.is_none(), "{} runs already", self.name);
    }

    /// Waits until the node has printed that it serves.
    pub(crate) fn wait_up(&self) {
        wait_until(PATIENCE, &format!("{} is up", self.name), || {
            self.assert_alive();
            self.printed().contains("API http").then_some(())
        });
    }

    /// Runs `muster up` that is expected to give up by itself.
    pub(crate) fn up_in_vain(&self, flags: &[&str]) -> Output {
        run(&mut self.up_command(flags), "muster up gives up")
    }

    /// What the node has printed for people.
    fn printed(&self) -> String {
        read_lossy(&self.file("out"))
    }

    pub(crate) fn log(&self) -> String {
        read_lossy(&self.file("log"))
    }

    /// The join token that the first node prints.
    pub(crate) fn first_token(&self) -> String {
        let printed = self.printed();
        let word = printed
            .split_whitespace()
            .find(|word| word.starts_with("muster1"));
        word.expect("the first node prints a token").to_owned()
    }

    /// Host and port of its API over TCP.
    pub(crate) fn tcp(&self) -> String {
        let printed = self.printed();
        let word = printed
            .split_whitespace()
            .find_map(|word| word.strip_prefix("http://"));
        word.expect("a node prints its URL").to_owned()
    }

    pub(crate) fn assert_alive(&self) {
        if let Some(child) = lock(&self.process).as_mut() {
            let ended = child.try_wait().expect("its end can be asked for");
            assert_eq!(ended, None, "the node {} has ended", self.name);
        }
    }

    pub(crate) fn process_id(&self) -> u32 {
        let process = lock(&self.process);
        process.as_ref().expect("the node runs").id()
    }

    fn signal(&self, signal: Signal) -> ExitStatus {
        let mut child = lock(&self.process).take().expect("the node runs");
        rustix::process::kill_process(Pid::from_child(&child), signal).expect("it is signalled");
        wait_until(PATIENCE, "the node ends", || {
            child.try_wait().expect("its end can be asked for")
        })
    }

    /// SIGKILL to the node process alone.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// SIGTERM to the node process; says how it ended.
    pub(crate) fn terminate(&self) -> ExitStatus {
        self.signal(Signal::TERM)
    }

    /// SIGKILL to the node and to everything that it runs, as a power cut would.
    pub(crate) fn kill_machine(&self) {
        let own = |facts: &ProcessFacts| facts.belongs_to(&self.home);
        // Stopped first, so that no holder lives to see its job die.
        for pid in processes_whose(own) {
            signal_if(pid, Signal::STOP, own);
        }
        self.kill();
        wait_until(PATIENCE, "all processes of the machine are gone", || {
            let left = processes_whose(own);
            for pid in &left {
                kill_if(*pid, own);
            }
            left.is_empty().then_some(())
        });
    }

    /// Runs a command of the client at this node.
    pub(crate) fn muster(&self, arguments: &[&str]) -> Output {
        run(&mut self.client(arguments), &arguments.join(" "))
    }

    /// The same, to be run by the caller.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = self.program();
        command.arg("--node").arg(&self.socket).args(arguments);
        command
    }

    /// Runs a command with `--json` and reads what it prints.
    pub(crate) fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let mut whole = vec!["--json"];
        whole.extend_from_slice(arguments);
        let text = self.muster(&whole).success();
        let read = serde_json::from_str(&text);
        read.unwrap_or_else(|error| panic!("{arguments:?} printed {text:?}: {error}"))
    }

    /// Submits without code; gives the id.
    pub(crate) fn submit(&self, arguments: &[&str]) -> String {
        let mut whole = vec!["run", "--no-source"];
        whole.extend_from_slice(arguments);
        self.ask::<SubmitReply>(&whole).id
    }

    pub(crate) fn show(&self, experiment: &str) -> ExperimentDetail {
        self.ask(&["show", experiment])
    }

    pub(crate) fn list(&self) -> Vec<ExperimentSummary> {
        self.ask::<ExperimentList>(&["ls", "--all", "--limit", "1000"])
            .experiments
    }

    /// The cluster as this node sees it, whether there is a majority or not.
    pub(crate) fn cluster(&self) -> ClusterView {
        let (status, body) = self.get("/api/v1/cluster");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("the cluster as JSON")
    }

    /// A GET over the Unix socket: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.door("GET", path, &[], "")
    }

    /// A POST of JSON over the Unix socket: status and body.
    pub(crate) fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.door("POST", path, &[("Content-Type", "application/json")], body)
    }

    fn door(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        let stream = UnixStream::connect(&self.socket).expect("the socket answers");
        exchange(stream, method, path, headers, body)
    }

    /// A request over TCP: status and body.
    pub(crate) fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        let stream = TcpStream::connect(self.tcp());
        exchange(
            stream.expect("the port answers"),
            method,
            path,
            headers,
            body,
        )
    }

    /// Waits until an experiment is in one of these states.
    pub(crate) fn wait_state(&self, experiment: &str, states: &[&str]) -> ExperimentDetail {
        wait_until(PATIENCE, &format!("{experiment} is {states:?}"), || {
            let detail = self.show(experiment);
            states
                .contains(&detail.summary.state.as_str())
                .then_some(detail)
        })
    }

    /// Waits until an experiment has ended.
    pub(crate) fn wait_end(&self, experiment: &str) -> ExperimentDetail {
        self.wait_state(experiment, &["finished", "failed", "stopped"])
    }

    /// What an experiment wrote to its standard output so far.
    pub(crate) fn logs(&self, experiment: &str) -> String {
        self.muster(&["logs", experiment]).success()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_alive();
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command, what: &str) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("muster starts");
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let out = std::thread::spawn(move || read_to_end(stdout.as_mut().expect("a pipe")));
    let err = std::thread::spawn(move || read_to_end(stderr.as_mut().expect("a pipe")));
    let status = wait_until(PATIENCE, what, || {
        child.try_wait().expect("its end can be asked for")
    });
    Output {
        code: status.code().unwrap_or(-1),
        out: out.join().expect("its output is read"),
        err: err.join().expect("its errors are read"),
    }
}

fn read_to_end(from: &mut impl std::io::Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The text of a file; nothing if there is none.
pub(crate) fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// One request and its answer, by hand: what a test sends is what it says.
fn exchange(
    mut stream: impl std::io::Read + std::io::Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str("Host: localhost\r\n");
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    stream
        .write_all(request.as_bytes())
        .expect("the request is sent");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the answer is read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// What `/proc` tells about a process.
pub(crate) struct ProcessFacts {
    environment: Vec<u8>,
    pub(crate) arguments: String,
}

impl ProcessFacts {
    fn read(pid: i32) -> Self {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default(); // gone: nothing
        Self {
            environment: read("environ"),
            arguments: String::from_utf8_lossy(&read("cmdline")).replace('\0', " "),
        }
    }

    /// Whether a variable has exactly this value.
    pub(crate) fn has(&self, variable: &str) -> bool {
        let mut variables = self.environment.split(|byte| *byte == 0);
        variables.any(|one| one == variable.as_bytes())
    }

    fn belongs_to(&self, home: &Path) -> bool {
        self.has(&format!("HOME={}", home.display()))
    }

    fn belongs_below(&self, directory: &Path) -> bool {
        let start = format!("HOME={}/", directory.display());
        let mut variables = self.environment.split(|byte| *byte == 0);
        variables.any(|one| one.starts_with(start.as_bytes()))
    }
}

/// The living processes for which `wanted` holds. The dead that wait for their parent have no environment any more.
pub(crate) fn processes_whose(wanted: impl Fn(&ProcessFacts) -> bool) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()); // others are no processes
    pids.filter(|pid| wanted(&ProcessFacts::read(*pid)))
        .filter_map(Pid::from_raw)
        .collect()
}

fn kill_if(pid: Pid, wanted: impl Fn(&ProcessFacts) -> bool) {
    signal_if(pid, Signal::KILL, wanted);
}

/// Signals a process that is still the one that is meant: the handle is taken before the look.
fn signal_if(pid: Pid, signal: Signal, wanted: impl Fn(&ProcessFacts) -> bool) {
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
        return; // It is gone.
    };
    if wanted(&ProcessFacts::read(pid.as_raw_pid())) {
        match pidfd_send_signal(handle, signal) {
            Ok(()) | Err(_) => {} // An error means that it is gone, as wanted.
        }
    }
}

/// Removes the cgroups of attempts whose holders were killed; a node that ends in order does it itself.
fn remove_cgroups(lab: &Path) {
    let names: Vec<String> = entries(lab)
        .iter()
        .flat_map(|machine| entries(&machine.join("data/attempts")))
        .filter_map(|attempt| Some(attempt.file_name()?.to_str()?.to_owned())) // ours are text
        .collect();
    let mut directories = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = directories.pop() {
        let name = directory.to_string_lossy();
        if names
            .iter()
            .any(|attempt| name.ends_with(&format!("-{attempt}")))
        {
            // An error leaves an empty directory behind, which harms nobody.
            drop(fs::remove_dir(&directory));
        } else if depth < CGROUP_DEPTH && directory.is_dir() {
            directories.extend(
                entries(&directory)
                    .into_iter()
                    .map(|below| (below, depth + 1)),
            );
        }
    }
}

/// What lies in a directory, sorted; nothing if there is none.
pub(crate) fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect(); // gone meanwhile
    paths.sort();
    paths
}
