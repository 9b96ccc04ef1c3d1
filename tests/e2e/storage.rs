//! Disks that fail, fill up, are slow or go back in time under real nodes, and what the nodes say and do then.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use service::view::{NodeView, NodesView};

use crate::harness::{
    Disk, FAR, Lab, Node, PATIENCE, Trace, can_trace, counted, counting, leader_and_others, run,
    wait_lines, wait_until,
};

fn queue(name: &str) -> String {
    format!("{{\"name\": \"{name}\", \"priority\": 1}}")
}

/// Makes a queue: one request, one command in the log, nothing else.
fn make_queue(node: &Node, name: &str) -> (u16, String) {
    node.post("/api/v1/queues", &queue(name))
}

fn view_of(asked: &Node, name: &str) -> Option<NodeView> {
    let output = asked.muster(&["--json", "nodes"]);
    let view: NodesView = serde_json::from_str(&output.out).ok()?; // An election may be under way.
    view.nodes.into_iter().find(|node| node.name == name)
}

fn leader_is_not(asked: &Node, name: &str) -> Option<String> {
    let leader = asked.cluster().leader?.name;
    (leader != name).then_some(leader)
}

/// Where in the trace a call on `file` has returned, from line `from` on.
fn synced(lines: &[String], from: usize, file: &str) -> Option<usize> {
    let begun = lines[from..].iter().position(|line| {
        (line.contains(" fdatasync(") || line.contains(" fsync(")) && line.contains(file)
    })? + from;
    if lines[begun].contains(") = 0") {
        return Some(begun);
    }
    let thread = lines[begun].split(' ').next()?;
    let resumed = lines[begun + 1..].iter().position(|line| {
        line.starts_with(thread) && line.contains("sync resumed") && line.contains("= 0")
    })?;
    Some(begun + 1 + resumed)
}

#[test]
fn a_write_is_on_disk_log_and_mark_before_its_reply_leaves_the_process() {
    if !can_trace() {
        return;
    }
    let lab = Lab::new();
    let a = lab.one();
    let calls = "trace=fdatasync,fsync,read,recvfrom,readv,recvmsg,write,writev,sendto,sendmsg";
    let trace = Trace::attach(&a, lab.path(), &["-e", calls]);
    const WRITES: usize = 8;
    for number in 0..WRITES {
        let (status, body) = make_queue(&a, &format!("seen-{number}"));
        assert!((200..300).contains(&status), "{status} {body}");
    }
    let lines = trace.end();
    let mut from = 0;
    for number in 0..WRITES {
        let find = |from: usize, text: &str| {
            let found = lines[from..].iter().position(|line| line.contains(text));
            found.map(|at| at + from)
        };
        let asked = find(from, "\"POST /api/v1/queues").expect("the request is read");
        let replied = find(asked, "\"HTTP/1.1 2").expect("the reply is written");
        let log = synced(&lines, asked, "/raft/log/db>");
        let log = log.unwrap_or_else(|| panic!("write {number}: the log is not synced"));
        let mark = synced(&lines, log, "/raft/commit.mark>");
        let mark = mark.unwrap_or_else(|| panic!("write {number}: the mark is not synced"));
        assert!(
            log < mark && mark < replied,
            "write {number}: log synced at line {log}, mark at {mark}, reply at {replied}"
        );
        from = replied + 1;
    }
}

#[test]
fn a_failed_sync_ends_the_node_with_one_line_and_its_job_lives_on() {
    if !can_trace() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [other, _]) = leader_and_others(&nodes);
    let stop = lab.path().join("stop");
    let place = format!("machine={}", leader.name);
    let arguments = ["--constraint", &place, "--lease", "60s", "--", "sh", "-c"];
    let script = counting(&stop);
    let job = other.submit(&[&arguments[..], &[&script]].concat());
    let before = wait_lines(other, &job, 5);
    let (pid, _) = counted(&other.logs(&job));
    let trace = Trace::attach(
        leader,
        lab.path(),
        &[
            "-e",
            "trace=fdatasync,fsync",
            "-e",
            "inject=fdatasync,fsync:error=EIO:when=1",
        ],
    );
    let (status, body) = make_queue(leader, "doubtful");
    let ended = leader.wait_gone();
    let lines = trace.end();
    assert_eq!(ended.code(), Some(1), "{ended}");
    let said: Vec<String> = leader.log().lines().map(str::to_owned).collect();
    let last = said.last().expect("it says why");
    assert!(
        last.contains("cannot sync") && last.contains("raft") && last.contains("os error 5"),
        "{last}"
    );
    // The thread that met the error syncs nothing after it, neither that file nor another.
    let failed = lines.iter().position(|line| {
        line.contains("EIO") && line.contains("INJECTED") && line.contains("/raft/")
            || line.contains("resumed") && line.contains("EIO")
    });
    let failed = failed.unwrap_or_else(|| panic!("nothing was injected: {lines:?}"));
    let thread = lines[failed].split(' ').next().expect("a thread number");
    let again = |line: &&String| line.starts_with(thread) && line.contains("sync(");
    assert_eq!(lines[failed + 1..].iter().find(again), None, "{lines:?}");

    assert!(
        Path::new(&format!("/proc/{pid}")).exists(),
        "the job does not notice"
    );
    wait_until(PATIENCE, "the others go on", || {
        leader_is_not(other, &leader.name)
    });
    if (200..300).contains(&status) {
        // The other two have it: a majority without the disk that failed.
        let (_, queues) = other.get("/api/v1/queues");
        assert!(queues.contains("\"doubtful\""), "{body}: {queues}");
    }
    let (status, body) = make_queue(other, "after");
    assert!((200..300).contains(&status), "{status} {body}");
    leader.up(&[]);
    wait_lines(other, &job, before + 20);
    fs::write(&stop, "").unwrap();
    assert_eq!(other.wait_end(&job).attempts.len(), 1);
}

#[test]
fn a_store_put_back_from_an_old_copy_is_refused_and_rejoins_under_a_new_key() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (_, [first, second]) = leader_and_others(&nodes);
    let data = first.data();
    let copy = lab.path().join("copy");
    first.kill();
    copy_tree(&data.join("raft"), &copy);
    first.up(&[]);
    let queued = first.submit(&FAR);
    first.kill();
    fs::remove_dir_all(data.join("raft")).unwrap();
    copy_tree(&copy, &data.join("raft"));

    first.spawn(&[]);
    let ended = first.wait_gone();
    assert_eq!(ended.code(), Some(1), "{ended}");
    let log = first.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.contains("older copy") && last.contains("--rejoin") && last.contains("raft"),
        "{last}"
    );
    let token: service::view::TokenCreated = second.ask(&["token", "new"]);
    first.up(&["--rejoin", &token.token]);
    assert!(first.list().iter().any(|one| one.id == queued));
}

#[test]
fn a_cloned_image_started_beside_its_original_is_refused() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (_, [first, second]) = leader_and_others(&nodes);
    first.kill();
    let clone = lab.machine("clone");
    fs::remove_dir_all(clone.data()).unwrap();
    copy_tree(&first.data(), &clone.data());
    first.up(&[]);
    let queued = first.submit(&FAR);
    clone.spawn(&[]);
    let ended = clone.wait_gone();
    assert_eq!(ended.code(), Some(1), "{ended}");
    let log = clone.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("second copy"), "{last}");
    first.assert_alive();
    assert!(second.list().iter().any(|one| one.id == queued));
    wait_until(PATIENCE, "the original votes as before", || {
        let view = view_of(second, &first.name)?;
        (view.health == "live" && ["leader", "voter"].contains(&&*view.role)).then_some(())
    });
}

fn copy_tree(from: &Path, to: &Path) {
    let mut command = std::process::Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    run(&mut command, "the directory is copied").success();
}

#[test]
fn a_full_disk_of_the_log_is_met_early_and_the_node_comes_back_alone() {
    let lab = Lab::new();
    let mut machines = ["a", "b", "c"].map(|name| lab.machine(name));
    let raft = machines[0].data().join("raft");
    for machine in &mut machines {
        machine.variables = vec![("MUSTER_LOG_RESERVE".to_owned(), "4MiB".to_owned())];
    }
    let Some(disk) = Disk::mount(&mut machines[0], &raft, 24) else {
        return;
    };
    let [a, b, c] = crate::harness::cluster_of(machines);
    assert!(disk.has("reserve"));
    wait_until(PATIENCE, "a leads", || {
        let leader = a.cluster().leader?.name;
        if leader != "a" {
            // Whoever leads is paused until another does.
            let node = [&b, &c].into_iter().find(|node| node.name == leader)?;
            node.pause();
            wait_until(PATIENCE, "another leads", || leader_is_not(&a, &leader));
            node.resume();
            return None;
        }
        Some(())
    });
    // Low: refused here, handed over, said to people.
    disk.fill(2 << 20);
    wait_until(PATIENCE, "a hands leadership over", || {
        leader_is_not(&b, "a")
    });
    a.submit(&FAR);
    let warned = wait_until(PATIENCE, "a tells of its disk", || {
        let view = view_of(&b, "a")?;
        view.warnings
            .into_iter()
            .find(|line| line.contains("disk of the log"))
    });
    assert!(
        warned.contains("nearly full") && warned.contains("free some"),
        "{warned}"
    );
    assert!(disk.has("reserve"));

    // Full: the reserve is given up, the node lives on it.
    disk.fill(0);
    wait_until(PATIENCE, "the reserve is given up", || {
        (!disk.has("reserve")).then_some(())
    });
    for _ in 0..10 {
        b.submit(&FAR);
    }
    a.assert_alive();
    // It still starts, and takes part.
    a.kill();
    a.up(&[]);
    let id = b.submit(&FAR);
    wait_until(PATIENCE, "a has it", || {
        a.list().iter().any(|one| one.id == id).then_some(())
    });

    disk.make_room();
    wait_until(PATIENCE, "the reserve is made again", || {
        disk.has("reserve").then_some(())
    });
    wait_until(PATIENCE, "nothing is wrong any more", || {
        let view = view_of(&b, "a")?;
        let warns = view
            .warnings
            .iter()
            .any(|line| line.contains("disk of the log"));
        (!warns).then_some(())
    });
}

#[test]
fn a_lone_node_with_a_full_log_disk_refuses_new_work_and_lets_the_old_end() {
    let lab = Lab::new();
    let mut a = lab.machine("a");
    let raft = a.data().join("raft");
    a.variables = vec![("MUSTER_LOG_RESERVE".to_owned(), "4MiB".to_owned())];
    let Some(disk) = Disk::mount(&mut a, &raft, 24) else {
        return;
    };
    a.up(&["--new"]);
    let stop = lab.path().join("stop");
    let job = a.submit(&["--", "sh", "-c", &counting(&stop)]);
    wait_lines(&a, &job, 3);
    disk.fill(1 << 20);
    let said = wait_until(PATIENCE, "new work is refused", || {
        let output = a.muster(&[
            "run",
            "--no-source",
            "--constraint",
            "machine=far",
            "--",
            "true",
        ]);
        (output.code != 0).then_some(output.err)
    });
    assert!(
        said.contains("disk of the log") && said.contains("free some space"),
        "{said}"
    );
    // What runs may end and be reported, what waits may be stopped.
    fs::write(&stop, "").unwrap();
    assert_eq!(a.wait_end(&job).summary.state, "finished");
    disk.make_room();
    wait_until(PATIENCE, "work is taken again", || {
        let output = a.muster(&[
            "run",
            "--no-source",
            "--constraint",
            "machine=far",
            "--",
            "true",
        ]);
        (output.code == 0).then_some(())
    });
}

#[test]
fn a_leader_with_a_slow_disk_hands_over_and_the_others_set_the_pace() {
    if !can_trace() {
        return;
    }
    let lab = Lab::new();
    let mut machines = ["a", "b", "c"].map(|name| lab.machine(name));
    let file = lab.path().join("a.trace");
    // Two syncs a commit: 400 ms.
    machines[0].wrapper = ["strace", "-D", "-f", "--seccomp-bpf", "-qq"]
        .into_iter()
        .chain([
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:delay_enter=200000",
            "-o",
        ])
        .map(str::to_owned)
        .chain([file.to_string_lossy().into_owned()])
        .collect();
    let [a, b, c] = crate::harness::cluster_of(machines);
    let mut number = 0;
    wait_until(PATIENCE, "a hands leadership over", || {
        number += 1;
        make_queue(&b, &format!("early-{number}"));
        leader_is_not(&b, "a")
    });
    let term = |node: &Node| node.cluster().term;
    let before = term(&b);
    let mut took = Vec::new();
    for number in 0..100 {
        let asked = Instant::now();
        let (status, body) = make_queue(&c, &format!("late-{number}"));
        assert!((200..300).contains(&status), "{status} {body}");
        took.push(asked.elapsed());
    }
    took.sort();
    println!(
        "with one disk of 200 ms a sync: p50 {:?}, p99 {:?}",
        took[50], took[98]
    );
    assert!(
        took[98] < Duration::from_millis(300),
        "p99 {:?}: slower than the slow disk",
        took[98]
    );
    assert!(term(&b) <= before + 2, "{} elections", term(&b) - before);
    a.assert_alive();
    let view = view_of(&b, "a").expect("a is a member");
    assert_eq!(view.role, "voter");
}

#[test]
fn a_node_without_file_descriptors_fails_new_work_and_keeps_its_vote() {
    let lab = Lab::new();
    let mut machines = ["a", "b", "c"].map(|name| lab.machine(name));
    let limited = ["sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"];
    machines[0].wrapper = limited.map(str::to_owned).into();
    let [a, b, c] = crate::harness::cluster_of(machines);
    let address = a.tcp();
    let limit = Duration::from_secs(10);
    let target = address.parse().expect("host and port");
    // More than it can take: those that do not fit wait in the kernel.
    let held: Vec<_> = (0..100)
        .filter_map(|_| TcpStream::connect_timeout(&target, limit).ok()) // The backlog may be full, too.
        .collect();
    assert!(held.len() >= 40, "{}", held.len());
    let before = a.log().len();
    let mut queued = Vec::new();
    for node in [&b, &c].repeat(10) {
        queued.push(node.submit(&FAR));
    }
    let refused = b.submit(&["--constraint", "machine=a", "--", "true"]);
    wait_until(PATIENCE, "a follows and votes", || {
        let view = view_of(&b, "a")?;
        (view.health == "live" && ["leader", "voter"].contains(&&*view.role)).then_some(())
    });
    a.assert_alive();
    drop(held);
    // It says what was wrong and is whole again.
    wait_until(PATIENCE, "a serves again", || {
        let output = a.muster(&["--json", "ls", "--all", "--limit", "1000"]);
        (output.code == 0 && queued.iter().all(|id| output.out.contains(id))).then_some(())
    });
    let detail = b.wait_end(&refused);
    println!(
        "the job meanwhile: {} {:?}; the log: {}",
        detail.summary.state,
        detail.attempts.last(),
        &a.log()[before..]
    );
    assert_eq!(b.cluster().voters.len(), 3);
    let after = b.submit(&["--constraint", "machine=a", "--", "true"]);
    assert_eq!(b.wait_end(&after).summary.state, "finished");
}

#[test]
fn a_full_disk_of_the_attempts_ends_them_with_the_reason_and_leaves_the_log_alone() {
    let lab = Lab::new();
    let mut a = lab.machine("a");
    let attempts = a.data().join("attempts");
    let Some(disk) = Disk::mount(&mut a, &attempts, 16) else {
        return;
    };
    a.up(&["--new"]);
    disk.fill(0);
    let job = a.submit(&["--retries", "0", "--", "true"]);
    for number in 0..20 {
        let (status, body) = make_queue(&a, &format!("meanwhile-{number}"));
        assert!((200..300).contains(&status), "{status} {body}");
    }
    let detail = a.wait_end(&job);
    let cause = detail.attempts.last().and_then(|one| one.cause.clone());
    let cause = cause.unwrap_or_else(|| panic!("no cause: {detail:?}"));
    let told = format!("{} {:?}", cause.text, cause.evidence);
    assert_eq!(detail.summary.state, "failed", "{told}");
    assert!(
        told.contains("No space left") || told.contains("disk"),
        "{told}"
    );
    a.assert_alive();
    disk.make_room();
    let job = a.submit(&["--", "echo", "room"]);
    assert_eq!(a.wait_end(&job).summary.state, "finished");
    assert_eq!(a.logs(&job), "room\n");
}
