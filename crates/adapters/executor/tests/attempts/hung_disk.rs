//! A disk that hangs under a running holder: strace stops its syncs, which waits for them as a real one would.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use executor::{Phase, StopReason, boottime_ms};
use types::{CauseKind, ConsoleStream, DurationMs};

use crate::lab::{self, Lab, Node, console, processes_with, shell, start_of, token};

/// A line every 50 ms, so that there is something to sync each second.
const PRINTING: &str = "setsid sleep 1000 & while :; do echo tick; sleep 0.05; done";
/// Prints like that until there is a file `go` in the working directory.
const PRINTING_UNTIL_GO: &str = "while [ ! -e go ]; do echo tick; sleep 0.05; done";
/// What a kill may take on a machine that does other things too.
const KILL_MS: u64 = 500;

/// The disk of one holder: no sync returns until it is let go.
struct HungDisk {
    strace: Child,
}

impl HungDisk {
    /// Hangs, and waits until a sync does. None, with a line that says so, where nothing can be traced.
    async fn under(lab: &Lab, number: u32) -> Option<Self> {
        let trace = lab.private().join("trace");
        let holder = lab.holder_pid(number).to_string();
        // Longer than any test: it ends with the trace.
        let inject = "inject=fdatasync,fsync:delay_enter=600000000";
        let spawned = Command::new("strace")
            .args(["-f", "-e", "trace=fdatasync,fsync", "-e", inject])
            .args(["-p", holder.as_str(), "-o"])
            .arg(&trace)
            .stdin(Stdio::null())
            .spawn();
        let Ok(mut strace) = spawned else {
            println!("SKIPPED: strace is not installed");
            return None;
        };
        let begun = || {
            let seen = std::fs::read_to_string(&trace).unwrap_or_default();
            seen.contains("fdatasync(")
        };
        let mut ended = None;
        lab::wait_until("a sync hangs", || {
            ended = strace.try_wait().unwrap();
            ended.is_some() || begun()
        })
        .await;
        if ended.is_some() {
            println!("SKIPPED: strace may not trace here");
            return None;
        }
        Some(Self { strace })
    }

    /// From here on syncs return.
    fn let_go(self) {
        drop(self);
    }
}

impl Drop for HungDisk {
    /// After a failure too: what hangs cannot end.
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.strace);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.strace.wait().unwrap();
    }
}

fn exit_file(lab: &Lab) -> PathBuf {
    lab.attempt(1).join("exit")
}

fn go(lab: &Lab) {
    std::fs::write(lab.attempt(1).join("work/go"), "").unwrap();
}

/// Lines of the records, each `tick`.
async fn ticks(node: &Node) -> usize {
    let text = console(&node.records(1).await, ConsoleStream::Stdout);
    let ticks = text.lines().count();
    assert_eq!(text, "tick\n".repeat(ticks));
    ticks
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_kills_the_tree_though_the_disk_hangs() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let mut start = start_of(1, shell(PRINTING));
    let deadline = boottime_ms() + 6_000;
    start.deadline_boottime_ms = deadline;
    node.handle.start_attempt(start).await.unwrap();
    node.wait_for_console(1, "tick").await;
    let Some(disk) = HungDisk::under(&lab, 1).await else {
        return;
    };
    assert!(boottime_ms() + 1_000 < deadline, "it hangs in time");
    assert!(processes_with(&lab, 1).len() >= 3);
    lab::wait_until("nobody is left", || processes_with(&lab, 1).is_empty()).await;
    let gone = boottime_ms();
    println!(
        "gone {} ms after the deadline",
        gone.cast_signed() - deadline.cast_signed()
    );
    assert!(
        gone > deadline - KILL_MS && gone < deadline + KILL_MS,
        "{gone} for {deadline}"
    );
    let on_disk = ticks(&node).await;
    assert!(!exit_file(&lab).exists(), "the records are not durable yet");
    disk.let_go();
    let ended = node.ended(1).await;
    assert_eq!(ended.cause.kind, CauseKind::LeaseExpired, "{ended:?}");
    let records = node.records(1).await;
    assert_eq!(records.len() as u64, ended.records);
    let lines = console(&records, ConsoleStream::Muster);
    assert!(lines.contains("lease ended"), "{lines}");
    // What was printed while the disk hung.
    assert!(ticks(&node).await > on_disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_extends_and_stops_a_flood_though_the_disk_hangs_and_memory_stays_small() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let script = format!("setsid sleep 1000 & {PRINTING_UNTIL_GO}; yes");
    let mut start = start_of(1, shell(&script));
    let first_deadline = boottime_ms() + 6_000;
    start.deadline_boottime_ms = first_deadline;
    node.handle.start_attempt(start).await.unwrap();
    node.wait_for_console(1, "tick").await;
    let Some(disk) = HungDisk::under(&lab, 1).await else {
        return;
    };
    go(&lab);
    let extended = first_deadline + 60_000;
    node.handle.extend_lease(&token(1), extended).await.unwrap();
    lab::wait_until("the first lease is over", || {
        boottime_ms() > first_deadline + KILL_MS
    })
    .await;
    assert!(processes_with(&lab, 1).len() >= 3, "it was extended");
    assert_eq!(node.handle.running()[0].phase, Phase::Running);
    let peak = lab::peak_resident_bytes(lab.holder_pid(1));
    println!("holder peak {} KiB", peak >> 10);
    assert!(peak < 32 << 20, "holder held {peak} bytes");
    let by = "ann@lab".to_owned();
    let reason = StopReason::Requested { by: by.clone() };
    let asked = boottime_ms();
    node.handle
        .stop(&token(1), reason, DurationMs(0))
        .await
        .unwrap();
    lab::wait_until("nobody is left", || processes_with(&lab, 1).is_empty()).await;
    let took = boottime_ms() - asked;
    println!("gone {took} ms after the stop");
    assert!(took < KILL_MS, "{took} ms");
    assert!(!exit_file(&lab).exists(), "the records are not durable yet");
    disk.let_go();
    assert_eq!(node.ended(1).await.cause.kind, CauseKind::Stopped { by });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_while_the_disk_hangs_is_all_there_later() {
    // More than waits in the holder, less than that and a pipe; the last words come when it reads no more.
    const BYTES: usize = 300_000;
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let script =
        format!("{PRINTING_UNTIL_GO}; yes xxxxxxx | head -c {BYTES}; sleep 1; echo last words");
    node.start_attempt(1, shell(&script)).await;
    node.wait_for_console(1, "tick").await;
    let Some(disk) = HungDisk::under(&lab, 1).await else {
        return;
    };
    go(&lab);
    lab::wait_until("the command has ended", || {
        processes_with(&lab, 1).is_empty()
    })
    .await;
    // Longer than a pipe may stay open that nobody writes to.
    let later = boottime_ms() + 2_000;
    lab::wait_until("the holder had time", || boottime_ms() > later).await;
    assert!(!exit_file(&lab).exists(), "the records are not durable yet");
    disk.let_go();
    let ended = node.ended(1).await;
    assert_eq!(ended.cause.kind, CauseKind::Finished, "{ended:?}");
    let records = node.records(1).await;
    assert_eq!(records.len() as u64, ended.records);
    let text = console(&records, ConsoleStream::Stdout);
    let printed = text.trim_start_matches("tick\n");
    let expected = format!("{}last words\n", "xxxxxxx\n".repeat(BYTES / 8));
    assert_eq!(printed.len(), expected.len());
    assert_eq!(printed, expected);
}
