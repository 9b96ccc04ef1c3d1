//! A directory with attempts, nodes over it, and what is seen from outside.

#![expect(
    clippy::unwrap_used,
    reason = "a lab that does not stand up fails its test"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use executor::{Config, Ended, Event, Handle, StartAttempt, boottime_ms};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use types::{
    AttemptToken, ConsoleStream, DurationMs, ExperimentId, ExperimentSpec, Incarnation, LogIndex,
    Policy, Record, RecordBody, ResourceRequest, Resources, SourceTree, TreeEntry, TreeEntryKind,
    WantedAttempt, decode_frames,
};

/// Every wait of these tests ends by then.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    directory: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        // Deeper than a socket address is long.
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// One that other users may pass through, as they may through `/var/lib`.
    pub(crate) fn passable() -> Self {
        Self::with_mode(0o755)
    }

    /// One that only its owner may enter, as `/root`.
    pub(crate) fn closed() -> Self {
        Self::with_mode(0o700)
    }

    fn with_mode(mode: u32) -> Self {
        let lab = Self::new();
        let rights = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(lab.directory.path(), rights).unwrap();
        lab
    }

    /// The node's own directory: keys, and the attempts below it.
    pub(crate) fn private(&self) -> PathBuf {
        self.directory.path().join("a".repeat(120))
    }

    pub(crate) fn config(&self) -> Config {
        let attempts = self.private().join("attempts");
        let test = std::env::current_exe().unwrap();
        let target = test.parent().and_then(Path::parent).unwrap();
        let holder = target.join("examples/hold");
        assert!(
            holder.exists(),
            "build it with `cargo build --examples -p executor`"
        );
        let mut config = Config::new(attempts, holder);
        config.holder_arguments.clear();
        config
    }

    pub(crate) fn attempt(&self, number: u32) -> PathBuf {
        self.config().directory.join(token(number).directory_name())
    }

    pub(crate) fn holder_pid(&self, number: u32) -> u32 {
        let bytes = std::fs::read(self.attempt(number).join("status")).unwrap();
        // `Status::V1`: variant u32, then the holder's pid u32.
        let (_variant, pid): (u32, u32) = types::codec::decode::<(u32, u32, u32, u64)>(&bytes, 100)
            .map(|(variant, holder, _pid, _at)| (variant, holder))
            .unwrap();
        pid
    }

    pub(crate) fn no_cgroups(&self) -> bool {
        executor::protections(&self.config())[0].contains("/proc")
    }
}

pub(crate) struct Node {
    pub(crate) handle: Handle,
    events: mpsc::Receiver<Event>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    pub(crate) sealed_events: usize,
    ends: BTreeMap<AttemptToken, Ended>,
}

impl Node {
    pub(crate) async fn start(lab: &Lab) -> Self {
        Self::with(lab, |_config| {}).await
    }

    pub(crate) async fn with(lab: &Lab, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = lab.config();
        change(&mut config);
        let (handle, events, runner) = executor::start(config).await.unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(runner.run(shutdown.clone()));
        Self {
            handle,
            events,
            shutdown,
            task,
            sealed_events: 0,
            ends: BTreeMap::new(),
        }
    }

    /// Ends this node's side without a word to the holders, as a kill would.
    pub(crate) async fn die(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }

    pub(crate) async fn start_attempt(&self, number: u32, command: Vec<String>) {
        let start = start_of(number, command);
        self.handle.start_attempt(start).await.unwrap();
    }

    pub(crate) async fn event(&mut self) -> Event {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event in time").expect("the node runs")
    }

    /// The end of an attempt, told before or still to come.
    pub(crate) async fn ended(&mut self, number: u32) -> Ended {
        loop {
            if let Some(ended) = self.ends.remove(&token(number)) {
                return ended;
            }
            match self.event().await {
                Event::Ended { token, ended } => drop(self.ends.insert(token, ended)),
                Event::SegmentSealed { .. } => self.sealed_events += 1,
                Event::Started { .. } | Event::TailGrew { .. } => {}
            }
        }
    }

    pub(crate) async fn records(&self, number: u32) -> Vec<Record> {
        let mut records = Vec::new();
        let mut next = 0;
        loop {
            let read = self
                .handle
                .read_tail(&token(number), next, 1 << 20)
                .await
                .unwrap();
            if read.frames.is_empty() {
                return records;
            }
            next = read.next_sequence;
            records.extend(decode_frames(&read.frames).unwrap().0);
        }
    }

    pub(crate) async fn wait_for_console(&mut self, number: u32, text: &str) {
        self.wait_for_console_from(number, ConsoleStream::Stdout, text)
            .await;
    }

    pub(crate) async fn wait_for_console_from(
        &mut self,
        number: u32,
        stream: ConsoleStream,
        text: &str,
    ) {
        let deadline = Instant::now() + PATIENCE;
        let mut changed = self.handle.tail_changed(&token(number)).unwrap();
        let mut next = 0;
        let mut seen = String::new();
        while !seen.contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {seen:?}");
            let read = self
                .handle
                .read_tail(&token(number), next, 4 << 20)
                .await
                .unwrap();
            if read.frames.is_empty() {
                tokio::time::timeout(PATIENCE, changed.changed())
                    .await
                    .unwrap()
                    .unwrap();
            }
            next = read.next_sequence;
            let records = decode_frames(&read.frames).unwrap().0;
            seen.push_str(&console(&records, stream));
        }
    }
}

pub(crate) fn token(number: u32) -> AttemptToken {
    AttemptToken {
        incarnation: Incarnation(1),
        experiment: ExperimentId::from_bits(4_711),
        attempt: number,
        placed_at: LogIndex(9),
    }
}

pub(crate) fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

pub(crate) fn start_of(number: u32, command: Vec<String>) -> StartAttempt {
    StartAttempt {
        wanted: WantedAttempt {
            token: token(number),
            rank: 0,
            gang: Vec::new(),
            spec: ExperimentSpec {
                name: "test".to_owned(),
                command,
                source: None,
                working_directory: String::new(),
                variables: Vec::new(),
                environment: types::Environment::Host,
                parameters: Vec::new(),
                resources: ResourceRequest::default(),
                learned: Vec::new(),
                prefer_nodes: Vec::new(),
                queue: types::QueueName::default(),
                policy: Policy::default(),
                outputs: types::Outputs::default(),
                origin: None,
            },
            submitted_by: "ann@lab".to_owned(),
            resources: Resources {
                cpu_milli: 1_000,
                memory_bytes: 1 << 30,
                ..Resources::default()
            },
            mirror: None,
            lease_ms: DurationMs(60_000),
            stop_requested_by: None,
        },
        tree: None,
        environment: None,
        files: BTreeMap::new(),
        gpus: Vec::new(),
        deadline_boottime_ms: boottime_ms() + 60_000,
        variables: Vec::new(),
    }
}

pub(crate) fn tree_with_link(path: &str, target: &str) -> SourceTree {
    let link = TreeEntry {
        path: path.to_owned(),
        kind: TreeEntryKind::Symlink {
            target: target.to_owned(),
        },
    };
    SourceTree::V1 {
        entries: vec![link],
        git: None,
    }
}

pub(crate) fn console(records: &[Record], wanted: ConsoleStream) -> String {
    let mut all = Vec::new();
    for record in records {
        if let RecordBody::Console { stream, bytes } = &record.body
            && *stream == wanted
        {
            all.extend_from_slice(bytes);
        }
    }
    String::from_utf8(all).unwrap()
}

/// Living processes of an attempt, by the directory that is in their environment.
pub(crate) fn processes_with(lab: &Lab, number: u32) -> Vec<u32> {
    let mark = format!("TMPDIR={}", lab.attempt(number).join("tmp").display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let Some(pid) = path.file_name().unwrap().to_str().unwrap().parse().ok() else {
            continue;
        };
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        if environment
            .split(|&byte| byte == 0)
            .any(|entry| entry == mark.as_bytes())
        {
            found.push(pid);
        }
    }
    found
}

/// Cgroups of the lab's attempts that were not removed; waits a moment for the holder's last act.
pub(crate) async fn cgroup_leftovers(lab: &Lab) -> Vec<PathBuf> {
    let hash = blake3::hash(lab.config().directory.as_os_str().as_encoded_bytes());
    let prefix = format!("muster-{}", &hash.to_hex()[..8]);
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let mut left = Vec::new();
        find(Path::new("/sys/fs/cgroup"), &prefix, 5, &mut left);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn find(directory: &Path, prefix: &str, depth: u32, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(path);
        } else if depth > 0 {
            find(&path, prefix, depth - 1, found);
        }
    }
}

pub(crate) async fn wait_until(what: &str, mut claim: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !claim() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

pub(crate) fn peak_resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kibibytes: u64 = line
        .split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kibibytes << 10
}
