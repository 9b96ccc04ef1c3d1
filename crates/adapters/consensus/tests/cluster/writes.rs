use std::time::Duration;

use consensus::{Error, ProposeError, open};

use crate::harness::{
    Cluster, PATIENCE, any_leads, entry, has_queue, leads, node, nodes, propose, propose_many,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lone_node_founds_writes_and_finds_it_all_after_a_restart() {
    let cluster = Cluster::new();
    let handle = cluster.start(0).await;
    assert!(!handle.is_initialized().await.unwrap());
    handle.initialize().await.unwrap();
    assert!(matches!(
        handle.initialize().await,
        Err(Error::AlreadyInitialized)
    ));
    leads(&handle).await;
    let committed = propose(&handle, "first").await.unwrap();
    assert!(
        has_queue(&handle, "first"),
        "who is answered finds the write in the state"
    );
    assert_eq!(handle.state().applied(), committed.index);
    cluster.stop(0).await;

    let handle = cluster.start(0).await;
    assert!(handle.is_initialized().await.unwrap());
    assert!(
        has_queue(&handle, "first"),
        "the state is there before anything is served"
    );
    handle.read_index(PATIENCE).await.unwrap();
    propose(&handle, "second").await.unwrap();
    cluster.stop(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory_in_use_is_refused_by_name_and_pid() {
    let cluster = Cluster::new();
    let _first = cluster.start(0).await;
    let error = open(cluster.config(&node(0)), cluster.line(&node(0)))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    assert!(
        text.contains(cluster.directory(&node(0)).to_str().unwrap()),
        "{text}"
    );
    cluster.stop(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_refuses_writes_and_names_the_leader() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    propose(&handles[0], "queue").await.unwrap();
    let refused = handles[1].propose(entry("other")).await.unwrap_err();
    assert_eq!(
        refused,
        ProposeError::NotLeader {
            leader: Some(node(0))
        }
    );
    assert_eq!(handles[0].voters(), nodes(0..3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_leader_stops() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    let mut acknowledged = Vec::new();
    for i in 0..50 {
        let name = format!("queue-{i}");
        propose(&handles[0], &name).await.unwrap();
        acknowledged.push(name);
    }
    cluster.stop(0).await;
    let rest = [&handles[1], &handles[2]];
    let leader = rest[any_leads(&rest).await];
    propose(leader, "after").await.unwrap();
    for name in &acknowledged {
        assert!(has_queue(leader, name), "{name} was acknowledged");
    }
    let back = cluster.start(0).await;
    back.read_index(PATIENCE).await.unwrap();
    assert!(has_queue(&back, "after"));
    assert_eq!(back.state().state_hash(), leader.state().state_hash());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_without_majority_stops_leading_and_refuses_writes() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    leads(&handles[0]).await;
    cluster.board.cut(&node(0));
    let mut leader = handles[0].leader();
    tokio::time::timeout(PATIENCE, leader.wait_for(|now| !now.is_self))
        .await
        .unwrap()
        .unwrap();
    let refused = handles[0].propose(entry("lost")).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ProposeError::Unavailable { .. } | ProposeError::NotLeader { .. }
        ),
        "{refused}"
    );
    let rest = [&handles[1], &handles[2]];
    let other = rest[any_leads(&rest).await];
    propose(other, "kept").await.unwrap();

    cluster.board.mend(&node(0));
    let committed = other.read_index(PATIENCE).await.unwrap();
    handles[0].wait_applied(committed, PATIENCE).await.unwrap();
    assert!(has_queue(&handles[0], "kept") && !has_queue(&handles[0], "lost"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_was_cut_off_does_not_disturb_the_leader_when_it_returns() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    leads(&handles[0]).await;
    let term = handles[0].metrics().term;
    cluster.board.cut(&node(2));
    let mut leader = handles[2].leader();
    // Several election timeouts: without pre-votes its term would grow with each.
    let silence = tokio::time::timeout(
        Duration::from_secs(3),
        leader.wait_for(|now| now.term > term),
    )
    .await;
    assert!(silence.is_err(), "a pre-vote must come before a new term");
    cluster.board.mend(&node(2));
    let committed = propose(&handles[0], "after").await.unwrap();
    handles[2]
        .wait_applied(committed.index, PATIENCE)
        .await
        .unwrap();
    assert_eq!(handles[0].metrics().term, term);
    assert!(handles[0].leader().borrow().is_self);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request_and_members_leave() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    handles[0].transfer_leader(node(1)).await.unwrap();
    leads(&handles[1]).await;
    propose(&handles[1], "moved").await.unwrap();
    assert!(
        handles[0].add_learner(node(3)).await.is_err(),
        "only the leader changes members"
    );
    handles[1].remove(node(0)).await.unwrap();
    assert_eq!(handles[1].voters(), nodes(1..3));
    handles[1].set_voters(nodes([1]), true).await.unwrap();
    assert_eq!(
        (handles[1].voters(), handles[1].learners()),
        (nodes([1]), nodes([2]))
    );
    handles[1].remove(node(2)).await.unwrap();
    assert!(handles[1].learners().is_empty());
    propose(&handles[1], "alone").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_true_in_one_term_is_not_written_in_a_later_one_of_the_same_leader() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    let term = handles[0].leader().borrow().term;
    let write = |name: &str, term| {
        let (handle, entry) = (handles[0].clone(), entry(name));
        async move { handle.propose_in_term(entry, term).await }
    };
    let committed = write("in-time", term).await.unwrap();
    assert_eq!(committed.outcome, state_machine::Outcome::Done);

    handles[0].transfer_leader(node(1)).await.unwrap();
    leads(&handles[1]).await;
    let refused = write("without-lead", term).await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { .. })),
        "{refused:?}"
    );
    handles[1].transfer_leader(node(0)).await.unwrap();
    leads(&handles[0]).await;
    propose(&handles[0], "it-leads-again").await.unwrap();
    let refused = write("too-late", term).await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { .. })),
        "{refused:?}"
    );
    for name in ["without-lead", "too-late"] {
        assert!(!has_queue(&handles[0], name), "{name} was written");
    }
    let term = handles[0].leader().borrow().term;
    write("in-time-again", term).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_writes_share_commits_on_every_replica() {
    let cluster = Cluster::new();
    let handles = cluster.of(3).await;
    let before: Vec<_> = handles
        .iter()
        .map(|handle| handle.metrics().group_commits)
        .collect();
    propose_many(&handles[0], 2_000, 64).await;
    for (handle, before) in handles.iter().zip(before) {
        let commits = handle.metrics().group_commits - before;
        assert!(commits < 1_000, "2,000 writes took {commits} commits");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_the_applied_index_follow_the_log() {
    let cluster = Cluster::new();
    let handles = cluster.of(2).await;
    let mut events = handles[1].subscribe();
    let committed = propose(&handles[0], "seen").await.unwrap();
    let (index, event) = tokio::time::timeout(PATIENCE, events.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (index, event),
        (committed.index, state_machine::Event::QueuesChanged)
    );
    assert!(*handles[1].applied().borrow() >= committed.index);
}
