//! What a job cannot do to its node: read its keys, take all its processes, leave what cannot be removed.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use executor::{Config, JobUser, StopReason};
use types::{CauseKind, ConsoleStream, DurationMs};

use crate::lab::{self, Lab, Node, console, processes_with, shell, token};

/// Only root can become somebody else.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: only root can run jobs as another user");
    }
    root
}

fn confined(lab: &Lab) -> impl FnOnce(&mut Config) {
    let private = lab.private();
    std::fs::create_dir_all(&private).unwrap();
    let key = private.join("node.key");
    std::fs::write(&key, "the key\n").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    move |config| {
        config.private_directory = Some(private);
        config.job_user = JobUser::named("nobody");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_root_node_is_nobody_and_cannot_read_the_nodes_keys() {
    if !is_root() {
        return;
    }
    let lab = Lab::passable();
    let mut node = Node::with(&lab, confined(&lab)).await;
    let warnings = node.handle.warnings();
    let of_keys = |warning: &String| warning.contains("run as");
    assert!(!warnings.iter().any(of_keys), "{warnings:?}");
    let (private, own) = (lab.private(), std::process::id());
    let script = format!(
        "cd \"$PWD\" && id -u && echo made > out && cat out && echo t > $TMPDIR/t && cat $TMPDIR/t
        echo home $HOME user $USER; echo loud > /dev/stderr; grep NoNewPrivs /proc/self/status
        cat {key}; cat /proc/{own}/root{key}; cat /proc/{own}/environ; ls {private}; ls {private}/attempts
        cat ../order; ls ..; echo x > {private}/planted; kill -9 {own}; kill -9 $PPID; echo end",
        key = private.join("node.key").display(),
        private = private.display(),
    );
    node.start_attempt(1, shell(&script)).await;
    let ended = node.ended(1).await;
    let records = node.records(1).await;
    let out = console(&records, ConsoleStream::Stdout);
    let err = console(&records, ConsoleStream::Stderr);
    assert_eq!(ended.cause.kind, CauseKind::Finished, "{out}{err}");
    let temporary = lab.attempt(1).join("tmp");
    let expected = format!(
        "65534\nmade\nt\nhome {} user nobody\nNoNewPrivs:\t1\nend\n",
        temporary.display()
    );
    assert_eq!(out, expected, "{err}");
    assert!(err.contains("loud\n"), "{err}");
    // Two reads of the key, the environment, two listings, the order, its directory, a file, two signals.
    let refused = err.matches("ermission denied").count() + err.matches("not permitted").count();
    assert_eq!(refused, 10, "{err}");
    assert!(!out.contains("the key"));
    assert!(!private.join("planted").exists());
    let work = lab.attempt(1).join("work").metadata().unwrap();
    assert_eq!((work.uid(), work.mode() & 0o777), (65_534, 0o700));
    node.handle.release(&token(1)).await.unwrap();
    assert!(!lab.attempt(1).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_user_dies_with_its_holder_and_is_stopped_as_any_other() {
    if !is_root() {
        return;
    }
    for use_cgroups in [true, false] {
        let lab = Lab::passable();
        let confine = confined(&lab);
        let mut node = Node::with(&lab, |config| {
            confine(config);
            config.use_cgroups = use_cgroups;
        })
        .await;
        let script =
            "trap '' TERM; (setsid sleep 1000 &); echo ready; while :; do wait; sleep 1; done";
        node.start_attempt(1, shell(script)).await;
        node.start_attempt(2, shell(script)).await;
        node.wait_for_console(1, "ready").await;
        node.wait_for_console(2, "ready").await;
        lab::kill(lab.holder_pid(1));
        let ended = node.ended(1).await;
        assert_eq!(ended.cause.kind, CauseKind::HolderFailed, "{ended:?}");
        assert_eq!(processes_with(&lab, 1), Vec::<u32>::new());
        let by = "ann@lab".to_owned();
        let reason = StopReason::Requested { by: by.clone() };
        let grace = DurationMs(100);
        node.handle.stop(&token(2), reason, grace).await.unwrap();
        assert_eq!(node.ended(2).await.cause.kind, CauseKind::Stopped { by });
        assert_eq!(processes_with(&lab, 2), Vec::<u32>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_cannot_start_say_so_for_another_user_too() {
    if !is_root() {
        return;
    }
    let lab = Lab::passable();
    let mut node = Node::with(&lab, confined(&lab)).await;
    node.start_attempt(1, vec!["no-such-program-here".to_owned()])
        .await;
    let cause = node.ended(1).await.cause;
    assert!(cause.evidence[0].contains("No such file"), "{cause:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_way_to_the_work_is_told_before_anything_runs() {
    if !is_root() {
        return;
    }
    let lab = Lab::closed();
    let mut config = lab.config();
    confined(&lab)(&mut config);
    let error = executor::start(config).await.unwrap_err().to_string();
    assert!(error.contains("nobody may not enter"), "{error}");
    let node = Node::with(&lab, |config| {
        config.private_directory = Some(lab.private());
    })
    .await;
    let warning = node.handle.warnings().swap_remove(0);
    assert!(
        warning.contains("run as root") && warning.contains("may not enter"),
        "{warning}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_locks_is_removed_all_the_same() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let script = "mkdir -p a/b; touch a/b/c; chmod 500 a/b; chmod 400 a; chmod 500 .";
    node.start_attempt(1, shell(script)).await;
    node.ended(1).await;
    node.handle.release(&token(1)).await.unwrap();
    assert!(!lab.attempt(1).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_meets_its_limit_and_leaves_nobody() {
    let lab = Lab::new();
    let mut node = Node::with(&lab, |config| config.max_processes = 64).await;
    let limited = executor::protections(&lab.config())
        .iter()
        .any(|line| line.starts_with("process limit: cgroup"));
    if !limited {
        println!("SKIPPED: no writable cgroup with a pids controller on this machine");
        return;
    }
    // It goes off in its cgroup, and then only sits there.
    let script = "while ! grep -q muster- /proc/self/cgroup; do sleep 0.05; done
        (while :; do sleep 1000 & done); echo full; exec sleep 1000";
    node.start_attempt(1, shell(script)).await;
    node.wait_for_console(1, "full").await;
    let there = processes_with(&lab, 1).len();
    assert!(
        (32..=70).contains(&there),
        "{there} processes, the limit is 64"
    );
    // The node has processes left for others.
    node.start_attempt(2, shell("echo fine")).await;
    assert_eq!(node.ended(2).await.cause.kind, CauseKind::Finished);
    let reason = StopReason::Requested {
        by: "ann@lab".to_owned(),
    };
    let now = DurationMs(0);
    node.handle.stop(&token(1), reason, now).await.unwrap();
    let ended = node.ended(1).await;
    let evidence = ended.cause.evidence.join("\n");
    assert!(evidence.contains("limit 64 processes"), "{evidence}");
    assert_eq!(processes_with(&lab, 1), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_root_node_has_other_users_for_its_jobs() {
    let lab = Lab::new();
    let mut config = lab.config();
    config.job_user = JobUser::named("no-such-account-here");
    let error = executor::start(config).await.unwrap_err().to_string();
    let expected = if rustix::process::geteuid().is_root() {
        "useradd"
    } else {
        "only a node that runs as root"
    };
    assert!(error.contains(expected), "{error}");
}
