//! Members that keep no link with each other: they connect for a call and part when nobody uses the link.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use network::{CallError, Kept};
use types::NodeId;

use super::{DEADLINE, Node, PATIENCE, Seen, admit, node};

/// Unused for so long a link is closed at the next look, every two seconds.
const IDLE: Duration = Duration::from_secs(1);

/// Two workers that keep links with a replica alone, and the replica, which keeps one with each.
async fn two_workers_and_a_replica(idle: Duration) -> (Node, Node, Node) {
    let (mut a, mut b, r) = (node().await, node().await, node().await);
    let nodes = BTreeSet::from([r.id().clone()]);
    for worker in [&a, &b] {
        let nodes = nodes.clone();
        worker.handle.keep_links(Kept::Only { nodes, idle }).await;
    }
    admit(1, &[&a, &b, &r]).await;
    for worker in [&mut a, &mut b] {
        worker.sees(&Seen::Up(r.id().clone())).await;
    }
    (a, b, r)
}

fn is_linked(from: &Node, to: &NodeId) -> bool {
    let peers = from.handle.peers();
    peers.iter().any(|peer| peer.node == *to && peer.connected)
}

#[tokio::test]
async fn workers_connect_for_a_call_part_after_it_and_stay_with_their_replica() {
    let (mut a, mut b, mut r) = two_workers_and_a_replica(IDLE).await;
    let (a_id, b_id, r_id) = (a.id().clone(), b.id().clone(), r.id().clone());
    // Twice, each way: the second time the first link has come and gone.
    for _ in 0..2 {
        assert!(
            !is_linked(&a, &b_id) && !is_linked(&b, &a_id),
            "no link at rest"
        );
        assert_eq!(
            a.rpc(&b, "hello").await.expect("connects for it"),
            "rpc:hello"
        );
        a.sees(&Seen::Down(b_id.clone())).await;
        b.sees(&Seen::Down(a_id.clone())).await;
        std::mem::swap(&mut a, &mut b);
        assert_eq!(a.rpc(&b, "back").await.expect("connects again"), "rpc:back");
        b.sees(&Seen::Down(a.id().clone())).await;
        a.sees(&Seen::Down(b.id().clone())).await;
        std::mem::swap(&mut a, &mut b);
    }
    // Nobody called the replica all the time, and it called nobody.
    assert!(is_linked(&a, &r_id) && is_linked(&b, &r_id));
    while let Ok(seen) = r.seen.try_recv() {
        assert!(!matches!(seen, Seen::Down(_)), "{seen:?}");
    }
}

#[tokio::test]
async fn a_request_that_waits_and_a_bulk_stream_keep_a_link() {
    let (a, b, mut r) = two_workers_and_a_replica(IDLE).await;
    let mut c = node().await;
    let nodes = BTreeSet::from([r.id().clone()]);
    c.handle.keep_links(Kept::Only { nodes, idle: IDLE }).await;
    admit(2, &[&a, &b, &c, &r]).await;
    r.sees(&Seen::Up(c.id().clone())).await;

    // No call on control: the link is there for the stream alone, made by its side.
    let stream = c.handle.open_bulk_stream(b.id()).await.expect("a stream");
    c.sees(&Seen::Up(b.id().clone())).await;
    // Longer than several looks for unused links.
    let held = a.handle.rpc(b.id(), Bytes::from("never"), DEADLINE).await;
    let error = held.expect_err("it is never answered");
    assert!(matches!(error, CallError::Timeout { .. }), "{error:?}");
    assert!(is_linked(&c, b.id()), "the stream is open");
    drop(stream);
}

#[tokio::test]
async fn a_call_that_begins_while_the_other_end_closes_the_link_is_sent_again_unseen() {
    // Each look of either end finds the link unused, unless a call is on it at that moment.
    let (a, mut b, _r) = two_workers_and_a_replica(Duration::ZERO).await;
    let (a_id, to) = (a.id().clone(), b.id().clone());
    let parted = async {
        for _ in 0..6 {
            b.sees(&Seen::Down(a_id.clone())).await;
        }
    };
    let mut calls = 0_u64;
    let calling = async {
        loop {
            let answer = a.handle.rpc(&to, "hello".into(), DEADLINE).await;
            assert_eq!(answer.expect("every call is answered"), "rpc:hello");
            calls += 1;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, async {
        tokio::select! {
            () = parted => {}
            () = calling => {}
        }
    });
    in_time.await.expect("the link was closed time and again");
    assert!(calls > 6, "{calls} calls");
}
