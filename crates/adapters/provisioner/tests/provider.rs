//! The protocol end to end: a real provider process, and processes that only claim to be one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use provisioner::{
    Error, FailureKind, InstanceState, Launch, Order, Provider, ProviderConfig, start,
};
use tokio::task::JoinHandle;
use types::{Incarnation, LogIndex};

fn order(log_index: u64) -> Order {
    Order {
        incarnation: Incarnation(1),
        log_index: LogIndex(log_index),
    }
}

fn launch(token: &str) -> Launch {
    Launch {
        client_token: token.to_owned(),
        offer: "local".to_owned(),
        arguments: vec!["-c".to_owned(), "exec sleep 1000".to_owned()],
        variables: Vec::new(),
    }
}

fn run(
    directory: &Path,
    program: PathBuf,
    arguments: &[&str],
) -> (Provider, JoinHandle<Result<(), Error>>) {
    let config = ProviderConfig {
        program,
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        variables: Vec::new(),
        orders_file: directory.join("orders.json"),
        deadline: Duration::from_secs(30),
    };
    let (provider, conversation) = start(config).expect("the program starts");
    (provider, tokio::spawn(conversation))
}

fn local(directory: &Path) -> (Provider, JoinHandle<Result<(), Error>>) {
    let state = directory.join("state");
    let state = state.to_str().expect("a temporary path is text");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_provisioner-local"));
    run(directory, program, &["/bin/sh", state])
}

/// Runs a shell as provider that reads a question, runs `line` and waits for another question.
fn liar(directory: &Path, line: &str) -> (Provider, JoinHandle<Result<(), Error>>) {
    let text = format!("echo log >&2\nread question\n{line}\nread question\n");
    run(directory, PathBuf::from("/bin/sh"), &["-c", &text])
}

#[tokio::test]
async fn machine_is_offered_launched_listed_and_terminated() {
    let directory = tempfile::tempdir().unwrap();
    let (provider, conversation) = local(directory.path());
    let offers = provider.offers().await.unwrap();
    assert_eq!(offers.len(), 1);
    assert!(offers[0].cpu_milli >= 1_000 && offers[0].memory_bytes > 0);
    assert!(provider.list().await.unwrap().is_empty());

    let launched = provider.launch(order(1), launch("one")).await.unwrap();
    let repeated = provider.launch(order(2), launch("one")).await.unwrap();
    assert_eq!(launched, repeated);
    assert_eq!(launched.state, InstanceState::Running);
    assert_eq!(provider.list().await.unwrap(), vec![launched.clone()]);

    let unknown = provider.terminate(order(3), "local-none".to_owned()).await;
    let Err(Error::Refused(failure)) = unknown else {
        panic!("{unknown:?}");
    };
    assert_eq!(failure.kind, FailureKind::Unknown);
    let id = launched.id;
    provider.terminate(order(3), id.clone()).await.unwrap();
    provider.terminate(order(3), id).await.unwrap();
    let list = provider.list().await.unwrap();
    assert_eq!(list[0].state, InstanceState::Ended);

    drop(provider);
    conversation.await.unwrap().unwrap();
}

#[tokio::test]
async fn older_order_is_refused_also_by_the_next_provider() {
    let directory = tempfile::tempdir().unwrap();
    let (provider, conversation) = local(directory.path());
    let instance = provider.launch(order(5), launch("one")).await.unwrap();
    let older = provider.terminate(order(4), instance.id.clone()).await;
    assert!(matches!(older, Err(Error::OlderOrder { .. })), "{older:?}");
    drop(provider);
    conversation.await.unwrap().unwrap();

    // The provider process was started again; the instance runs on.
    let (provider, conversation) = local(directory.path());
    assert_eq!(provider.list().await.unwrap(), vec![instance.clone()]);
    let older = provider.launch(order(4), launch("two")).await;
    assert!(matches!(older, Err(Error::OlderOrder { .. })), "{older:?}");
    provider.terminate(order(5), instance.id).await.unwrap();
    assert_eq!(provider.list().await.unwrap().len(), 1, "no second one");
    drop(provider);
    conversation.await.unwrap().unwrap();
}

type Expected = fn(&Error) -> bool;

#[tokio::test]
async fn provider_that_lies_is_dropped_and_the_asker_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let endless = "head -c 3000000 /dev/zero | tr '\\0' x";
    let cases: [(&str, Expected); 5] = [
        ("echo garbage", |e| matches!(e, Error::Answer { .. })),
        (endless, |e| matches!(e, Error::Line(_))),
        ("exit 1", |e| matches!(e, Error::Ended)),
        (
            r#"echo '{"version":9,"id":1,"outcome":{"ok":"terminated"}}'"#,
            |e| matches!(e, Error::ProtocolVersion { found: 9, .. }),
        ),
        (
            r#"echo '{"version":1,"id":1,"outcome":{"ok":{"instances":7}}}'"#,
            |e| matches!(e, Error::Answer { .. }),
        ),
    ];
    for (line, is_expected) in cases {
        let (provider, conversation) = liar(directory.path(), line);
        let asked = provider.list().await;
        assert!(matches!(asked, Err(Error::Ended)), "{line}: {asked:?}");
        let ended = conversation.await.unwrap().unwrap_err();
        assert!(is_expected(&ended), "{line}: {ended:?}");
        let asked = provider.offers().await;
        assert!(matches!(asked, Err(Error::Ended)), "{line}: {asked:?}");
    }
}

#[tokio::test]
async fn answer_to_another_question_and_wrong_kinds_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let wrong = r#"echo '{"version":1,"id":99,"outcome":{"ok":"terminated"}}'
echo '{"version":1,"id":1,"outcome":{"ok":"terminated"},"later_field":true}'"#;
    let (provider, _conversation) = liar(directory.path(), wrong);
    let asked = provider.list().await;
    assert!(matches!(asked, Err(Error::OutOfTurn { call: "list" })));
}

#[tokio::test]
async fn silent_provider_is_given_up_at_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let (provider, conversation) = start(ProviderConfig {
        program: PathBuf::from("/bin/sleep"),
        arguments: vec!["1000".to_owned()],
        variables: Vec::new(),
        orders_file: directory.path().join("orders.json"),
        deadline: Duration::from_millis(200),
    })
    .unwrap();
    let conversation = tokio::spawn(conversation);
    let asked = provider.list().await;
    assert!(matches!(asked, Err(Error::Deadline { call: "list", .. })));
    drop(provider);
    // It does not end when its input does: it is killed.
    conversation.await.unwrap().unwrap();
}
