//! Attempts with real processes: a real holder, real pipes, real signals.

#[cfg(test)]
#[path = "attempts/confinement.rs"]
mod confinement;
#[cfg(test)]
#[path = "attempts/hung_disk.rs"]
mod hung_disk;
#[path = "attempts/lab.rs"]
mod lab;
#[cfg(test)]
#[path = "attempts/usage.rs"]
mod usage;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use executor::{Event, Phase, StopReason, boottime_ms};
use lab::{Lab, Node, cgroup_leftovers, console, processes_with, shell, start_of, token};
use types::{CauseKind, ConsoleStream, DurationMs, RecordBody};

#[tokio::test(flavor = "multi_thread")]
async fn both_streams_are_recorded_in_order_and_exit_code_zero_is_finished() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; echo 'metric: loss=0.5 step=7'; echo $OMP_NUM_THREADS $MUSTER_RANK; pwd";
    node.start_attempt(1, shell(script)).await;
    let ended = node.ended(1).await;
    assert_eq!(ended.cause.kind, CauseKind::Finished, "{ended:?}");
    assert!(!ended.cause.evidence.is_empty());
    let records = node.records(1).await;
    assert_eq!(records.len() as u64, ended.records);
    let work = lab.attempt(1).join("work");
    let out = format!(
        "out 1\nout 2\nout 3\nmetric: loss=0.5 step=7\n1 0\n{}\n",
        work.display()
    );
    assert_eq!(console(&records, ConsoleStream::Stdout), out);
    assert_eq!(
        console(&records, ConsoleStream::Stderr),
        "err 1\nerr 2\nerr 3\n"
    );
    let scalar = records.iter().find_map(|record| match &record.body {
        RecordBody::Scalar {
            name,
            step,
            value_bits,
        } => Some((name.clone(), *step, f64::from_bits(*value_bits))),
        _ => None,
    });
    assert_eq!(scalar, Some(("loss".to_owned(), 7, 0.5)));
    let sealed = node.handle.sealed_segments(&token(1)).unwrap();
    assert_eq!(sealed.last().unwrap().summary.end_sequence, ended.records);
    node.handle.release(&token(1)).await.unwrap();
    assert!(!lab.attempt(1).exists());
    assert_eq!(node.handle.running(), []);
    assert_eq!(cgroup_leftovers(&lab).await, Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_and_last_stderr_lines_are_the_cause() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    node.start_attempt(1, shell("echo broken >&2; exit 3"))
        .await;
    node.start_attempt(2, shell("kill -SEGV $$")).await;
    let ended = node.ended(1).await;
    assert_eq!(ended.cause.kind, CauseKind::ExitCode(3));
    let evidence = ended.cause.evidence.join("\n");
    assert!(
        evidence.contains("exit code 3") && evidence.contains("broken"),
        "{evidence}"
    );
    assert_eq!(node.ended(2).await.cause.kind, CauseKind::Signal(11));
    // The exception that ended it names the cause; one that it survived does not.
    let raises = "printf 'Traceback (most recent call last):\\n  File \"a\", line 1, in f\\nImportError: x\\n' >&2";
    node.start_attempt(3, shell(&format!("{raises}; exit 1")))
        .await;
    node.start_attempt(4, shell(&format!("{raises}; echo goes on >&2; exit 1")))
        .await;
    let what = "x".to_owned();
    assert_eq!(
        node.ended(3).await.cause.kind,
        CauseKind::ImportFailed { what }
    );
    assert_eq!(node.ended(4).await.cause.kind, CauseKind::ExitCode(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_not_executable_commands_say_so() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let command = "no-such-program-here".to_owned();
    node.start_attempt(1, vec![command.clone()]).await;
    let cause = node.ended(1).await.cause;
    assert_eq!(cause.to_string(), "command not found: no-such-program-here");
    assert_eq!(cause.kind, CauseKind::CommandNotFound { command });
    assert!(cause.evidence[0].contains("No such file"), "{cause:?}");
    node.start_attempt(2, vec!["/etc/passwd".to_owned()]).await;
    let cause = node.ended(2).await.cause;
    assert!(cause.evidence[0].contains("Permission denied"), "{cause:?}");
    let what = "/etc/passwd".to_owned();
    assert_eq!(cause.kind, CauseKind::PermissionDenied { what });
    assert_eq!(cause.exit_code(), 126);
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_leaves_nobody_of_a_tree_that_ignores_sigterm_and_double_forks() {
    for use_cgroups in [true, false] {
        let lab = Lab::new();
        let mut node = Node::with(&lab, |config| config.use_cgroups = use_cgroups).await;
        let script = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; (sleep 1000 & sleep 1001 & wait) & wait' &) ; sleep 1002 & echo ready; while :; do wait; done";
        node.start_attempt(1, shell(script)).await;
        node.wait_for_console(1, "ready").await;
        lab::wait_until("the whole tree is up", || {
            processes_with(&lab, 1).len() >= 5
        })
        .await;
        let by = "ann@lab".to_owned();
        let reason = StopReason::Requested { by: by.clone() };
        for _twice in 0..2 {
            let grace = DurationMs(200);
            node.handle
                .stop(&token(1), reason.clone(), grace)
                .await
                .unwrap();
        }
        let ended = node.ended(1).await;
        assert_eq!(ended.cause.kind, CauseKind::Stopped { by });
        assert_eq!(processes_with(&lab, 1), Vec::<u32>::new());
        assert_eq!(
            ended.tree_kill_method.contains("/proc"),
            !use_cgroups || lab.no_cgroups()
        );
        println!("{}: {:?}", ended.tree_kill_method, ended.cause.evidence);
        assert_eq!(cgroup_leftovers(&lab).await, Vec::<PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_an_ended_command_are_killed_with_a_line_that_says_so() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    node.start_attempt(1, shell("setsid sleep 1000 >/dev/null 2>&1 & echo done"))
        .await;
    let ended = node.ended(1).await;
    assert_eq!(ended.cause.kind, CauseKind::Finished);
    assert_eq!(processes_with(&lab, 1), Vec::<u32>::new());
    let lines = console(&node.records(1).await, ConsoleStream::Muster);
    assert!(
        lines.contains("sleep") && lines.contains("killed"),
        "{lines}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_kills_the_tree_though_the_node_is_gone() {
    let lab = Lab::new();
    let node = Node::start(&lab).await;
    let mut start = start_of(1, shell("setsid sleep 1000 & sleep 1000"));
    start.deadline_boottime_ms = boottime_ms() + 1_500;
    node.handle.start_attempt(start).await.unwrap();
    lab::wait_until("the tree is up", || processes_with(&lab, 1).len() >= 3).await;
    let deadline = boottime_ms() + 2_000;
    node.handle.extend_lease(&token(1), deadline).await.unwrap();
    lab::wait_until("the holder heard of it", || {
        boottime_ms() + 1_900 > deadline
    })
    .await;
    node.die().await;
    lab::wait_until("nobody is left", || processes_with(&lab, 1).is_empty()).await;
    let late = boottime_ms();
    assert!(
        late > deadline - 500 && late < deadline + 1_000,
        "{late} for {deadline}"
    );
    let mut node = Node::start(&lab).await;
    let ended = node.ended(1).await;
    assert_eq!(ended.cause.kind, CauseKind::LeaseExpired, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_adopts_the_attempt_and_no_line_is_lost() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); sleep 0.01; done";
    node.start_attempt(1, shell(script)).await;
    node.wait_for_console(1, "line 20\n").await;
    let pid = node.handle.running()[0].pid;
    node.die().await;
    let mut node = Node::start(&lab).await;
    let status = node.handle.running().remove(0);
    assert_eq!((status.pid, status.phase), (pid, Phase::Running));
    node.handle
        .extend_lease(&token(1), boottime_ms() + 60_000)
        .await
        .unwrap();
    let ended = node.ended(1).await;
    assert_eq!(ended.cause.kind, CauseKind::Finished, "{ended:?}");
    let expected: String = (0..300).map(|i| format!("line {i}\n")).collect();
    assert_eq!(
        console(&node.records(1).await, ConsoleStream::Stdout),
        expected
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_ended_without_a_node_is_reported_until_released() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    node.start_attempt(1, shell("echo up; sleep 0.3; exit 5"))
        .await;
    node.wait_for_console(1, "up").await;
    node.die().await;
    lab::wait_until("the end is stored", || lab.attempt(1).join("exit").exists()).await;
    for _again in 0..2 {
        let mut node = Node::start(&lab).await;
        // Its records are there as soon as its end is: both are read by whoever reports it.
        let is_sealed = || {
            let running = node.handle.running();
            let sealed = node.handle.sealed_segments(&token(1)).unwrap();
            match &running[0].phase {
                Phase::Ended(ended) => {
                    let last = sealed.last().expect("it has records");
                    assert_eq!(last.summary.end_sequence, ended.records);
                    true
                }
                Phase::Preparing | Phase::Running => false,
            }
        };
        is_sealed();
        lab::wait_until("it is over", is_sealed).await;
        assert_eq!(node.ended(1).await.cause.kind, CauseKind::ExitCode(5));
        node.die().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holder_takes_its_tree_along_and_is_the_cause() {
    for (use_cgroups, node_lives) in [(true, true), (false, true), (true, false)] {
        let lab = Lab::new();
        let mut node = Node::with(&lab, |config| config.use_cgroups = use_cgroups).await;
        node.start_attempt(1, shell("(setsid sleep 1000 &) ; echo ready; sleep 1000"))
            .await;
        node.wait_for_console(1, "ready").await;
        let holder = lab.holder_pid(1);
        let mut node = if node_lives {
            lab::kill(holder);
            node
        } else {
            node.die().await;
            lab::kill(holder);
            Node::with(&lab, |config| config.use_cgroups = use_cgroups).await
        };
        let ended = node.ended(1).await;
        assert_eq!(ended.cause.kind, CauseKind::HolderFailed, "{ended:?}");
        assert!(console(&node.records(1).await, ConsoleStream::Stdout).contains("ready"));
        assert_eq!(processes_with(&lab, 1), Vec::<u32>::new());
        assert_eq!(cgroup_leftovers(&lab).await, Vec::<PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limit_ends_with_its_own_cause() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let mut start = start_of(
        1,
        shell("trap 'echo saving; exit 0' TERM; while :; do sleep 0.05; done"),
    );
    start.wanted.spec.policy.time_limit_ms = DurationMs(300);
    node.handle.start_attempt(start).await.unwrap();
    let ended = node.ended(1).await;
    assert_eq!(ended.cause.kind, CauseKind::TimeLimit, "{ended:?}");
    assert!(console(&node.records(1).await, ConsoleStream::Stdout).contains("saving"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_that_breaks_its_rule_ends_it_with_grace_and_says_which() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let script = "trap 'echo saved; exit 0' TERM; echo metric: loss={loss} step=1; echo \"metric: loss=$MUSTER_PARAM_LOSS step=2\"; while :; do sleep 0.05; done";
    let mut start = start_of(1, shell(script));
    let spec = &mut start.wanted.spec;
    spec.parameters = vec![("loss".to_owned(), "2.5".to_owned())];
    spec.policy.stop_rule = Some("loss > 2 after step 1".parse().unwrap());
    node.handle.start_attempt(start).await.unwrap();
    let ended = node.ended(1).await;
    let rule = "loss > 2 after step 1 (loss = 2.5 at step 2)".to_owned();
    assert_eq!(ended.cause.kind, CauseKind::RuleMet { rule }, "{ended:?}");
    let records = node.records(1).await;
    let out = "metric: loss=2.5 step=1\nmetric: loss=2.5 step=2\nsaved\n";
    assert_eq!(console(&records, ConsoleStream::Stdout), out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_is_kept_whole_in_little_memory() {
    // Less than what is kept at once, whatever the rate: 64 MiB.
    const BYTES: usize = 60 << 20;
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let script = format!("yes 0123456789abcde | head -c {BYTES}; echo end >&2; sleep 1");
    let began = Instant::now();
    node.start_attempt(1, shell(&script)).await;
    node.wait_for_console_from(1, ConsoleStream::Stderr, "end")
        .await;
    let peak = lab::peak_resident_bytes(lab.holder_pid(1));
    println!(
        "60 MiB in {:?}, holder peak {} KiB",
        began.elapsed(),
        peak >> 10
    );
    assert!(peak < 32 << 20, "holder held {peak} bytes");
    let ended = node.ended(1).await;
    assert_eq!(ended.cause.kind, CauseKind::Finished);
    let sealed = node.handle.sealed_segments(&token(1)).unwrap();
    assert!(sealed.len() >= 3, "{} segments", sealed.len());
    let text = console(&node.records(1).await, ConsoleStream::Stdout);
    assert_eq!(text.len(), BYTES);
    assert_eq!(text, "0123456789abcde\n".repeat(BYTES / 16));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_over_the_limit_is_out_of_memory() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let limited = executor::protections(&lab.config())
        .iter()
        .any(|line| line.starts_with("memory limit: cgroup"));
    if !limited {
        println!("SKIPPED: no writable cgroup with a memory controller on this machine");
        return;
    }
    let script = "sleep 0.1; x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}";
    let mut start = start_of(1, shell(script));
    start.wanted.resources.memory_bytes = 64 << 20;
    node.handle.start_attempt(start).await.unwrap();
    let ended = node.ended(1).await;
    assert_eq!(ended.cause.kind, CauseKind::HostOutOfMemory, "{ended:?}");
    println!("{:?}", ended.cause.evidence);
    assert!(ended.peak_memory_bytes > 32 << 20, "{ended:?}");
    let evidence = ended.cause.evidence.join("\n");
    assert!(evidence.contains("limit 64 MiB, most held "), "{evidence}");
    assert!(ended.cause.advice[0].contains("--memory"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_tree_or_directory_never_starts_the_command() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let mut start = start_of(1, shell("echo no"));
    start.tree = Some(lab::tree_with_link("leak", "../../../etc/passwd"));
    node.handle.start_attempt(start).await.unwrap();
    let ended = node.ended(1).await;
    assert_eq!(ended.cause.kind, CauseKind::SourceTree, "{ended:?}");
    assert_eq!(ended.records, 0);
    for (attempt, directory) in [(2, "not-there"), (3, "/etc"), (4, "..")] {
        let mut start = start_of(attempt, shell("echo no"));
        start.wanted.spec.working_directory = directory.to_owned();
        node.handle.start_attempt(start).await.unwrap();
        let ended = node.ended(attempt).await;
        assert_eq!(ended.cause.kind, CauseKind::SourceTree, "{ended:?}");
    }
    let mut start = start_of(5, shell("echo no"));
    start.deadline_boottime_ms = boottime_ms();
    node.handle.start_attempt(start).await.unwrap();
    assert_eq!(node.ended(5).await.cause.kind, CauseKind::LeaseExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_needs_no_polling_and_the_mirror_feed_is_the_files() {
    let lab = Lab::new();
    let mut node = Node::with(&lab, |config| config.segment_max_bytes = 4_000).await;
    node.start_attempt(1, shell("for i in $(seq 40); do seq 100; sleep 0.01; done"))
        .await;
    let mut changed = loop {
        if let Ok(receiver) = node.handle.tail_changed(&token(1)) {
            break receiver;
        }
    };
    let mut next = 0;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let read = node
            .handle
            .read_tail(&token(1), next, 1 << 20)
            .await
            .unwrap();
        next = read.next_sequence;
        if read.ended {
            break;
        }
        assert!(Instant::now() < deadline);
        tokio::time::timeout(Duration::from_secs(10), changed.changed())
            .await
            .unwrap()
            .unwrap();
    }
    let ended = node.ended(1).await;
    assert_eq!(next, ended.records);
    let (mut segment, mut offset, mut files) = (0, 0, vec![Vec::new()]);
    loop {
        let read = node
            .handle
            .unsealed(&token(1), segment, offset, 1_000)
            .await
            .unwrap();
        offset += read.bytes.len() as u64;
        files.last_mut().unwrap().extend_from_slice(&read.bytes);
        if read.ended {
            break;
        }
        if read.complete {
            (segment, offset) = (segment + 1, 0);
            files.push(Vec::new());
        }
    }
    let sealed = node.handle.sealed_segments(&token(1)).unwrap();
    assert!(sealed.len() > 2);
    files.retain(|bytes| !bytes.is_empty());
    for (sealed, bytes) in sealed.iter().zip(&files) {
        assert_eq!(types::BlobHash::of(bytes), sealed.hash);
    }
    assert_eq!(sealed.len(), files.len());
    assert!(node.sealed_events >= sealed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_the_order_started_sealed_ended() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    node.start_attempt(1, shell("echo hello")).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&"ended") {
        match node.event().await {
            Event::Started { .. } => seen.push("started"),
            Event::SegmentSealed { .. } => seen.push("sealed"),
            Event::Ended { .. } => seen.push("ended"),
            Event::TailGrew { .. } => {}
        }
    }
    assert_eq!(seen, ["started", "sealed", "ended"]);
}
