//! Real processes on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use provisioner::{Error, INSTANCE_VARIABLE, LaunchRequest, LocalInstance, LocalProcess};

const GRACE: Duration = Duration::from_secs(5);

fn shell(directory: &Path) -> LocalProcess {
    let state = directory.join("state");
    LocalProcess::new(PathBuf::from("/bin/sh"), state).expect("a fresh directory opens")
}

fn script(directory: &Path, token: &str, text: &str) -> LaunchRequest {
    LaunchRequest {
        client_token: token.to_owned(),
        arguments: vec!["-c".to_owned(), text.to_owned()],
        variables: vec![("GREETING".to_owned(), "hello".to_owned())],
        log_file: directory.join(format!("{token}.log")),
    }
}

/// Looks again and again until it is so.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let mut left = 1_000;
    while !is_so() {
        left -= 1;
        assert!(left > 0, "not within 10 s: {what}");
        looks.tick().await;
    }
}

async fn line_in(log: &Path, line: &str) {
    let has_it = || {
        let text = fs::read_to_string(log).unwrap_or_default();
        text.lines().any(|found| found == line)
    };
    eventually(line, has_it).await;
}

fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_name, rest)| rest);
    state.is_some_and(|rest| !rest.starts_with('Z'))
}

fn pid_in(file: &Path) -> u32 {
    let text = fs::read_to_string(file).expect("the script wrote it");
    text.trim().parse().expect("it is a process id")
}

async fn only(local: &LocalProcess) -> LocalInstance {
    let list = local.list().await.expect("the list is readable");
    assert_eq!(list.len(), 1, "{list:?}");
    list.into_iter().next().expect("there is one")
}

#[tokio::test]
async fn launched_process_has_its_arguments_variables_and_log() {
    let directory = tempfile::tempdir().unwrap();
    let local = shell(directory.path());
    let text = format!("echo $GREETING; echo ${INSTANCE_VARIABLE} >&2; exit 3");
    let request = script(directory.path(), "one", &text);
    let launched = local.launch(request.clone()).await.unwrap();
    assert!(launched.id.ends_with("-one"), "{}", launched.id);
    line_in(&request.log_file, "hello").await;
    line_in(&request.log_file, &launched.id).await;
    let pid = launched.pid;
    eventually("it ends", || !runs(pid)).await;
    let ended = only(&local).await;
    assert_eq!((ended.is_running, ended.exit_code), (false, Some(3)));
}

#[tokio::test]
async fn same_token_launches_once() {
    let directory = tempfile::tempdir().unwrap();
    let local = shell(directory.path());
    local.kill_on_drop(true);
    let request = script(directory.path(), "one", "echo started; exec sleep 1000");
    let mut launches = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (local, request) = (local.clone(), request.clone());
        launches.spawn(async move { local.launch(request).await });
    }
    let launched: Vec<_> = launches.join_all().await;
    let first = launched[0].as_ref().unwrap();
    assert!(launched.iter().all(|l| l.as_ref().unwrap() == first));
    line_in(&request.log_file, "started").await;
    assert_eq!(fs::read_to_string(&request.log_file).unwrap(), "started\n");
    let other = script(directory.path(), "one", "true");
    let refused = local.launch(other).await;
    assert!(matches!(refused, Err(Error::TokenReused { .. })));
    // Also after it has ended.
    local.kill(&first.id).await.unwrap();
    let again = local.launch(request).await.unwrap();
    assert_eq!((again.pid, again.is_running), (first.pid, false));
    assert_eq!(again.exit_code, Some(128 + 9));
}

#[tokio::test]
async fn bad_token_missing_program_and_unknown_instance_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let local = shell(directory.path());
    for token in ["", "../x", "UP", &"x".repeat(65)] {
        let request = script(directory.path(), token, "true");
        let refused = local.launch(request).await;
        assert!(matches!(refused, Err(Error::Token { .. })), "{token}");
    }
    let unknown = local.terminate("local-none", GRACE).await;
    assert!(matches!(unknown, Err(Error::UnknownInstance { .. })));
    let missing = LocalProcess::new("/none/such".into(), directory.path().join("other")).unwrap();
    let error = missing
        .launch(script(directory.path(), "one", "true"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/none/such"), "{error}");
    assert!(
        missing.list().await.unwrap().is_empty(),
        "nothing is remembered"
    );
}

#[tokio::test]
async fn terminate_asks_first_and_kills_after_the_grace() {
    let directory = tempfile::tempdir().unwrap();
    let local = shell(directory.path());
    local.kill_on_drop(true);
    let polite = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.01; done";
    for (token, text) in [("polite", polite), ("stubborn", stubborn)] {
        let request = script(directory.path(), token, text);
        local.launch(request.clone()).await.unwrap();
        line_in(&request.log_file, "ready").await;
    }
    let list = local.list().await.unwrap();
    let (polite, stubborn) = (&list[0].id, &list[1].id);
    local.terminate(polite, GRACE).await.unwrap();
    let grace = Duration::from_millis(100);
    local.terminate(stubborn, grace).await.unwrap();
    local.terminate(stubborn, grace).await.expect("again");
    let list = local.list().await.unwrap();
    assert_eq!(list[0].exit_code, Some(0));
    assert_eq!(list[1].exit_code, Some(137));
    let said = fs::read_to_string(directory.path().join("polite.log")).unwrap();
    assert!(said.ends_with("bye\n"), "{said}");
}

/// A script that leaves two processes behind: one in its own session, one that has cleared its environment.
fn double_fork(directory: &Path, token: &str) -> LaunchRequest {
    let path = directory.display();
    let left = format!(
        "(setsid sh -c 'echo $$ > {path}/session; sleep 1000' &) ; \
         (setsid sh -c 'env -i sleep 1000 & echo $! > {path}/cleared; wait' &) ; \
         while [ ! -s {path}/session ] || [ ! -s {path}/cleared ]; do sleep 0.01; done; \
         echo ready; exec sleep 1000"
    );
    script(directory, token, &left)
}

#[tokio::test]
async fn kill_ends_the_process_alone_and_kill_all_the_machine() {
    let directory = tempfile::tempdir().unwrap();
    let local = shell(directory.path());
    let request = double_fork(directory.path(), "one");
    let launched = local.launch(request.clone()).await.unwrap();
    line_in(&request.log_file, "ready").await;
    let session = pid_in(&directory.path().join("session"));
    let cleared = pid_in(&directory.path().join("cleared"));
    local.kill(&launched.id).await.unwrap();
    assert!(!runs(launched.pid));
    assert!(runs(session) && runs(cleared), "a crash leaves them");
    local.kill_all(&launched.id).await.unwrap();
    assert!(!runs(session) && !runs(cleared));
}

#[tokio::test]
async fn dropped_provider_ends_everything_if_asked() {
    let directory = tempfile::tempdir().unwrap();
    let local = shell(directory.path());
    local.kill_on_drop(true);
    let request = double_fork(directory.path(), "one");
    let launched = local.launch(request.clone()).await.unwrap();
    line_in(&request.log_file, "ready").await;
    drop(local);
    let session = pid_in(&directory.path().join("session"));
    let cleared = pid_in(&directory.path().join("cleared"));
    assert!(!runs(launched.pid) && !runs(session) && !runs(cleared));
}

#[tokio::test]
async fn restarted_provider_goes_on_with_what_runs() {
    let directory = tempfile::tempdir().unwrap();
    let first = shell(directory.path());
    let request = script(directory.path(), "one", "exec sleep 1000");
    let launched = first.launch(request.clone()).await.unwrap();
    let refused = LocalProcess::new("/bin/sh".into(), directory.path().join("state"));
    assert!(matches!(refused, Err(Error::InUse { .. })));
    drop(first);
    assert!(runs(launched.pid), "it was not asked to end it");

    let again = shell(directory.path());
    assert_eq!(only(&again).await, launched);
    let repeated = again.launch(request).await.unwrap();
    assert_eq!(repeated.pid, launched.pid);
    again.terminate(&launched.id, GRACE).await.unwrap();
    assert!(!runs(launched.pid));
    assert!(!only(&again).await.is_running);
}

#[tokio::test]
async fn launch_cut_off_before_its_record_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let first = shell(directory.path());
    let request = script(directory.path(), "one", "exec sleep 1000");
    let launched = first.launch(request.clone()).await.unwrap();
    drop(first);
    // What is on the disk between the intent and the start: one that did start, one that did not.
    let state = directory.path().join("state/instances.json");
    let text = fs::read_to_string(&state).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["content"]["instances"][0]["process"] = serde_json::Value::Null;
    let mut never = json["content"]["instances"][0].clone();
    never["id"] = "local-never".into();
    never["client_token"] = "never".into();
    json["content"]["instances"]
        .as_array_mut()
        .unwrap()
        .push(never);
    fs::write(&state, json.to_string()).unwrap();

    let again = shell(directory.path());
    again.kill_on_drop(true);
    assert_eq!(only(&again).await, launched);
}

#[tokio::test]
async fn number_of_an_ended_process_is_not_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let first = shell(directory.path());
    let request = script(directory.path(), "one", "exec sleep 1000");
    let launched = first.launch(request).await.unwrap();
    first.kill(&launched.id).await.unwrap();
    drop(first);
    // As if the number had been given to this test's process meanwhile.
    let state = directory.path().join("state/instances.json");
    let text = fs::read_to_string(&state).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["content"]["instances"][0]["has_ended"] = false.into();
    json["content"]["instances"][0]["process"]["pid"] = std::process::id().into();
    fs::write(&state, json.to_string()).unwrap();
    let again = shell(directory.path());
    assert!(!only(&again).await.is_running);
    again.terminate(&launched.id, GRACE).await.unwrap();
}

#[tokio::test]
async fn providers_on_one_machine_never_end_each_others_processes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, other) = (shell(a.path()), shell(b.path()));
    other.kill_on_drop(true);
    let request = |directory| script(directory, "same", "exec sleep 1000");
    let ended = one.launch(request(a.path())).await.unwrap();
    let kept = other.launch(request(b.path())).await.unwrap();
    assert_ne!(ended.id, kept.id);
    one.kill_all(&ended.id).await.unwrap();
    assert!(!runs(ended.pid) && runs(kept.pid));
}
