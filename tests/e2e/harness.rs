//! Nodes as processes: started, killed and started again, asked through the command line, gone at the end.
//!
//! Everything of a node, also the processes of its experiments, carries the node's directory as `HOME`; this is
//! how the harness finds what belongs to a machine and never touches anything else.

// With their paths, so that the laboratory of networks can take the same harness as a module of its own.
#[path = "harness/disk.rs"]
mod disk;
#[path = "harness/jobs.rs"]
mod jobs;
#[path = "harness/node.rs"]
mod node;
#[path = "harness/processes.rs"]
mod processes;
#[path = "harness/skip.rs"]
mod skip;
#[path = "harness/talk.rs"]
mod talk;
#[path = "harness/trace.rs"]
mod trace;

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use service::view::{NodeView, NodesView};
use tempfile::TempDir;

pub(crate) use disk::Disk;
pub(crate) use jobs::{FAR, counted, counting, wait_lines};
pub(crate) use node::Node;
pub(crate) use processes::processes_whose;
pub(crate) use skip::skip;
pub(crate) use talk::{Output, entries, read_lossy, run, run_within};
pub(crate) use trace::{Trace, can_trace};

/// Every wait ends by then: far beyond what a loaded machine takes, so that only what never comes fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);
/// Clusters that run at the same time: three nodes in a debug build keep a core busy while they start.
const MOST_LABS: usize = 2;
/// Lines of each log that a failed test prints.
const TAIL_LINES: usize = 60;
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
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
        Node::new(name, self.path())
    }

    /// A cluster of one node, `a`.
    pub(crate) fn one(&self) -> Node {
        let node = self.machine("a");
        node.up(&["--new"]);
        node
    }

    /// A cluster of three voters, `a`, `b` and `c`; `a` made it.
    pub(crate) fn three(&self) -> [Node; 3] {
        cluster_of(["a", "b", "c"].map(|name| self.machine(name)))
    }
}

/// A cluster of three voters out of given machines; the first made it.
pub(crate) fn cluster_of([a, b, c]: [Node; 3]) -> [Node; 3] {
    a.up(&["--new"]);
    let token = a.first_token();
    b.spawn(&["--join", &token]);
    c.spawn(&["--join", &token]);
    b.wait_up();
    c.wait_up();
    for node in [&a, &b, &c] {
        wait_until(PATIENCE, "each node lists three live voters", || {
            let output = node.muster(&["--json", "nodes"]);
            let view: NodesView = serde_json::from_str(&output.out).ok()?; // an election may be under way
            let votes = |node: &&NodeView| ["leader", "voter"].contains(&&*node.role);
            let live = view.nodes.iter().filter(|node| node.health == "live");
            (live.filter(votes).count() == 3).then_some(())
        });
    }
    [a, b, c]
}

/// Splits off the node that leads.
pub(crate) fn leader_and_others(nodes: &[Node; 3]) -> (&Node, [&Node; 2]) {
    let leader = wait_until(PATIENCE, "somebody leads", || {
        let leader = nodes[0].cluster().leader?.name;
        nodes.iter().find(|node| node.name == leader)
    });
    let others: Vec<_> = nodes
        .iter()
        .filter(|node| node.name != leader.name)
        .collect();
    (leader, [others[0], others[1]])
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_tails(self.path());
        }
        let ended = processes::end_all(|facts| facts.belongs_below(self.path()));
        assert!(ended || std::thread::panicking(), "processes are left");
        processes::remove_cgroups(self.path());
    }
}

/// The test runner shows it when the test fails.
fn print_tails(directory: &Path) {
    let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    for log in entries(directory).into_iter().filter(is_log) {
        let text = read_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        eprintln!("--- the end of {} ---\n{}", log.display(), tail.join("\n"));
    }
}
