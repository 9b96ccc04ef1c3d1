//! strace on a node: to see what it asks of the kernel in which order, and to have that fail or take long.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

use super::talk::read_lossy;
use super::{Node, PATIENCE, skip, wait_until};

/// Whether strace is here and may attach to what it did not start; says so if not.
pub(crate) fn can_trace() -> bool {
    let can = attaches();
    if !can {
        skip("strace is not installed, or may not attach to a process: it takes root");
    }
    can
}

/// Attaches to a process that ends when its input does.
fn attaches() -> bool {
    let waiting = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let mut waiting = waiting.expect("cat starts");
    let strace = Command::new("strace")
        .args(["-o", "/dev/null", "-p", &waiting.id().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let can = strace.is_ok_and(|mut strace| {
        let said = strace.stderr.take().expect("a pipe");
        let mut first = String::new();
        // Not readable is as good as nothing said.
        BufReader::new(said).read_line(&mut first).unwrap_or(0);
        drop(waiting.stdin.take());
        strace.wait().expect("it ends with what it traces");
        first.contains(" attached")
    });
    drop(waiting.stdin.take());
    waiting.wait().expect("it ends with its input");
    can
}

/// A strace that is attached to a running node.
pub(crate) struct Trace {
    child: Child,
    file: PathBuf,
}

impl Trace {
    /// Attaches to all threads of the node; `arguments` say what is traced and injected.
    pub(crate) fn attach(node: &Node, lab: &Path, arguments: &[&str]) -> Self {
        let file = lab.join(format!("{}.trace", node.name));
        let said = lab.join(format!("{}.strace", node.name));
        let mut child = Command::new("strace")
            .args(["-f", "-y", "-s", "48", "-p", &node.process_id().to_string()])
            .arg("-o")
            .arg(&file)
            .args(arguments)
            .env("HOME", &node.home)
            .stdin(Stdio::null())
            .stderr(File::create(&said).expect("a file for its errors"))
            .spawn()
            .expect("strace starts");
        wait_until(PATIENCE, "strace is attached", || {
            let ended = child.try_wait().expect("its end can be asked for");
            assert_eq!(ended, None, "strace: {}", read_lossy(&said));
            read_lossy(&said).contains(" attached").then_some(())
        });
        Self { child, file }
    }

    /// Detaches and gives what was seen.
    pub(crate) fn end(mut self) -> Vec<String> {
        if self
            .child
            .try_wait()
            .expect("its end can be asked for")
            .is_none()
        {
            let pid = Pid::from_child(&self.child);
            rustix::process::kill_process(pid, Signal::INT).expect("it is signalled");
        }
        wait_until(PATIENCE, "strace has detached", || {
            self.child.try_wait().expect("its end can be asked for")
        });
        read_lossy(&self.file).lines().map(str::to_owned).collect()
    }
}
