//! Stores that are not what they were: old copies put back, second copies, lost files. None rejoins under its name.

use std::path::Path;
use std::time::Duration;

use consensus::{Error, Handle, open};

use crate::harness::{
    Cluster, PATIENCE, any_leads, copy_directory, has_queue, leads, node, propose, propose_many,
};

/// Waits until the replica gives up, and says why it did.
async fn gives_up(handle: &Handle) -> String {
    let mut failed = handle.failed();
    let why = tokio::time::timeout(PATIENCE, failed.wait_for(Option::is_some))
        .await
        .expect("the copy must be refused")
        .unwrap()
        .clone();
    why.unwrap()
}

/// What the replica itself kept of the time when it was copied.
#[derive(Clone, Copy, PartialEq)]
enum Copied {
    /// While it was stopped: its generation was used since.
    Stopped,
    /// While it ran, as a snapshot of a virtual machine is: its generation counts on from there.
    Running,
}

/// The replica `2` of three comes back with a copy of everything it had a while ago.
async fn old_copy_comes_back(copied: Copied) {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    propose(&handles[0], "early").await.unwrap();
    let directory = cluster.directory(&node(2));
    let copy = tempfile::tempdir().unwrap();
    if copied == Copied::Running {
        handles[2].read_index(PATIENCE).await.unwrap();
        copy_directory(&directory, copy.path());
    }
    cluster.stop(2).await;
    if copied == Copied::Stopped {
        copy_directory(&directory, copy.path());
        let third = cluster.start(2).await;
        let last = propose(&handles[0], "between").await.unwrap();
        third.wait_applied(last.index, PATIENCE).await.unwrap();
        cluster.stop(2).await;
    } else {
        let third = cluster.start(2).await;
        propose_many(&handles[0], 200, 16).await;
        let last = propose(&handles[0], "later").await.unwrap();
        third.wait_applied(last.index, PATIENCE).await.unwrap();
        cluster.stop(2).await;
    }
    std::fs::remove_dir_all(&directory).unwrap();
    copy_directory(copy.path(), &directory);

    let back = cluster.start(2).await;
    let why = gives_up(&back).await;
    assert!(
        why.contains("older copy") && why.contains("--rejoin") && why.contains("restore"),
        "{why}"
    );
    // Nobody else is harmed, and nothing is lost.
    cluster.stop(2).await;
    propose(&handles[0], "after").await.unwrap();
    assert!(has_queue(&handles[0], "early"));
    assert_eq!(*handles[0].failed().borrow(), None);
    assert_eq!(*handles[1].failed().borrow(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_stopped_store_is_refused_by_whoever_heard_its_successor() {
    old_copy_comes_back(Copied::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolled_back_machine_is_refused_and_the_leader_lives_on() {
    old_copy_comes_back(Copied::Running).await;
}

/// The copy says that it acknowledged less than its leader knows: no memory of generations is needed to see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_went_back_under_a_leader_in_office_stops_the_follower_not_the_leader() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    propose(&handles[0], "early").await.unwrap();
    handles[2].read_index(PATIENCE).await.unwrap();
    let directory = cluster.directory(&node(2));
    let copy = tempfile::tempdir().unwrap();
    copy_directory(&directory, copy.path());
    propose_many(&handles[0], 200, 16).await;
    let last = propose(&handles[0], "later").await.unwrap();
    handles[2].wait_applied(last.index, PATIENCE).await.unwrap();
    cluster.stop(2).await;
    let generation = std::fs::read(directory.join("generation")).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    copy_directory(copy.path(), &directory);
    // A forger would do this, or a copy of all but one file: the generation is the newest, the log is not.
    std::fs::write(directory.join("generation"), generation).unwrap();
    let back = cluster.start(2).await;
    let why = gives_up(&back).await;
    assert!(
        why.contains("acknowledged entries up to") && why.contains("--rejoin"),
        "{why}"
    );
    cluster.stop(2).await;
    propose(&handles[0], "after").await.unwrap();
    assert!(handles[0].leader().borrow().is_self);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_copies_of_one_store_do_not_both_take_part() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    propose(&handles[0], "early").await.unwrap();
    cluster.stop(2).await;
    let image = tempfile::tempdir().unwrap();
    copy_directory(&cluster.directory(&node(2)), image.path());
    let original = cluster.start(2).await;
    let last = propose(&handles[0], "later").await.unwrap();
    original.wait_applied(last.index, PATIENCE).await.unwrap();

    // The cloned image is started on another machine, under the same key; its messages reach the others.
    let mut config = cluster.config(&node(2));
    config.data_directory = image.path().to_owned();
    let clone = open(config, cluster.line(&node(2))).await.unwrap();
    let asked = clone.read_index(Duration::from_secs(1)).await;
    assert!(asked.is_err(), "{asked:?}");
    let why = gives_up(&clone).await;
    assert!(why.contains("second copy"), "{why}");
    clone.shutdown().await;
    assert_eq!(*original.failed().borrow(), None);
    let last = propose(&handles[0], "after").await.unwrap();
    original.wait_applied(last.index, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_among_replicas_that_all_restart_gives_no_vote_and_nothing_is_lost() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    propose_many(&handles[0], 50, 8).await;
    let last = propose(&handles[0], "acknowledged").await.unwrap();
    handles[2].wait_applied(last.index, PATIENCE).await.unwrap();
    // Only replica 2 is set back; the others restart with what they have, at the same moment.
    let directory = cluster.directory(&node(2));
    let copy = tempfile::tempdir().unwrap();
    cluster.stop(2).await;
    copy_directory(&directory, copy.path());
    let third = cluster.start(2).await;
    let last = propose(&handles[0], "since").await.unwrap();
    third.wait_applied(last.index, PATIENCE).await.unwrap();
    for number in 0..3 {
        cluster.stop(number).await;
    }
    std::fs::remove_dir_all(&directory).unwrap();
    copy_directory(copy.path(), &directory);
    let old = cluster.start(2).await;
    let first = cluster.start(0).await;
    let second = cluster.start(1).await;
    let which = any_leads(&[&first, &second]).await;
    let leader = [&first, &second][which];
    leader.read_index(PATIENCE).await.unwrap();
    assert!(has_queue(leader, "since") && has_queue(leader, "acknowledged"));
    // Replica 1 never heard the opening that is gone (only leaders and candidates talk to all): under it the copy is a
    // follower that is behind, which it makes whole; replica 0 refuses it. Decision 012 says what that leaves open.
    tokio::select! {
        why = gives_up(&old) => assert!(why.contains("older copy"), "{why}"),
        whole = old.wait_applied(last.index, PATIENCE) => {
            whole.unwrap();
            assert!(has_queue(&old, "since"));
        }
    }
}

fn newest_snapshot(directory: &Path) -> std::path::PathBuf {
    let mut names: Vec<_> = std::fs::read_dir(directory.join("snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    names.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_snapshot_is_not_made_up_for_by_an_older_one_or_none() {
    let mut cluster = Cluster::new();
    cluster.snapshot_every_entries = 300;
    cluster.keep_log_entries = 10;
    let handle = cluster.start(0).await;
    handle.initialize().await.unwrap();
    leads(&handle).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while handle.metrics().purged.0 < 900 {
        propose_many(&handle, 100, 16).await;
        assert!(tokio::time::Instant::now() < deadline, "nothing is purged");
    }
    cluster.stop(0).await;
    let directory = cluster.directory(&node(0));
    for _ in 0..2 {
        std::fs::remove_file(newest_snapshot(&directory)).unwrap();
        let refused = open(cluster.config(&node(0)), cluster.line(&node(0))).await;
        let Err(error) = refused else {
            // The older one may reach far enough; then the next removal must be noticed.
            refused.unwrap().shutdown().await;
            continue;
        };
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("snapshot") && text.contains("log begins after"),
            "{text}"
        );
        return;
    }
    panic!("a store without any snapshot was opened");
}
