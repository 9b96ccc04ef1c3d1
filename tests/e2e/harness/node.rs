//! A machine with a node: what is done to it, and what it is asked.

use std::fs::{self, File, OpenOptions};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal};
use serde::de::DeserializeOwned;
use service::view::{
    ClusterView, ExperimentDetail, ExperimentList, ExperimentSummary, SubmitReply,
};

use super::processes::{ProcessFacts, end_all, signal_all};
use super::talk::{Output, exchange, read_lossy, run};
use super::{PATIENCE, lock, wait_until};

/// Speaks up about what the nodes decide, not about what their libraries do.
const LOG_FILTER: &str = "warn,muster=debug,service=debug,consensus=debug,network=debug,executor=debug,blobs=debug,rest=debug";

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
    /// The network namespace in which the node runs; none: that of the test, on loopback.
    pub(crate) namespace: Option<PathBuf>,
    /// Whether it speaks multicast DNS, which must not leave a namespace.
    pub(crate) mdns: bool,
    /// Variables for the node process alone, over those of the machine.
    pub(crate) variables: Vec<(String, String)>,
    /// A program and its arguments that become the node process: nsenter, strace, a shell with limits.
    pub(crate) wrapper: Vec<String>,
    /// None: it is not meant to run.
    process: Mutex<Option<Child>>,
}

impl Node {
    /// A machine of a lab with nothing on it but its settings.
    pub(super) fn new(name: &str, lab: &Path) -> Self {
        let home = lab.join(name);
        fs::create_dir_all(home.join("data")).expect("a data directory");
        let node = Self {
            name: name.to_owned(),
            socket: home.with_extension("sock"),
            home,
            listen: "127.0.0.1:0".to_owned(),
            port: 0,
            namespace: None,
            mdns: false,
            variables: Vec::new(),
            wrapper: Vec::new(),
            process: Mutex::new(None),
        };
        node.settings("pool=none", "64MiB");
        node
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.home.with_extension(extension)
    }

    /// Writes the settings file. What the node has is said, not measured: the same on every host. Experiments run as the
    /// node's user: many of them write beside their own directory, for the test to read.
    pub(crate) fn settings(&self, label: &str, disk_reserve: &str) {
        let name = &self.name;
        let text = format!(
            "labels = [\"machine={name}\", \"{label}\"]
keeps_blobs = true
disk_reserve = \"{disk_reserve}\"
log_reserve = \"1MiB\"
job_user = \"node\"
[resources]
cpus = \"4\"
memory = \"4GiB\"
"
        );
        fs::write(self.data().join("muster.toml"), text).expect("the settings are written");
    }

    /// The program with the environment of this machine.
    pub(crate) fn program(&self) -> Command {
        self.with_environment(Command::new(env!("CARGO_BIN_EXE_muster")))
    }

    /// The same inside the machine's network. nsenter becomes the program: no process in between.
    fn program_inside(&self) -> Command {
        if let Some((program, arguments)) = self.wrapper.split_first() {
            let mut command = Command::new(program);
            command.args(arguments).arg(env!("CARGO_BIN_EXE_muster"));
            return self.with_environment(command);
        }
        let Some(namespace) = &self.namespace else {
            return self.program();
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", namespace.display()))
            .arg(env!("CARGO_BIN_EXE_muster"));
        self.with_environment(command)
    }

    /// A command that sees this machine's environment and nothing of the test's.
    pub(crate) fn with_environment(&self, mut command: Command) -> Command {
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
        let mut command = self.program_inside();
        command.args(["up", "--name", &self.name]);
        if !self.mdns {
            command.arg("--no-mdns");
        }
        command
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
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

    /// The rest of the printed word that begins so.
    pub(crate) fn printed_word(&self, start: &str) -> String {
        let printed = self.printed();
        let mut words = printed.split_whitespace();
        let word = words.find_map(|word| word.strip_prefix(start));
        word.unwrap_or_else(|| panic!("no {start}… in {printed}"))
            .to_owned()
    }

    /// Waits until the node process ends by itself.
    pub(crate) fn wait_gone(&self) -> ExitStatus {
        let mut child = lock(&self.process).take().expect("the node runs");
        wait_until(PATIENCE, "the node ends by itself", || {
            child.try_wait().expect("its end can be asked for")
        })
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

    /// Waits until the node process has ended by itself; says how.
    pub(crate) fn wait_exit(&self) -> ExitStatus {
        let mut child = lock(&self.process).take().expect("the node runs");
        wait_until(PATIENCE, "the node ends by itself", || {
            child.try_wait().expect("its end can be asked for")
        })
    }

    /// Everything that runs on this machine.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        super::processes_whose(|facts| facts.belongs_below(&self.home))
    }

    fn tell(&self, signal: Signal) {
        let process = lock(&self.process);
        let child = process.as_ref().expect("the node runs");
        rustix::process::kill_process(Pid::from_child(child), signal).expect("it is signalled");
    }

    /// SIGSTOP to the node process alone: to the others it is as if it hung.
    pub(crate) fn pause(&self) {
        self.tell(Signal::STOP);
    }

    /// Lets a paused node go on.
    pub(crate) fn resume(&self) {
        self.tell(Signal::CONT);
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
        let own = |facts: &ProcessFacts| facts.belongs_below(&self.home);
        // Stopped first, so that no holder lives to see its job die.
        signal_all(Signal::STOP, own);
        self.kill();
        assert!(end_all(own), "all processes of the machine are gone");
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

    /// The same with headers of its own.
    pub(crate) fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        self.door("GET", path, headers, "")
    }

    /// A POST of JSON over the Unix socket: status and body.
    pub(crate) fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.door("POST", path, &[("Content-Type", "application/json")], body)
    }

    /// A PUT over the Unix socket: status and body.
    pub(crate) fn http_put(&self, path: &str, body: &str) -> (u16, String) {
        self.door("PUT", path, &[], body)
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
