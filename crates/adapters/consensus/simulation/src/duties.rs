//! What a leader does: places, holds and gives up leases, tells nodes what to run, chooses voters. One loop each, as in
//! the node's own loops.

use std::sync::Arc;
use std::time::Duration;

use agent::leases::{LONG_WORK, Leased, lease_length};
use futures::future::join_all;
use membership::{Change, Progress, Replicas};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{ChangeMembers, EmptyNode};
use scheduler::SchedulerConfig;
use state_machine::{ClusterState, Command, Event, ExtendLease, LoseAttempt, Outcome};
use tokio::sync::broadcast::error::RecvError;
use types::{Cause, CauseKind, NodeId, Timestamp};

use crate::names::{name, number};
use crate::network::Request;
use crate::node::Node;
use crate::runtime::Life;
use crate::seen::Seen;

/// Longest sleep when nothing is to be watched.
const IDLE: Duration = Duration::from_secs(30);
/// Pause after a proposal that failed or was refused.
const RETRY: Duration = Duration::from_millis(200);
/// Time between two looks at the voters.
const LOOK: Duration = Duration::from_secs(2);
/// Time for a change of voters.
const CHANGE_DEADLINE: Duration = Duration::from_secs(30);
/// Entries that a replica may lack to get a vote; a part of a snapshot's worth, so that being behind happens.
const CAUGHT_UP: u64 = 50;
/// Time for a push of a wanted set.
const PUSH_DEADLINE: Duration = Duration::from_secs(2);

/// Starts all loops.
pub(crate) fn run(node: &Arc<Node>, life: &Life) {
    life.spawn(schedule(Arc::clone(node)));
    life.spawn(watch_leases(Arc::clone(node)));
    life.spawn(push_wanted(Arc::clone(node), life.clone()));
    life.spawn(keep_voters(Arc::clone(node)));
}

async fn schedule(node: Arc<Node>) {
    let mut applied = node.published.applied();
    let mut leadership = node.leadership();
    let mut refused = false;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(RETRY), if refused => {}
            changed = leadership.changed() => if changed.is_err() { return },
            () = node.view_changed.notified() => {}
            changed = applied.changed() => if changed.is_err() { return },
        }
        refused = node.is_leader() && place(&node).await;
    }
}

/// Decides and proposes until nothing more fits; true if something was refused.
async fn place(node: &Node) -> bool {
    let config = SchedulerConfig::default();
    loop {
        let state = node.state();
        if state.waiting_count() == 0 {
            return false;
        }
        let placements = scheduler::place_next(&state, &node.view(), node.view_now(), &config);
        let proposals = placements
            .into_iter()
            .map(|placement| node.propose_as_node(Command::PlaceAttempt(placement)));
        let results = join_all(proposals).await;
        let placed =
            |result: &&Result<(u64, Outcome), _>| matches!(result, Ok((_, Outcome::Placed(_))));
        let count = results.iter().filter(placed).count();
        if count == 0 || count < results.len() || !node.is_leader() {
            return count < results.len();
        }
    }
}

async fn watch_leases(node: Arc<Node>) {
    let mut leadership = node.leadership();
    let mut applied = node.published.applied();
    loop {
        let leads = leadership.borrow_and_update().is_self;
        let wait = if leads {
            look_at_leases(&node).await
        } else {
            IDLE
        };
        tokio::select! {
            biased;
            changed = leadership.changed() => if changed.is_err() { return },
            changed = applied.changed(), if leads => if changed.is_err() { return },
            () = node.leases_changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn look_at_leases(node: &Node) -> Duration {
    let extended = lengthen(node).await;
    let (expired, next) = node.with_leases(|leases, now| {
        (
            leases.expired(now),
            leases.next_expiry().map(|end| (end, now)),
        )
    });
    if expired.is_empty() {
        let next = next.map_or(IDLE, |(end, _)| node.world.until(node.number, end));
        return next.max(Duration::from_millis(1)).min(extended);
    }
    for leased in expired {
        give_up(node, leased).await;
    }
    RETRY
}

/// Commits the long lease for attempts that have run long (invariant 11); says when the next one will have.
async fn lengthen(node: &Node) -> Duration {
    let now = node.world.wall(node.number);
    let mut next = IDLE;
    for (experiment, attempt) in node.state().active() {
        let Some(since) = attempt.ranks.iter().find_map(|rank| rank.started_at) else {
            continue;
        };
        let ran = now.since(since);
        let lease_ms = lease_length(&experiment.spec.policy, Some(since), now);
        if lease_ms > attempt.lease_ms {
            let extend = ExtendLease {
                token: attempt.token,
                lease_ms,
                reason: format!("it has run for {ran}"),
            };
            if node
                .propose_as_node(Command::ExtendLease(extend))
                .await
                .is_err()
            {
                next = RETRY;
            }
        } else if ran < LONG_WORK {
            next = next.min(Duration::from_millis(LONG_WORK.0 - ran.0 + 1));
        }
    }
    next
}

async fn give_up(node: &Node, leased: Leased) {
    // Its mirror is asked for the tail first; meanwhile the lead may have gone and come back.
    let asking = node.world.range(1..40);
    tokio::time::sleep(Duration::from_millis(asking)).await;
    if !node.with_leases(|leases, now| leases.expired(now).contains(&leased)) {
        return;
    }
    let cause = Cause::new(
        CauseKind::NodeLost,
        vec!["its lease was not renewed in time".to_owned()],
    );
    let (token, rank) = leased;
    let lost = LoseAttempt {
        token,
        rank,
        cause,
        segments: Vec::new(),
    };
    node.world.see(&Seen::GivenUp { token });
    node.world.with(|inner| inner.counts.given_up += 1);
    if node
        .propose_as_node(Command::LoseAttempt(lost))
        .await
        .is_err()
    {
        tokio::time::sleep(RETRY).await;
    }
}

async fn push_wanted(node: Arc<Node>, life: Life) {
    let mut events = node.published.subscribe();
    loop {
        let nodes = match events.recv().await {
            Ok(_) if !node.is_leader() => continue,
            Ok(event) => concerned(&node.state(), &event),
            Err(RecvError::Lagged(_)) => node
                .state()
                .nodes()
                .map(|record| record.node.clone())
                .collect(),
            Err(RecvError::Closed) => return,
        };
        for target in nodes.iter().filter_map(number) {
            let node = Arc::clone(&node);
            life.spawn(async move { push(&node, target).await });
        }
    }
}

fn concerned(state: &ClusterState, event: &Event) -> Vec<NodeId> {
    let token = match event {
        Event::AttemptPlaced { nodes, .. } => return nodes.clone(),
        Event::AttemptChanged(token) | Event::RankEnded(token) | Event::AttemptEnded(token) => {
            token
        }
        _ => return Vec::new(),
    };
    let experiment = state.experiment(token.experiment);
    let attempts = experiment
        .into_iter()
        .flat_map(|experiment| &experiment.attempts);
    attempts
        .filter(|attempt| attempt.token == *token)
        .flat_map(|attempt| attempt.ranks.iter().map(|rank| rank.placement.node.clone()))
        .collect()
}

/// Sends the newest set; tried again once, then the node's own asking has to do.
async fn push(node: &Arc<Node>, target: u64) {
    for _ in 0..2 {
        let wanted = node.state().wanted_set(&name(target));
        if target == node.number {
            return node.take_wanted(wanted, false);
        }
        let message = Request::Wanted(Box::new(wanted));
        let sent = node.world.call(node.number, target, message, PUSH_DEADLINE);
        if sent.await.is_ok() {
            return;
        }
    }
}

async fn keep_voters(node: Arc<Node>) {
    let mut leadership = node.leadership();
    let mut watching = (0, Timestamp(0));
    loop {
        let now = *leadership.borrow_and_update();
        if now.is_self {
            if watching.0 != now.term {
                watching = (now.term, node.view_now());
            }
            choose_voters(&node, watching.1).await;
            tell_released(&node);
        }
        tokio::select! {
            biased;
            changed = leadership.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// One step towards what the rule says, and no other before it is committed or given up.
async fn choose_voters(node: &Node, watching_since: Timestamp) {
    let state = node.state();
    if state.node(&name(node.number)).is_none() {
        return; // The first entry of the cluster is not written yet.
    }
    let members = membership::candidates(&state, &node.view(), node.view_now(), watching_since);
    let now = Replicas {
        voters: node.raft.voter_ids().map(name).collect(),
        learners: node.raft.learner_ids().map(name).collect(),
        leader: Some(name(node.number)),
    };
    let plan = membership::choose_voters(&members, &now);
    let Some(change) = membership::next_change(&members, &plan, &now, &progress(node)) else {
        return;
    };
    node.world
        .note(|| format!("n{} wants {change:?}", node.number), &[20]);
    let making = make(node, change);
    if matches!(
        tokio::time::timeout(CHANGE_DEADLINE, making).await,
        Ok(true)
    ) {
        node.world
            .with(|inner| inner.counts.membership_changes += 1);
    }
}

/// Tells members that hold no replica so, again and again: one message may be lost, and a restart forgets.
fn tell_released(node: &Arc<Node>) {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = &metrics.membership_config;
    let Some(at) = membership.log_id().as_ref().map(|id| id.index) else {
        return;
    };
    for member in
        (0..node.world.size()).filter(|member| membership.membership().get_node(member).is_none())
    {
        let (world, from) = (Arc::clone(&node.world), node.number);
        crate::runtime::spawn(async move {
            // A lost one is said again.
            drop(
                world
                    .call(from, member, Request::Released(at), PUSH_DEADLINE)
                    .await,
            );
        });
    }
}

fn progress(node: &Node) -> Progress {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let last = metrics.last_log_index.unwrap_or(0);
    let replicas = metrics.replication.iter().flatten();
    let near = replicas.filter(|(_, matched)| {
        matched.as_ref().map_or(0, |matched| matched.index) + CAUGHT_UP >= last
    });
    let configs = metrics.membership_config.membership().get_joint_config();
    Progress {
        is_joint: configs.len() > 1,
        caught_up: near
            .map(|(replica, _)| name(*replica))
            .chain([name(node.number)])
            .collect(),
    }
}

async fn make(node: &Node, change: Change) -> bool {
    let raft = &node.raft;
    match change {
        Change::AddLearner(new) => {
            let Some(new) = number(&new) else {
                return false;
            };
            raft.add_learner(new, EmptyNode::new(), false).await.is_ok()
        }
        Change::SetVoters(voters) => {
            let voters = voters.iter().filter_map(number).collect();
            let change = ChangeMembers::ReplaceAllVoters(voters);
            raft.change_membership(change, true).await.is_ok()
        }
        Change::HandOver(heir) => {
            let Some(heir) = number(&heir) else {
                return false;
            };
            let trigger = raft.trigger();
            trigger.transfer_leader(heir).await.is_ok()
        }
        Change::Release(spare) => {
            let spare = number(&spare).into_iter().collect();
            let change = ChangeMembers::RemoveNodes(spare);
            raft.change_membership(change, false).await.is_ok()
        }
    }
}
